"""What Boltzmann machines are made of, as a saved fit names it: a class, and the arguments that build an equal one."""

from collections.abc import Callable, Mapping
from typing import Any

from probmodel.families.boltzmann_machines.discrete_units import BernoulliUnits, CategoricalUnits, CountUnits
from probmodel.families.boltzmann_machines.joined_units import JoinedUnits
from probmodel.families.boltzmann_machines.real_units import ContinuousBernoulliUnits, GaussianUnits
from probmodel.layers.representations.boltzmann.boltzmann_machine import BoltzmannMachine
from probmodel.layers.representations.boltzmann.class_rbm import ClassRBM
from probmodel.layers.representations.boltzmann.deep_boltzmann_machine import DeepBoltzmannMachine
from probmodel.layers.representations.boltzmann.rbm import RBM

BOLTZMANN_COMPONENTS: Mapping[Callable[..., Any], Callable[[Any], Mapping[str, Any]]] = {
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
