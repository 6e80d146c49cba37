"""Network of categorical variables with Dirichlet priors of the conditional probabilities (Heckerman et al., 1995)."""

from collections.abc import Mapping

import torch

from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.categorical_scores import check_prior_rows
from probmodel.families.bayesian_networks.scores.gaussian_scores import BGe
from probmodel.layers.representations.bayesian_network.mixed import (
    ConjugateNetwork,
    MixedDAG,
    Priors,
)
from probmodel.protocols.arguments.checks import checks_arguments


class CategoricalNetwork(ConjugateNetwork):
    """A network of categorical variables, each conditional distribution under a symmetric Dirichlet prior.

        θ_ij ~ Dirichlet(α, …, α),   x_ni | parents in their combination j ~ Categorical(θ_ij),   α = sample_size / (q_i r_i).

    It is called as `model(x)`, x (N, n) integers with columns in the graph's order of nodes, or as
    `model(x, intervened)`, (N, n), true where a value was set by intervention: such a row carries no information about
    that variable's own family.  Its log evidence is `score(dag, data, BDeu(sample_size))`, and its posterior is exact.
    Latents are float64: probabilities of cells without rows are too small for float32.

    Args:
        dag: the graph.
        cardinalities: variable → number of its values.
        sample_size: equivalent sample size of the prior, in rows.

    Raises:
        ValueError: if cardinalities are of other variables or below 2, or sample_size is not positive and finite.

    Reference:
        Heckerman, Geiger & Chickering (1995), "Learning Bayesian networks: the combination of knowledge and statistical
        data", Machine Learning; Cooper & Yoo (1999), "Causal discovery from a mixture of experimental and observational
        data", UAI.
    """

    @checks_arguments
    def __init__(self, dag: DAG, cardinalities: Mapping[str, int], sample_size: float = 1.0) -> None:
        super().__init__()
        if set(cardinalities) != set(dag.nodes):
            raise ValueError(
                f"expected cardinalities of {sorted(dag.nodes)}, got cardinalities of {sorted(cardinalities)}; pass one "
                "per node"
            )
        check_prior_rows("sample_size", sample_size)
        self.mixed, self.sample_size = MixedDAG(dag, dict(cardinalities)), sample_size
        # Integers do not determine the dtype of probabilities; cells without rows reach 1e-24, which float32 rounds.
        self.register_buffer("center", torch.zeros(len(dag.nodes), dtype=torch.float64), persistent=False)

    @property
    def priors(self) -> Priors:
        """Priors of the tables."""
        return Priors(self.sample_size, BGe())

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"dag": self.mixed.dag, "cardinalities": self.mixed.cardinalities, "sample_size": self.sample_size}
