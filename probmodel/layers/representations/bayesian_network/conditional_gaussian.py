"""Discrete and real variables together: a regression for each combination of discrete parents (Lauritzen & Wermuth, 1989)."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.categorical_scores import check_prior_rows
from probmodel.families.bayesian_networks.scores.gaussian_scores import BGe
from probmodel.layers.representations.bayesian_network.mixed import (
    Interventions,
    MixedDAG,
    Priors,
    exact_posterior,
    is_whole,
    observe,
    rows_of,
)
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import ExactPosterior


class ConditionalGaussianNetwork(nn.Module):
    """A network of discrete and real variables; discrete ones have discrete parents alone.

    A discrete node is one of a `CategoricalNetwork`.  A real node x_i with parents' real values u and discrete ones in their
    combination j has a regression of its own in each j, under the prior of a `LinearGaussianNetwork`'s node:

        x_ni ~ N(m_ij + b_ij · u, σ_ij²).

    Called as `model(x)`, x (N, n) of a float type by the graph's own order of nodes, whole numbers in the columns of
    discrete nodes; or `model(x, intervened)` as a `CategoricalNetwork` is.  Its posterior is exact.  Without real nodes its
    log evidence is that of BDeu, without discrete ones that of BGe; the strength of that prior is for columns of unit
    variance.

    Args:
        dag: the graph.
        cardinalities: discrete variable → how many values it has; all other nodes are real.
        center: ν, the prior mean of each variable, which discrete ones do not read; the columns' means are the custom.
        sample_size: rows that the prior of each table counts for.
        prior: strength of the prior of each regression.

    Raises:
        ValueError: for a discrete node with a real parent, a center of another number of variables, cardinalities below 2.

    Reference:
        Lauritzen & Wermuth (1989), "Graphical models for associations between variables, some of which are qualitative and
        some quantitative", Annals of Statistics; Bøttcher (2001), "Learning Bayesian networks with mixed variables", AISTATS.
    """

    def __init__(
        self,
        dag: DAG,
        cardinalities: Mapping[str, int],
        center: Float[Tensor, " n"],
        *,
        sample_size: float = 1.0,
        prior: BGe | None = None,
    ) -> None:
        super().__init__()
        if len(center) != len(dag.nodes):
            raise ValueError(f"expected a center of {len(dag.nodes)} variables, got {len(center)}")
        check_prior_rows("sample_size", sample_size)
        self.mixed = MixedDAG(dag, dict(cardinalities))
        self.mixed.refuse_real_parents_of_discrete_nodes()
        self.sample_size, self.prior = sample_size, prior or BGe()
        self.center: Tensor
        self.register_buffer("center", center)

    @property
    def priors(self) -> Priors:
        """Of tables and regressions."""
        return Priors(self.sample_size, self.prior)

    def forward(self, x: Float[Tensor, "N n"], intervened: Interventions = None) -> None:
        observe(self.mixed, self.priors.families(self.mixed, self.center), x, intervened)

    def exact_posterior(self, data: Dataset) -> ExactPosterior | None:
        """Of all tables and regressions; None for a minibatch."""
        families = self.priors.families(self.mixed, self.center)
        return exact_posterior(self.mixed, families, *rows_of(self.mixed, data)) if is_whole(data) else None

    def check(self, data: Dataset) -> None:
        """Raise ValueError for another call, columns of another number, or values that a node cannot have."""
        rows_of(self.mixed, data)

    def check_training(self, data: Dataset) -> None:
        """Raise ValueError for a real column without spread."""
        self.mixed.check_training(rows_of(self.mixed, data)[0])

    def settings(self) -> dict[str, object]:
        """Arguments that build the same piece again."""
        return {
            "dag": self.mixed.dag,
            "cardinalities": self.mixed.cardinalities,
            "center": self.center,
            "sample_size": self.sample_size,
            "prior": self.prior,
        }
