"""What networks are made of, as a saved fit names it: a class, and how to read the arguments that build an equal one."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.gaussian_scores import BGe
from probmodel.layers.representations.bayesian_network.categorical import CategoricalNetwork
from probmodel.layers.representations.bayesian_network.class_network import ClassNetwork
from probmodel.layers.representations.bayesian_network.conditional_gaussian import ConditionalGaussianNetwork
from probmodel.layers.representations.bayesian_network.families import DirichletTable, FamilyGuide, NormalInverseGamma
from probmodel.layers.representations.bayesian_network.linear_gaussian import LinearGaussianNetwork
from probmodel.layers.representations.bayesian_network.nonlinear import NonlinearNetwork

NETWORK_COMPONENTS: Mapping[Callable[..., Any], Callable[[Any], Mapping[str, Any]]] = {
    CategoricalNetwork: CategoricalNetwork.settings,
    ClassNetwork: ClassNetwork.settings,
    ConditionalGaussianNetwork: ConditionalGaussianNetwork.settings,
    LinearGaussianNetwork: LinearGaussianNetwork.settings,
    NonlinearNetwork: NonlinearNetwork.settings,
    FamilyGuide: FamilyGuide.settings,
    DirichletTable: vars,
    NormalInverseGamma: vars,
    DAG: lambda dag: {"parents": dag.parents},
    BGe: asdict,
}
