"""Network of linear regressions with the prior implied by a normal-Wishart distribution (Geiger & Heckerman, 2002)."""

from jaxtyping import Float
from torch import Tensor

from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.gaussian_scores import BGe
from probmodel.layers.representations.bayesian_network.mixed import MixedDAG, MixedNetwork, Priors
from probmodel.protocols.arguments.checks import checks_arguments


class LinearGaussianNetwork(MixedNetwork):
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

    @checks_arguments
    def __init__(self, dag: DAG, center: Float[Tensor, " n"], prior: BGe | None = None) -> None:
        super().__init__(MixedDAG(dag, {}), center, Priors(1.0, prior or BGe()))
        self.prior = self.priors.regression

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"dag": self.mixed.dag, "center": self.center, "prior": self.prior}
