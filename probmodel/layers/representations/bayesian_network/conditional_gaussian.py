"""Network of discrete and real variables: one regression per discrete parents' values (Lauritzen & Wermuth, 1989)."""

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
    call_arguments,
    exact_posterior,
    has_all_rows,
    observe,
)
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import ExactPosterior


class ConditionalGaussianNetwork(nn.Module):
    """A network of discrete and real variables, in which discrete variables have only discrete parents.

    A discrete node is as in a `CategoricalNetwork`.  A real node x_i with values u of its real parents and combination
    j of its discrete parents has a separate regression for each j, under the prior of a `LinearGaussianNetwork`'s node:

        x_ni ~ N(m_ij + b_ij · u, σ_ij²).

    It is called as `model(x)`, x (N, n) of a float dtype with columns in the graph's order of nodes, integers in the
    columns of discrete nodes; or as `model(x, intervened)`, like a `CategoricalNetwork`.  Its posterior is exact.
    Without real nodes its log evidence is that of BDeu, without discrete ones that of BGe; the strength of the latter
    prior is for columns of unit variance.

    Args:
        dag: the graph.
        cardinalities: discrete variable → number of its values; all other nodes are real.
        center: ν, the prior mean of each variable, not used for discrete ones; the columns' means are the usual choice.
        sample_size: equivalent sample size of the prior of each table, in rows.
        prior: strength of the prior of each regression.

    Raises:
        ValueError: if a discrete node has a real parent, center has an unequal number of variables, a cardinality is
            below 2 or of no node, or sample_size is not positive and finite.

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
            raise ValueError(f"expected a center of {len(dag.nodes)} variables, got {len(center)}; pass x.mean(0)")
        check_prior_rows("sample_size", sample_size)
        self.mixed = MixedDAG(dag, dict(cardinalities))
        self.mixed.refuse_real_parents_of_discrete_nodes()
        self.sample_size, self.prior = sample_size, prior or BGe()
        self.center: Tensor
        self.register_buffer("center", center)

    @property
    def priors(self) -> Priors:
        """Priors of tables and regressions."""
        return Priors(self.sample_size, self.prior)

    def forward(self, x: Float[Tensor, "N n"], intervened: Interventions = None) -> None:
        observe(self.mixed, self.priors.families(self.mixed, self.center), x, intervened)

    def exact_posterior(self, data: Dataset) -> ExactPosterior | None:
        """Posterior of all tables and regressions, and the log evidence; None for a minibatch."""
        families = self.priors.families(self.mixed, self.center)
        return exact_posterior(self.mixed, families, *call_arguments(self.mixed, data)) if has_all_rows(data) else None

    def check(self, data: Dataset) -> None:
        """Raise ValueError for unexpected arguments, a wrong number of columns, or values that a node cannot have."""
        call_arguments(self.mixed, data)

    def check_training(self, data: Dataset) -> None:
        """Raise ValueError for a constant column of real values."""
        self.mixed.check_training(call_arguments(self.mixed, data)[0])

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {
            "dag": self.mixed.dag,
            "cardinalities": self.mixed.cardinalities,
            "center": self.center,
            "sample_size": self.sample_size,
            "prior": self.prior,
        }
