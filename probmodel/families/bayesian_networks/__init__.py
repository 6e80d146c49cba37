"""Bayesian networks: graphs, scores, structure search, edge posteriors, tables, exact queries, sampling and EM."""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.families.bayesian_networks.bif import read_bif, write_bif
    from probmodel.families.bayesian_networks.categorical_data import CategoricalData
    from probmodel.families.bayesian_networks.dag import DAG, class_hamming_distance, structural_hamming_distance
    from probmodel.families.bayesian_networks.edge_calibration import (
        EdgeReliability,
        SimulatedNetworks,
        edge_reliability,
        random_dag,
    )
    from probmodel.families.bayesian_networks.figure import plot
    from probmodel.families.bayesian_networks.kinetics import (
        KineticPosterior,
        LinearKinetics,
        SteadyStates,
        Trajectories,
    )
    from probmodel.families.bayesian_networks.scores.all_families import family_scores, gaussian_family_scores
    from probmodel.families.bayesian_networks.scores.categorical_scores import (
        BDeu,
        BDs,
        aic,
        bic,
        k2,
        log_likelihood,
        score,
    )
    from probmodel.families.bayesian_networks.scores.family_cache import (
        FamilyCache,
        categorical_families,
        gaussian_families,
    )
    from probmodel.families.bayesian_networks.scores.gaussian_scores import (
        BGe,
        Moments,
        gaussian_bic,
        gaussian_log_likelihood,
        gaussian_score,
        moments,
    )
    from probmodel.families.bayesian_networks.structure.candidates import (
        Candidates,
        all_candidates,
        candidate_parents,
        improved_candidates,
        score_table,
    )
    from probmodel.families.bayesian_networks.structure.exact_posterior import (
        GraphPosterior,
        posterior_over_dags,
        posterior_over_orders,
    )
    from probmodel.families.bayesian_networks.structure.exact_search import BestDAG, best_dag, verify
    from probmodel.families.bayesian_networks.structure.order_mcmc import OrderMCMC, SampledEdges
    from probmodel.families.bayesian_networks.structure.order_search import OrderSearch, SearchResult
    from probmodel.families.bayesian_networks.structure.partition_mcmc import PartitionMCMC
    from probmodel.families.bayesian_networks.tables.dirichlet_tables import (
        maximum_likelihood,
        posterior_mean,
        posterior_networks,
    )
    from probmodel.families.bayesian_networks.tables.discrete_network import DiscreteNetwork, intervene
    from probmodel.families.bayesian_networks.tables.expectation_maximization import EM, EMFit
    from probmodel.families.bayesian_networks.tables.incomplete_rows import impute, log_prob
    from probmodel.families.bayesian_networks.tables.queries import JointTable, Marginals, marginals, query
    from probmodel.families.bayesian_networks.tables.sampling import sample
    from probmodel.protocols.errors import EMWarning, MixingWarning

on_first_use(__name__)

__all__ = [
    "aic",
    "all_candidates",
    "BDeu",
    "BDs",
    "best_dag",
    "BestDAG",
    "BGe",
    "bic",
    "candidate_parents",
    "Candidates",
    "categorical_families",
    "CategoricalData",
    "class_hamming_distance",
    "DAG",
    "DiscreteNetwork",
    "edge_reliability",
    "EdgeReliability",
    "EM",
    "EMFit",
    "EMWarning",
    "family_scores",
    "FamilyCache",
    "gaussian_bic",
    "gaussian_families",
    "gaussian_family_scores",
    "gaussian_log_likelihood",
    "gaussian_score",
    "GraphPosterior",
    "improved_candidates",
    "impute",
    "intervene",
    "JointTable",
    "k2",
    "KineticPosterior",
    "LinearKinetics",
    "log_likelihood",
    "log_prob",
    "Marginals",
    "marginals",
    "maximum_likelihood",
    "MixingWarning",
    "Moments",
    "moments",
    "OrderMCMC",
    "OrderSearch",
    "PartitionMCMC",
    "plot",
    "posterior_mean",
    "posterior_networks",
    "posterior_over_dags",
    "posterior_over_orders",
    "query",
    "random_dag",
    "read_bif",
    "sample",
    "SampledEdges",
    "score",
    "score_table",
    "SearchResult",
    "SimulatedNetworks",
    "SteadyStates",
    "structural_hamming_distance",
    "Trajectories",
    "verify",
    "write_bif",
]
