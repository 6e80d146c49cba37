"""Directed acyclic graphs with a prior of each conditional distribution, as Pyro models."""

from probmodel.layers.representations.bayesian_network.categorical import CategoricalNetwork
from probmodel.layers.representations.bayesian_network.class_network import ClassNetwork
from probmodel.layers.representations.bayesian_network.class_structures import (
    augmented,
    conditional_information,
    gaussian_conditional_information,
    naive_bayes,
    tree_augmented,
)
from probmodel.layers.representations.bayesian_network.conditional_gaussian import ConditionalGaussianNetwork
from probmodel.layers.representations.bayesian_network.linear_gaussian import LinearGaussianNetwork
from probmodel.layers.representations.bayesian_network.nonlinear import NonlinearNetwork

__all__ = [
    "CategoricalNetwork",
    "ClassNetwork",
    "ConditionalGaussianNetwork",
    "LinearGaussianNetwork",
    "NonlinearNetwork",
    "augmented",
    "conditional_information",
    "gaussian_conditional_information",
    "naive_bayes",
    "tree_augmented",
]
