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
    generalised_robust_bcm,
    gpoe,
    poe,
    robust_bcm,
)
from probmodel.layers.decisions import Classify, ClassifyJoint, Regress
from probmodel.layers.features import (
    CNN,
    MLP,
    AveragePool,
    Discretise,
    HalfPrecision,
    Identity,
    MaxPool,
    Standardise,
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
from probmodel.storage.pieces.boltzmann import BOLTZMANN_PIECES
from probmodel.storage.pieces.gpytorch import PROCESS_PIECES
from probmodel.storage.pieces.networks import NETWORK_PIECES


class Piece(NamedTuple):
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
    return {"num_features": gate.centre.shape[1], "num_experts": gate.num_experts}


AGGREGATIONS = (poe, gpoe, bcm, robust_bcm, generalised_robust_bcm)

PIECES: Mapping[str, Piece] = {
    "Pipeline": Piece(Pipeline, Pipeline.settings),
    "Lifted": Piece(Lifted, Lifted.settings),
    "CNN": Piece(CNN, CNN.settings),
    "MLP": Piece(MLP, MLP.settings),
    "HalfPrecision": Piece(HalfPrecision, HalfPrecision.settings),
    "Identity": Piece(Identity, Identity.settings),
    "MaxPool": Piece(MaxPool, asdict),
    "AveragePool": Piece(AveragePool, asdict),
    "UpSample": Piece(UpSample, asdict),
    "DNN": Piece(DNN, DNN.settings),
    "VAE": Piece(VAE, VAE.settings),
    "StandardNormal": Piece(StandardNormal, StandardNormal.settings),
    "Classify": Piece(Classify, Classify.settings),
    "Regress": Piece(Regress, Regress.settings),
    "ClassifyJoint": Piece(ClassifyJoint, ClassifyJoint.settings),
    "Discretise": Piece(Discretise, Discretise.settings),
    "Standardise": Piece(Standardise, Standardise.settings),
    "Linear": Piece(nn.Linear, _linear),
    "Independent": Piece(dist.Independent, _independent),
    "Normal": Piece(dist.Normal, _fields("loc", "scale")),
    "Beta": Piece(dist.Beta, _fields("concentration1", "concentration0")),
    "Gamma": Piece(dist.Gamma, _fields("concentration", "rate")),
    "Dirichlet": Piece(dist.Dirichlet, _fields("concentration")),
    "GaussianProcess": Piece(GaussianProcess, GaussianProcess.settings),
    "SparseGP": Piece(SparseGP, SparseGP.settings),
    "GPProduct": Piece(GPProduct, GPProduct.settings),
    "GPMixture": Piece(GPMixture, GPMixture.settings),
    "DirichletGate": Piece(DirichletGate, _fields("num_experts", "concentration")),
    "StickBreakingGate": Piece(StickBreakingGate, _fields("num_experts", "concentration")),
    "SoftmaxGate": Piece(SoftmaxGate, _softmax_gate),
    "DensityGate": Piece(DensityGate, _density_gate),
    "TorchIdentity": Piece(nn.Identity, lambda _: {}),
    "Aggregation": Piece(Aggregation, _fields("join", "rows")),
    **{name: Piece(each.build, each.settings, each.kind) for name, each in PROCESS_PIECES.items()},
    **{build.__name__: Piece(build, settings) for build, settings in {**NETWORK_PIECES, **BOLTZMANN_PIECES}.items()},
}
"""All that a file may name.  Subclasses are not among them: they may do anything."""

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "scaled_normal": scaled_normal,
    "generative": generative,
    **{each.join.__name__: each.join for each in AGGREGATIONS},
    **{each.rows.__name__: each.rows for each in AGGREGATIONS},
}

PIECE_NAMES: Mapping[Any, str] = {piece.kind or piece.build: name for name, piece in PIECES.items()}

FUNCTION_NAMES: Mapping[Any, str] = {function: name for name, function in FUNCTIONS.items()}
