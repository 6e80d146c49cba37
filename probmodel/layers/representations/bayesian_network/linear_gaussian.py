"""Linear regressions with the prior that one normal-Wishart distribution implies (Geiger & Heckerman, 2002)."""

from jaxtyping import Float
from torch import Tensor, nn

from probmodel.families.bayesian_networks.dag import DAG
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


class LinearGaussianNetwork(nn.Module):
    """A network of linear regressions, each with the prior that a normal-Wishart one of all variables together implies.

        σ_i² ~ InvGamma((α_w − n + p_i + 1) / 2, t / 2),   b_i | σ_i² ~ N(0, σ_i² / t I),
        m_i | b_i, σ_i² ~ N(ν_i − b_i · ν, σ_i² / α_μ),
        x_ni ~ N(m_i + b_i · parents, σ_i²),    p_i parents.

    Called as `model(x)`, x (N, n) by the graph's own order of nodes, or `model(x, intervened)` as a `CategoricalNetwork` is.
    Its log evidence is `gaussian_score(dag, …, BGe(…))`, and its posterior is exact.

    Args:
        dag: the graph.
        center: ν, the prior mean of each variable; the columns' means are the custom.
        prior: its strength.

    Raises:
        ValueError: for a center of another number of variables.

    Reference:
        Geiger & Heckerman (2002), "Parameter priors for directed acyclic graphical models and the characterization of
        several probability distributions", Annals of Statistics; Kuipers, Moffa & Heckerman (2014).
    """

    def __init__(self, dag: DAG, center: Float[Tensor, " n"], prior: BGe | None = None) -> None:
        super().__init__()
        if len(center) != len(dag.nodes):
            raise ValueError(f"expected a center of {len(dag.nodes)} variables, got {len(center)}")
        self.mixed, self.prior = MixedDAG(dag, {}), prior or BGe()
        self.center: Tensor
        self.register_buffer("center", center)

    @property
    def priors(self) -> Priors:
        """Of the regressions."""
        return Priors(1.0, self.prior)

    def forward(self, x: Float[Tensor, "N n"], intervened: Interventions = None) -> None:
        observe(self.mixed, self.priors.families(self.mixed, self.center), x, intervened)

    def exact_posterior(self, data: Dataset) -> ExactPosterior | None:
        """Of all regressions; None for a minibatch."""
        families = self.priors.families(self.mixed, self.center)
        return exact_posterior(self.mixed, families, *rows_of(self.mixed, data)) if is_whole(data) else None

    def check(self, data: Dataset) -> None:
        """Raise ValueError for another call, columns of another number, or whole numbers."""
        rows_of(self.mixed, data)

    def check_training(self, data: Dataset) -> None:
        """Raise ValueError for a column without spread."""
        self.mixed.check_training(rows_of(self.mixed, data)[0])

    def settings(self) -> dict[str, object]:
        """Arguments that build the same piece again."""
        return {"dag": self.mixed.dag, "center": self.center, "prior": self.prior}
