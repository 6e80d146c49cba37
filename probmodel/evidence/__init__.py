"""Estimators of the evidence of a fit or target, in nats (`pb.evidence`): one per file; `sandwich` compares them.

For every model: best, sandwich, ais, reverse_ais, smc, bridge, importance, elbo, iwae, laplace, exact, nested,
harmonic, thermodynamic, stepping_stone; proposals for importance: from_draws, from_mode.
Criteria: bic, wbic.
For one family: assignments, assignments_ais, assignments_smc (mixtures of Gaussian processes), inducing_bounds
(Gaussian processes); structures, gaussian_structures (Bayesian networks); log_partition, log_partition_ais,
log_partition_sandwich, log_likelihood, log_odds (Boltzmann machines).
Values and plots: Agreement, Estimate, plot.
"""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.evidence.ais import ais, reverse_ais
    from probmodel.evidence.best import best
    from probmodel.evidence.bridge import bridge
    from probmodel.evidence.by_family.bayesian_networks import gaussian_structures, structures
    from probmodel.evidence.by_family.boltzmann_machines import (
        log_likelihood,
        log_odds,
        log_partition,
        log_partition_ais,
        log_partition_sandwich,
    )
    from probmodel.evidence.by_family.gaussian_processes import inducing_bounds
    from probmodel.evidence.by_family.gp_mixtures import assignments, assignments_ais, assignments_smc
    from probmodel.evidence.criteria.bic import bic
    from probmodel.evidence.criteria.wbic import wbic
    from probmodel.evidence.elbo import elbo
    from probmodel.evidence.exact import exact
    from probmodel.evidence.figure import plot
    from probmodel.evidence.harmonic import harmonic
    from probmodel.evidence.importance import importance
    from probmodel.evidence.iwae import iwae
    from probmodel.evidence.laplace import laplace
    from probmodel.evidence.nested import nested
    from probmodel.evidence.sandwich import sandwich
    from probmodel.evidence.smc import smc
    from probmodel.evidence.thermodynamic import stepping_stone, thermodynamic
    from probmodel.evidence.weighing.proposals import from_draws, from_mode
    from probmodel.protocols.evidence import Agreement, Estimate

on_first_use(__name__)

__all__ = [
    "Agreement",
    "Estimate",
    "ais",
    "assignments",
    "assignments_ais",
    "assignments_smc",
    "best",
    "bic",
    "bridge",
    "elbo",
    "exact",
    "from_draws",
    "from_mode",
    "gaussian_structures",
    "harmonic",
    "importance",
    "inducing_bounds",
    "iwae",
    "laplace",
    "log_likelihood",
    "log_odds",
    "log_partition",
    "log_partition_ais",
    "log_partition_sandwich",
    "nested",
    "plot",
    "reverse_ais",
    "sandwich",
    "smc",
    "stepping_stone",
    "structures",
    "thermodynamic",
    "wbic",
]
