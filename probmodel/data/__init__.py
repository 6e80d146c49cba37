"""Arrays → `Dataset` (`pb.data`): load, standardize, split, one-hot, batches.

Data sets: digits, mnist, iris, diabetes, motorcycle; locate finds downloaded files.
Preparation: split, standardize, standardize_images, one_hot, with_one_hot, batches.
Problems whose evidence is known: problems.
"""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.data import problems
    from probmodel.data.digits import digits
    from probmodel.data.locate import locate
    from probmodel.data.mnist import mnist
    from probmodel.data.prepare import batches, one_hot, split, standardize, standardize_images, with_one_hot
    from probmodel.data.tables import diabetes, iris, motorcycle

on_first_use(__name__)

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
    "standardize",
    "standardize_images",
    "with_one_hot",
]
