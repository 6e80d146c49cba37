"""What Boltzmann machines are made of, as a saved fit names it: a class, and the arguments that build an equal one."""

from collections.abc import Callable, Mapping
from typing import Any

from probmodel.boltzmann_machines.joined_units import JoinedUnits
from probmodel.boltzmann_machines.units import (
    BernoulliUnits,
    CategoricalUnits,
    ContinuousBernoulliUnits,
    CountUnits,
    GaussianUnits,
)
from probmodel.representations.boltzmann.boltzmann_machine import BoltzmannMachine
from probmodel.representations.boltzmann.class_rbm import ClassRBM
from probmodel.representations.boltzmann.deep_boltzmann_machine import DeepBoltzmannMachine
from probmodel.representations.boltzmann.rbm import RBM

BOLTZMANN_PIECES: Mapping[Callable[..., Any], Callable[[Any], Mapping[str, Any]]] = {
    RBM: RBM.settings,
    BoltzmannMachine: BoltzmannMachine.settings,
    DeepBoltzmannMachine: DeepBoltzmannMachine.settings,
    ClassRBM: ClassRBM.settings,
    BernoulliUnits: BernoulliUnits.settings,
    ContinuousBernoulliUnits: ContinuousBernoulliUnits.settings,
    GaussianUnits: GaussianUnits.settings,
    CategoricalUnits: CategoricalUnits.settings,
    CountUnits: CountUnits.settings,
    JoinedUnits: JoinedUnits.settings,
}
