"""Serializable components: the layers of a pipeline and the modules and distributions they are made of."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from operator import attrgetter
from typing import Any, NamedTuple

import pyro.distributions as dist
from torch import nn

from probmodel.families.gaussian_processes.experts.aggregation import (
    Aggregation,
    bcm,
    generalized_robust_bcm,
    gpoe,
    poe,
    robust_bcm,
)
from probmodel.layers.decisions import Classify, ClassifyJoint, Regress
from probmodel.layers.features import (
    CNN,
    MLP,
    AveragePool,
    Discretize,
    HalfPrecision,
    Identity,
    MaxPool,
    Standardize,
    UpSample,
)
from probmodel.layers.lift import Lifted, generative, scaled_normal
from probmodel.layers.pipeline import Pipeline
from probmodel.layers.representations import DNN, VAE, GaussianProcess, GPMixture, GPProduct, SparseGP, StandardNormal
from probmodel.layers.representations.gaussian_process.gates import (
    DensityGate,
    DirichletGate,
    SoftmaxGate,
    StickBreakingGate,
)
from probmodel.storage.components.boltzmann import BOLTZMANN_COMPONENTS
from probmodel.storage.components.gpytorch import GPYTORCH_COMPONENTS
from probmodel.storage.components.networks import NETWORK_COMPONENTS


class Component(NamedTuple):
    """A class, and how to read the keyword arguments that build an equal one."""

    build: Callable[..., Any]
    settings: Callable[[Any], Mapping[str, Any]]
    kind: type | None = None
    """Where that is not what builds it."""


def _fields(*names: str) -> Callable[[Any], Mapping[str, Any]]:
    return lambda value: {name: attrgetter(name)(value) for name in names}


def _linear(layer: nn.Linear) -> Mapping[str, Any]:
    return {"in_features": layer.in_features, "out_features": layer.out_features, "bias": layer.bias is not None}


def _independent(distribution: dist.Independent) -> Mapping[str, Any]:
    return {
        "base_distribution": distribution.base_dist,
        "reinterpreted_batch_ndims": distribution.reinterpreted_batch_ndims,
    }


def _softmax_gate(gate: SoftmaxGate) -> Mapping[str, Any]:
    return {
        "num_features": gate.weight.shape[1],
        "num_experts": gate.num_experts,
        "features": gate.features,
        "prior_scale": gate.prior_scale,
    }


def _density_gate(gate: DensityGate) -> Mapping[str, Any]:
    return {"num_features": gate.center.shape[1], "num_experts": gate.num_experts}


AGGREGATIONS = (poe, gpoe, bcm, robust_bcm, generalized_robust_bcm)

COMPONENTS: Mapping[str, Component] = {
    "Pipeline": Component(Pipeline, Pipeline.settings),
    "Lifted": Component(Lifted, Lifted.settings),
    "CNN": Component(CNN, CNN.settings),
    "MLP": Component(MLP, MLP.settings),
    "HalfPrecision": Component(HalfPrecision, HalfPrecision.settings),
    "Identity": Component(Identity, Identity.settings),
    "MaxPool": Component(MaxPool, asdict),
    "AveragePool": Component(AveragePool, asdict),
    "UpSample": Component(UpSample, asdict),
    "DNN": Component(DNN, DNN.settings),
    "VAE": Component(VAE, VAE.settings),
    "StandardNormal": Component(StandardNormal, StandardNormal.settings),
    "Classify": Component(Classify, Classify.settings),
    "Regress": Component(Regress, Regress.settings),
    "ClassifyJoint": Component(ClassifyJoint, ClassifyJoint.settings),
    "Discretize": Component(Discretize, Discretize.settings),
    "Standardize": Component(Standardize, Standardize.settings),
    "Linear": Component(nn.Linear, _linear),
    "Independent": Component(dist.Independent, _independent),
    "Normal": Component(dist.Normal, _fields("loc", "scale")),
    "Beta": Component(dist.Beta, _fields("concentration1", "concentration0")),
    "Gamma": Component(dist.Gamma, _fields("concentration", "rate")),
    "Dirichlet": Component(dist.Dirichlet, _fields("concentration")),
    "GaussianProcess": Component(GaussianProcess, GaussianProcess.settings),
    "SparseGP": Component(SparseGP, SparseGP.settings),
    "GPProduct": Component(GPProduct, GPProduct.settings),
    "GPMixture": Component(GPMixture, GPMixture.settings),
    "DirichletGate": Component(DirichletGate, _fields("num_experts", "concentration")),
    "StickBreakingGate": Component(StickBreakingGate, _fields("num_experts", "concentration")),
    "SoftmaxGate": Component(SoftmaxGate, _softmax_gate),
    "DensityGate": Component(DensityGate, _density_gate),
    "TorchIdentity": Component(nn.Identity, lambda _: {}),
    "Aggregation": Component(Aggregation, _fields("join", "rows")),
    **{name: Component(each.build, each.settings, each.kind) for name, each in GPYTORCH_COMPONENTS.items()},
    **{
        build.__name__: Component(build, settings)
        for build, settings in {**NETWORK_COMPONENTS, **BOLTZMANN_COMPONENTS}.items()
    },
}
"""All that a file may name.  Subclasses are not among them: they may do anything."""

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "scaled_normal": scaled_normal,
    "generative": generative,
    **{each.join.__name__: each.join for each in AGGREGATIONS},
    **{each.rows.__name__: each.rows for each in AGGREGATIONS},
}

COMPONENT_NAMES: Mapping[Any, str] = {piece.kind or piece.build: name for name, piece in COMPONENTS.items()}

FUNCTION_NAMES: Mapping[Any, str] = {function: name for name, function in FUNCTIONS.items()}
