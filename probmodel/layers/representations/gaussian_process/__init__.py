"""Gaussian processes (`pb.gp`): representations, gates, aggregation of experts, predictive mixtures and objectives.

Representations: GaussianProcess, SparseGP, GPProduct, GPMixture.
Gates of a mixture: DirichletGate, StickBreakingGate, SoftmaxGate, DensityGate.
Aggregation of experts: poe, gpoe, bcm, robust_bcm, generalized_robust_bcm.
Shards of rows: kmeans_shards, random_shards.
Predictive mixtures: NormalMixture, modes, quantiles.
Objectives of GPyTorch modules: gp_log_marginal, svgp_elbo.
"""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.families.gaussian_processes.exact import gp_log_marginal
    from probmodel.families.gaussian_processes.experts.aggregation import (
        bcm,
        generalized_robust_bcm,
        gpoe,
        poe,
        robust_bcm,
    )
    from probmodel.families.gaussian_processes.experts.shards import kmeans_shards, random_shards
    from probmodel.families.gaussian_processes.sparse import svgp_elbo
    from probmodel.families.normal_mixture import NormalMixture, modes, quantiles
    from probmodel.layers.representations.gaussian_process.exact import GaussianProcess
    from probmodel.layers.representations.gaussian_process.gates import (
        DensityGate,
        DirichletGate,
        SoftmaxGate,
        StickBreakingGate,
    )
    from probmodel.layers.representations.gaussian_process.mixture import GPMixture
    from probmodel.layers.representations.gaussian_process.product import GPProduct
    from probmodel.layers.representations.gaussian_process.sparse import SparseGP

on_first_use(__name__)

__all__ = [
    "DensityGate",
    "DirichletGate",
    "GPMixture",
    "GPProduct",
    "GaussianProcess",
    "NormalMixture",
    "SoftmaxGate",
    "SparseGP",
    "StickBreakingGate",
    "bcm",
    "generalized_robust_bcm",
    "gp_log_marginal",
    "gpoe",
    "kmeans_shards",
    "modes",
    "poe",
    "quantiles",
    "random_shards",
    "robust_bcm",
    "svgp_elbo",
]
