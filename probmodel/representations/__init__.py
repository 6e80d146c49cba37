"""h → z: one family a file, each with its model and its guide."""

from probmodel.representations.bayesian_network import (
    CategoricalNetwork,
    ClassNetwork,
    ConditionalGaussianNetwork,
    LinearGaussianNetwork,
    NonlinearNetwork,
)
from probmodel.representations.boltzmann import RBM, BoltzmannMachine, ClassRBM, DeepBoltzmannMachine
from probmodel.representations.dnn import DNN
from probmodel.representations.gaussian_process import GaussianProcess
from probmodel.representations.gp_mixture import GPMixture
from probmodel.representations.gp_product import GPProduct
from probmodel.representations.sparse_gp import SparseGP
from probmodel.representations.vae import VAE, StandardNormal

__all__ = [
    "DNN",
    "RBM",
    "VAE",
    "BoltzmannMachine",
    "CategoricalNetwork",
    "ClassNetwork",
    "ClassRBM",
    "ConditionalGaussianNetwork",
    "DeepBoltzmannMachine",
    "GPMixture",
    "GPProduct",
    "GaussianProcess",
    "LinearGaussianNetwork",
    "NonlinearNetwork",
    "SparseGP",
    "StandardNormal",
]
