"""Boltzmann machines (`pb.boltzmann`): undirected models, whose log partition function `pb.evidence` computes.

Machines: RBM, BoltzmannMachine, DeepBoltzmannMachine, ClassRBM; BinaryRBM, the parameters alone.
Units: BernoulliUnits, CategoricalUnits, CountUnits, GaussianUnits, ContinuousBernoulliUnits, JoinedUnits.
Learning, for `pb.BoltzmannLearning`: Contrastive, Persistent, Tempered (the negative phase), GradientAscent, Monitor.
"""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.families.boltzmann_machines.binary_rbm import BinaryRBM
    from probmodel.families.boltzmann_machines.discrete_units import BernoulliUnits, CategoricalUnits, CountUnits
    from probmodel.families.boltzmann_machines.joined_units import JoinedUnits
    from probmodel.families.boltzmann_machines.learning.gradient_ascent import GradientAscent
    from probmodel.families.boltzmann_machines.learning.monitor import Monitor
    from probmodel.families.boltzmann_machines.learning.phases import Contrastive, Persistent, Tempered
    from probmodel.families.boltzmann_machines.real_units import ContinuousBernoulliUnits, GaussianUnits
    from probmodel.layers.representations.boltzmann.boltzmann_machine import BoltzmannMachine
    from probmodel.layers.representations.boltzmann.class_rbm import ClassRBM
    from probmodel.layers.representations.boltzmann.deep_boltzmann_machine import DeepBoltzmannMachine
    from probmodel.layers.representations.boltzmann.rbm import RBM

on_first_use(__name__)

__all__ = [
    "BernoulliUnits",
    "BinaryRBM",
    "BoltzmannMachine",
    "CategoricalUnits",
    "ClassRBM",
    "ContinuousBernoulliUnits",
    "Contrastive",
    "CountUnits",
    "DeepBoltzmannMachine",
    "GaussianUnits",
    "GradientAscent",
    "JoinedUnits",
    "Monitor",
    "Persistent",
    "RBM",
    "Tempered",
]
