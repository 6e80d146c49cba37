"""Directed acyclic graphs with a prior of each conditional distribution, as Pyro models."""

from probmodel.representations.bayesian_network.categorical import CategoricalNetwork
from probmodel.representations.bayesian_network.conditional_gaussian import ConditionalGaussianNetwork
from probmodel.representations.bayesian_network.linear_gaussian import LinearGaussianNetwork
from probmodel.representations.bayesian_network.nonlinear import NonlinearNetwork

__all__ = ["CategoricalNetwork", "ConditionalGaussianNetwork", "LinearGaussianNetwork", "NonlinearNetwork"]
