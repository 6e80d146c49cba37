"""Bayesian network of a class and its features as a representation, by Bayes' rule (Friedman et al., 1997)."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import pyro
import torch
from jaxtyping import Float, Int
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.categorical_scores import check_prior_rows
from probmodel.families.bayesian_networks.scores.gaussian_scores import BGe
from probmodel.layers.representations.bayesian_network.families import FamilyRows
from probmodel.layers.representations.bayesian_network.mean_field import mean_field
from probmodel.layers.representations.bayesian_network.mixed import MixedDAG, Priors, exact_posterior
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.integers import integer
from probmodel.protocols.model import ExactPosterior


class ClassNetwork(nn.Module):
    """Network over the codes h and the class, z_k = log p(h, class = k | θ), in place of a map from h to the class.

    The model, with θ the tables and regressions of a `ConditionalGaussianNetwork`'s nodes:

        h ~ Σ_k p(h, class = k | θ),   y ~ Categorical(softmax z),   so that both together are p(h, y | θ).

    It is used with `ClassifyJoint`, which takes z unchanged; a `Pipeline` of the two has its posterior in closed form,
    and its evidence is log p(h, y), which cannot be compared with the log p(y | x) of a model conditional on the
    features.

    **The features have to be fixed.**  p(h) is a density of the codes themselves: features trained with it would make
    their codes easy to predict, most easily by mapping all rows to one code regardless of the class.  (A change of
    variables would penalize such shrinking by its Jacobian; a network from pixels to few codes has none.)  A `Pipeline`
    therefore refuses trainable features; take `Standardize.fitted` or `Discretize.fitted` of features trained for
    another objective, or pass the codes themselves as x, with `Identity`.

    Args:
        dag: graph over the codes, in the order of the columns of h, and the class.
        num_classes: number of classes, numbered from 0.
        cardinalities: discrete code → number of its values; all other codes are real, of mean 0 and unit variance.
        label: name of the node that is the class.
        sample_size: equivalent sample size of the prior of each table, in rows.
        prior: strength of the prior of each regression.

    Raises:
        ValueError: if the graph lacks the class or the class has real parents, and as
            `ConditionalGaussianNetwork` does.

    Reference:
        Friedman, Geiger & Goldszmidt (1997), "Bayesian network classifiers", Machine Learning; Pérez, Larrañaga & Inza
        (2006), "Supervised classification with conditional Gaussian networks", for real codes.
    """

    @checks_arguments
    def __init__(
        self,
        dag: DAG,
        num_classes: int,
        *,
        cardinalities: Mapping[str, int] | None = None,
        label: str = "class",
        sample_size: float = 1.0,
        prior: BGe | None = None,
    ) -> None:
        super().__init__()
        if label not in dag.nodes:
            raise ValueError(
                f"expected the class {label!r} among the nodes, got {list(dag.nodes)}; add it, or set label"
            )
        check_prior_rows("sample_size", sample_size)
        self.out_features = integer("num_classes", num_classes, least=2)
        self.cardinalities = dict(cardinalities or {})
        self.mixed = MixedDAG(dag, {**self.cardinalities, label: self.out_features})
        self.mixed.refuse_real_parents_of_discrete_nodes()
        self.label, self.sample_size, self.prior = label, sample_size, prior or BGe()
        self.codes = [node for node in dag.nodes if node != label]
        self.center: Tensor
        self.register_buffer("center", torch.zeros(len(dag.nodes)), persistent=False)
        self.q = nn.ModuleList(mean_field(family) for family in self.priors.families(self.mixed, self.center).values())

    @property
    def priors(self) -> Priors:
        """Priors of tables and regressions."""
        return Priors(self.sample_size, self.prior)

    def model(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> Float[Tensor, "N K"]:
        families = self.priors.families(self.mixed, self.center)
        parameters = {node: family.sample_site(node) for node, family in families.items()}

        def log_joint(codes: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
            """Log joint density of the codes and each class, in nats."""
            columns = self._columns(codes)
            z = codes.new_zeros(len(codes), self.out_features)
            for node, family in families.items():
                seen: FamilyRows = self.mixed.rows(node, columns)
                z = z + family.likelihood(parameters[node], seen).log_prob(seen.child)  # type: ignore[arg-type]
            return z

        with rows:
            pyro.sample("codes", ClassesSummedOut(log_joint, h), obs=h)
        return log_joint(h)

    def guide(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> None:
        """Independent normals in unconstrained coordinates; `Exact` uses the posterior itself."""
        for node, family in zip(self.mixed.dag.order, self.q, strict=True):
            family(node)

    def exact_codes(self, h: Float[Tensor, "N D"], y: Int[Tensor, " N"]) -> ExactPosterior:
        """Posterior of all parameters given codes and classes, and log p(h, y) in nats."""
        self.check_codes(h)
        at = self.mixed.column(self.label)
        x = torch.cat([h[:, :at], y[:, None].to(h), h[:, at:]], 1)
        return exact_posterior(self.mixed, self.priors.families(self.mixed, self.center), x, None)

    def check_codes(self, h: Float[Tensor, "N D"]) -> None:
        """Raise ValueError for a wrong number of codes, or values out of range."""
        if h.dim() != 2 or h.shape[1] != len(self.codes):
            raise ValueError(
                f"expected codes (N, {len(self.codes)}), columns {self.codes}, got {tuple(h.shape)}; pass one per code"
            )
        at = self.mixed.column(self.label)
        self.mixed.check(torch.cat([h[:, :at], h.new_zeros(len(h), 1), h[:, at:]], 1))

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {
            "dag": self.mixed.dag,
            "num_classes": self.out_features,
            "cardinalities": self.cardinalities,
            "label": self.label,
            "sample_size": self.sample_size,
            "prior": self.prior,
        }

    def _columns(self, h: Float[Tensor, "N D"]) -> dict[str, Tensor]:
        """Codes as (N, 1) and the class as (1, K), so that every family is evaluated for every class."""
        columns = dict(zip(self.codes, h[:, :, None].unbind(1), strict=True))
        found = {node: value.long() if node in self.cardinalities else value for node, value in columns.items()}
        return {**found, self.label: torch.arange(self.out_features, device=h.device)[None]}


class ClassesSummedOut(TorchDistribution):
    """Density p(h) = Σ_k p(h, class = k) of each row.

    Args:
        log_joint: function of rows of codes that returns log p(h, class = k).
        like: rows of the same shape, whose values are not used.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, log_joint: Callable[[Tensor], Tensor], like: Float[Tensor, "N D"]) -> None:
        self.log_joint = log_joint
        super().__init__(like.shape[:1], like.shape[1:], validate_args=False)

    def log_prob(self, value: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        return self.log_joint(value).logsumexp(-1)
