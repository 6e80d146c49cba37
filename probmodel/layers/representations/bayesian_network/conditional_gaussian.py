"""Network of discrete and real variables: one regression per discrete parents' values (Lauritzen & Wermuth, 1989)."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.categorical_scores import check_prior_rows
from probmodel.families.bayesian_networks.scores.gaussian_scores import BGe
from probmodel.layers.representations.bayesian_network.mixed import MixedDAG, MixedNetwork, Priors
from probmodel.protocols.arguments.checks import checks_arguments


class ConditionalGaussianNetwork(MixedNetwork):
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

    @checks_arguments
    def __init__(
        self,
        dag: DAG,
        cardinalities: Mapping[str, int],
        center: Float[Tensor, " n"],
        *,
        sample_size: float = 1.0,
        prior: BGe | None = None,
    ) -> None:
        check_prior_rows("sample_size", sample_size)
        super().__init__(MixedDAG(dag, dict(cardinalities)), center, Priors(sample_size, prior or BGe()))
        self.sample_size, self.prior = self.priors.sample_size, self.priors.regression
        self.mixed.refuse_real_parents_of_discrete_nodes()

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {
            "dag": self.mixed.dag,
            "cardinalities": self.mixed.cardinalities,
            "center": self.center,
            "sample_size": self.sample_size,
            "prior": self.prior,
        }
