"""Network of linear regressions with the prior implied by a normal-Wishart distribution (Geiger & Heckerman, 2002)."""

from jaxtyping import Float
from torch import Tensor, nn

from probmodel.families.bayesian_networks.dag import DAG
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


class LinearGaussianNetwork(nn.Module):
    """A network of linear regressions, each with the prior implied by a normal-Wishart prior of all variables together.

        σ_i² ~ InvGamma((α_w − n + p_i + 1) / 2, t / 2),   b_i | σ_i² ~ N(0, σ_i² / t I),
        m_i | b_i, σ_i² ~ N(ν_i − b_i · ν, σ_i² / α_μ),
        x_ni ~ N(m_i + b_i · parents, σ_i²),    p_i the number of parents.

    It is called as `model(x)`, x (N, n) with columns in the graph's order of nodes, or as `model(x, intervened)`, like
    a `CategoricalNetwork`.  Its log evidence is `gaussian_score(dag, …, BGe(…))`, and its posterior is exact.

    Args:
        dag: the graph.
        center: ν, the prior mean of each variable; the columns' means are the usual choice.
        prior: strength of the prior.

    Raises:
        ValueError: if center has an unequal number of variables.

    Reference:
        Geiger & Heckerman (2002), "Parameter priors for directed acyclic graphical models and the characterization of
        several probability distributions", Annals of Statistics; Kuipers, Moffa & Heckerman (2014).
    """

    def __init__(self, dag: DAG, center: Float[Tensor, " n"], prior: BGe | None = None) -> None:
        super().__init__()
        if len(center) != len(dag.nodes):
            raise ValueError(f"expected a center of {len(dag.nodes)} variables, got {len(center)}; pass x.mean(0)")
        self.mixed, self.prior = MixedDAG(dag, {}), prior or BGe()
        self.center: Tensor
        self.register_buffer("center", center)

    @property
    def priors(self) -> Priors:
        """Priors of the regressions."""
        return Priors(1.0, self.prior)

    def forward(self, x: Float[Tensor, "N n"], intervened: Interventions = None) -> None:
        observe(self.mixed, self.priors.families(self.mixed, self.center), x, intervened)

    def exact_posterior(self, data: Dataset) -> ExactPosterior | None:
        """Posterior of all regressions, and the log evidence; None for a minibatch."""
        families = self.priors.families(self.mixed, self.center)
        return exact_posterior(self.mixed, families, *call_arguments(self.mixed, data)) if has_all_rows(data) else None

    def check(self, data: Dataset) -> None:
        """Raise ValueError for unexpected arguments, a wrong number of columns, or an integer dtype."""
        call_arguments(self.mixed, data)

    def check_training(self, data: Dataset) -> None:
        """Raise ValueError for a constant column."""
        self.mixed.check_training(call_arguments(self.mixed, data)[0])

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"dag": self.mixed.dag, "center": self.center, "prior": self.prior}
