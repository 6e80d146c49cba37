"""Boltzmann machines: undirected models, whose log partition function is the evidence room's to find."""

from probmodel.representations.boltzmann.boltzmann_machine import BoltzmannMachine
from probmodel.representations.boltzmann.class_rbm import ClassRBM
from probmodel.representations.boltzmann.deep_boltzmann_machine import DeepBoltzmannMachine
from probmodel.representations.boltzmann.rbm import RBM

__all__ = ["RBM", "BoltzmannMachine", "ClassRBM", "DeepBoltzmannMachine"]
