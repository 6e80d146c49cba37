"""Serializable components of PyTorch and Pyro: layers without `constructor_arguments`, and distributions."""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import pyro.distributions as dist
from torch import nn

from probmodel.storage.components.component import Component


def _attributes(*names: str) -> Callable[[Any], Mapping[str, Any]]:
    return lambda value: {name: attrgetter(name)(value) for name in names}


def _linear(layer: nn.Linear) -> Mapping[str, Any]:
    return {"in_features": layer.in_features, "out_features": layer.out_features, "bias": layer.bias is not None}


def _independent(distribution: dist.Independent) -> Mapping[str, Any]:
    return {
        "base_distribution": distribution.base_dist,
        "reinterpreted_batch_ndims": distribution.reinterpreted_batch_ndims,
    }


TORCH_COMPONENTS = {
    "Linear": Component(nn.Linear, _linear),
    "TorchIdentity": Component(nn.Identity, lambda _: {}),
    "Independent": Component(dist.Independent, _independent),
    "Normal": Component(dist.Normal, _attributes("loc", "scale")),
    "Beta": Component(dist.Beta, _attributes("concentration1", "concentration0")),
    "Gamma": Component(dist.Gamma, _attributes("concentration", "rate")),
    "Dirichlet": Component(dist.Dirichlet, _attributes("concentration")),
}
