"""Arrays → `Dataset`: load, standardise, split, one-hot, batches."""

from probmodel.data.digits import digits
from probmodel.data.locate import locate
from probmodel.data.mnist import mnist
from probmodel.data.prepare import batches, one_hot, split, standardise, standardise_images, with_one_hot
from probmodel.data.tables import diabetes, iris, motorcycle

__all__ = [
    "batches",
    "diabetes",
    "digits",
    "iris",
    "locate",
    "mnist",
    "motorcycle",
    "one_hot",
    "problems",
    "split",
    "standardise",
    "standardise_images",
    "with_one_hot",
]
