"""Boltzmann machines: undirected models, whose log partition function is the evidence room's to find."""

from probmodel.layers.representations.boltzmann.boltzmann_machine import BoltzmannMachine
from probmodel.layers.representations.boltzmann.class_rbm import ClassRBM
from probmodel.layers.representations.boltzmann.deep_boltzmann_machine import DeepBoltzmannMachine
from probmodel.layers.representations.boltzmann.rbm import RBM

__all__ = ["RBM", "BoltzmannMachine", "ClassRBM", "DeepBoltzmannMachine"]
