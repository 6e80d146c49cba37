"""Bayesian networks in numbers: graphs, scores, exact search and posteriors of edges; tables, exact queries, sampling, EM."""

from probmodel.bayesian_networks.bif import read_bif, write_bif
from probmodel.bayesian_networks.categories import Categories
from probmodel.bayesian_networks.dag import DAG, class_hamming_distance, structural_hamming_distance
from probmodel.bayesian_networks.dirichlet_tables import maximum_likelihood, posterior_mean, posterior_networks
from probmodel.bayesian_networks.discrete_network import DiscreteNetwork, intervene
from probmodel.bayesian_networks.exact_posterior import GraphPosterior, over_graphs, over_orders
from probmodel.bayesian_networks.exact_search import Optimum, optimum
from probmodel.bayesian_networks.expectation_maximisation import EM, EMFit, EMWarning
from probmodel.bayesian_networks.families import family_scores, gaussian_family_scores
from probmodel.bayesian_networks.gaussian_scores import (
    BGe,
    Moments,
    gaussian_bic,
    gaussian_log_likelihood,
    gaussian_score,
    moments,
)
from probmodel.bayesian_networks.incomplete_rows import impute, log_prob
from probmodel.bayesian_networks.order_mcmc import Candidates, MixingWarning, OrderMCMC, SampledEdges, all_candidates
from probmodel.bayesian_networks.queries import JointTable, Marginals, marginals, query
from probmodel.bayesian_networks.sampling import sample
from probmodel.bayesian_networks.scores import BDeu, BDs, aic, bic, k2, log_likelihood, score

__all__ = [
    "BDeu",
    "BDs",
    "BGe",
    "Candidates",
    "Categories",
    "DAG",
    "DiscreteNetwork",
    "EM",
    "EMFit",
    "EMWarning",
    "GraphPosterior",
    "JointTable",
    "Marginals",
    "MixingWarning",
    "Moments",
    "Optimum",
    "OrderMCMC",
    "SampledEdges",
    "aic",
    "all_candidates",
    "bic",
    "class_hamming_distance",
    "family_scores",
    "gaussian_bic",
    "gaussian_family_scores",
    "gaussian_log_likelihood",
    "gaussian_score",
    "impute",
    "intervene",
    "k2",
    "log_likelihood",
    "log_prob",
    "marginals",
    "maximum_likelihood",
    "moments",
    "optimum",
    "over_graphs",
    "over_orders",
    "posterior_mean",
    "posterior_networks",
    "query",
    "read_bif",
    "sample",
    "score",
    "structural_hamming_distance",
    "write_bif",
]
