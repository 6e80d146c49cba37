"""Table of all classes and functions that a saved fit may name.  Subclasses are excluded, since they may do anything."""

from collections.abc import Callable, Mapping
from typing import Any

from probmodel.families.gaussian_processes.experts.aggregation import (
    bcm,
    generalized_robust_bcm,
    gpoe,
    poe,
    robust_bcm,
)
from probmodel.layers.lift import generative, scaled_normal
from probmodel.storage.components.component import Component
from probmodel.storage.components.gpytorch import GPYTORCH_COMPONENTS
from probmodel.storage.components.own import OWN_COMPONENTS
from probmodel.storage.components.torch import TORCH_COMPONENTS

AGGREGATIONS = (poe, gpoe, bcm, robust_bcm, generalized_robust_bcm)

COMPONENTS: Mapping[str, Component] = {**TORCH_COMPONENTS, **GPYTORCH_COMPONENTS, **OWN_COMPONENTS}

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "scaled_normal": scaled_normal,
    "generative": generative,
    **{each.join.__name__: each.join for each in AGGREGATIONS},
    **{each.rows.__name__: each.rows for each in AGGREGATIONS},
}

COMPONENT_NAMES: Mapping[type, str] = {component.kind: name for name, component in COMPONENTS.items()}

FUNCTION_NAMES: Mapping[Callable[..., Any], str] = {function: name for name, function in FUNCTIONS.items()}
