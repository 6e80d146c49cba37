"""Representations h → z, one family per file, each with its model and its guide."""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.layers.representations.bayesian_network import (
        CategoricalNetwork,
        ClassNetwork,
        ConditionalGaussianNetwork,
        LinearGaussianNetwork,
        NonlinearNetwork,
    )
    from probmodel.layers.representations.boltzmann import RBM, BoltzmannMachine, ClassRBM, DeepBoltzmannMachine
    from probmodel.layers.representations.dnn import DNN
    from probmodel.layers.representations.gaussian_process.exact import GaussianProcess
    from probmodel.layers.representations.gaussian_process.mixture import GPMixture
    from probmodel.layers.representations.gaussian_process.product import GPProduct
    from probmodel.layers.representations.gaussian_process.sparse import SparseGP
    from probmodel.layers.representations.vae import VAE, StandardNormal

on_first_use(__name__)

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
