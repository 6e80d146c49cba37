"""Boltzmann machines: undirected models, whose log partition function is the evidence room's to find."""

from probmodel.representations.boltzmann.rbm import RBM

__all__ = ["RBM"]
