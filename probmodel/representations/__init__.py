"""h → z: one family a file, each with its model and its guide."""

from probmodel.representations.dnn import DNN
from probmodel.representations.vae import VAE, StandardNormal

__all__ = ["DNN", "VAE", "StandardNormal"]
