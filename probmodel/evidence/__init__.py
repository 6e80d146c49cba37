"""Posterior or target → Evidence in nats: one estimator a file, and `sandwich`, which makes them agree."""

from probmodel.boltzmann_machines.binary_rbm import BinaryRBM
from probmodel.evidence.ais import ais, reverse_ais
from probmodel.evidence.assignments import assignments, assignments_ais, assignments_smc
from probmodel.evidence.benchmark import Benchmark, benchmark
from probmodel.evidence.best import best
from probmodel.evidence.bic import bic
from probmodel.evidence.boltzmann import (
    log_likelihood,
    log_odds,
    log_partition,
    log_partition_ais,
    log_partition_sandwich,
)
from probmodel.evidence.bridge import bridge
from probmodel.evidence.elbo import elbo
from probmodel.evidence.exact import exact
from probmodel.evidence.figure import plot
from probmodel.evidence.harmonic import harmonic
from probmodel.evidence.importance import importance
from probmodel.evidence.inducing_bounds import inducing_bounds
from probmodel.evidence.iwae import iwae
from probmodel.evidence.laplace import laplace
from probmodel.evidence.nested import nested
from probmodel.evidence.proposals import from_draws, from_mode
from probmodel.evidence.sandwich import sandwich
from probmodel.evidence.smc import smc
from probmodel.evidence.structures import gaussian_structures, structures
from probmodel.evidence.thermodynamic import stepping_stone, thermodynamic
from probmodel.evidence.wbic import wbic
from probmodel.evidence.weights import EvidenceWarning

__all__ = [
    "BinaryRBM",
    "Benchmark",
    "EvidenceWarning",
    "ais",
    "assignments",
    "assignments_ais",
    "assignments_smc",
    "benchmark",
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
