"""Serializable components of this package, derived from its classes: every public one with `constructor_arguments`."""

from collections.abc import Iterator
from operator import methodcaller
from types import ModuleType

from probmodel import layers
from probmodel.families.gaussian_processes.experts.aggregation import Aggregation
from probmodel.layers import decisions, features, representations
from probmodel.layers.lift import Lifted
from probmodel.layers.representations import bayesian_network, boltzmann, gaussian_process
from probmodel.layers.representations.bayesian_network.families import DirichletTable, FamilyGuide, NormalInverseGamma
from probmodel.protocols.serializable import Serializable
from probmodel.storage.components.component import Component

PUBLIC = (layers, features, decisions, representations, gaussian_process, bayesian_network, boltzmann)
"""Modules whose public classes a saved fit may name."""

PARTS: tuple[type, ...] = (Lifted, Aggregation, DirichletTable, FamilyGuide, NormalInverseGamma)
"""Further classes that layers are made of, which are not public names."""


def _serializable(room: ModuleType) -> Iterator[type]:
    for name in room.__all__:
        value = getattr(room, name)
        if isinstance(value, type) and issubclass(value, Serializable):
            yield value


OWN_COMPONENTS = {
    kind.__name__: Component(kind, methodcaller("constructor_arguments"))
    for kind in (*PARTS, *(kind for room in PUBLIC for kind in _serializable(room)))
}
