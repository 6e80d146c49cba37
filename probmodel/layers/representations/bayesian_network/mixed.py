"""Networks with discrete and real nodes: their rows and families, and the model and posterior that they share."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import pyro
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.gaussian_scores import BGe
from probmodel.layers.representations.bayesian_network.families import (
    DirichletTable,
    Family,
    FamilyGuide,
    FamilyRows,
    NormalInverseGamma,
)
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.integers import integer
from probmodel.protocols.model import ExactPosterior


@dataclass(frozen=True)
class MixedDAG:
    """A graph whose nodes are discrete where they have a cardinality and real elsewhere.

    Args:
        dag: the graph.
        cardinalities: discrete node → number of its values.

    Raises:
        ValueError: if a cardinality is of no node, or below 2.
    """

    dag: DAG
    cardinalities: Mapping[str, int]

    def __post_init__(self) -> None:
        unexpected = sorted(set(self.cardinalities) - set(self.dag.nodes))
        if unexpected:
            raise ValueError(
                f"expected cardinalities of the nodes {sorted(self.dag.nodes)}, got cardinalities of {unexpected}; drop "
                "them, or add the nodes"
            )
        for node, r in self.cardinalities.items():
            integer(f"the cardinality of {node!r}", r, least=2)

    def refuse_real_parents_of_discrete_nodes(self) -> None:
        """Raise ValueError for a discrete node with a real parent, for which no conjugate family is known."""
        for node in self.cardinalities:
            real = self.real_parents(node)
            if real:
                raise ValueError(
                    f"expected discrete parents of the discrete node {node!r}, got {real}; reverse these edges, discretize "
                    "the parents, or take a NonlinearNetwork"
                )

    def column(self, node: str) -> int:
        """Column of a node's values in the rows."""
        return self.dag.nodes.index(node)

    def discrete_parents(self, node: str) -> list[str]:
        """Parents with a cardinality."""
        return [parent for parent in self.dag.parents[node] if parent in self.cardinalities]

    def real_parents(self, node: str) -> list[str]:
        """Parents without a cardinality."""
        return [parent for parent in self.dag.parents[node] if parent not in self.cardinalities]

    def num_combinations(self, node: str) -> int:
        """Number of combinations of the discrete parents' values."""
        return prod(self.cardinalities[parent] for parent in self.discrete_parents(node))

    def columns(self, x: Tensor) -> dict[str, Tensor]:
        """Values by node, those of discrete nodes as integers."""
        found = dict(zip(self.dag.nodes, x.unbind(-1), strict=True))
        return {node: value.long() if node in self.cardinalities else value for node, value in found.items()}

    def rows(self, node: str, columns: Mapping[str, Tensor]) -> FamilyRows:
        """Rows of a node's family, from columns of any shapes that broadcast against each other."""
        child, discrete = columns[node], self.discrete_parents(node)
        real = [columns[parent] for parent in self.real_parents(node)]
        none = child.new_zeros(*child.shape, 0, dtype=torch.get_default_dtype())
        regressors = torch.stack(torch.broadcast_tensors(*real), -1) if real else none
        if node not in self.cardinalities and not discrete:
            return FamilyRows(child, ..., regressors)
        combination = torch.zeros((), dtype=torch.long, device=child.device) if discrete else torch.zeros_like(child)
        for parent in discrete:
            combination = combination * self.cardinalities[parent] + columns[parent]
        return FamilyRows(child, combination, regressors)

    def check(self, x: Tensor) -> None:
        """Raise ValueError for a wrong number of columns, or values that their nodes cannot have."""
        n = len(self.dag.nodes)
        if x.dim() != 2 or x.shape[1] != n:
            raise ValueError(
                f"expected rows (N, {n}), columns {list(self.dag.nodes)}, got {tuple(x.shape)}; pass one per node"
            )
        for node, column in zip(self.dag.nodes, x.unbind(1), strict=True):
            r = self.cardinalities.get(node)
            if r is not None and not bool(((column >= 0) & (column < r) & (column == column.round())).all()):
                low, high = float(column.min()), float(column.max())
                raise ValueError(
                    f"expected integers 0 … {r - 1} of {node!r}, got values from {low:g} to {high:g}; number its values "
                    "from 0 (CategoricalData.of does), or raise its cardinality"
                )
            if r is None and not x.is_floating_point():
                raise ValueError(f"expected real numbers of {node!r}, got {x.dtype}; convert x with x.double()")

    def check_training(self, x: Tensor) -> None:
        """Raise ValueError for a constant column of real values."""
        for node, column in self.columns(x).items():
            if node not in self.cardinalities and bool((column == column[0]).all()):
                raise ValueError(
                    f"expected values of {node!r} that differ, got {float(column[0]):g} in all {len(x)} rows; drop the node"
                )


@dataclass(frozen=True)
class Priors:
    """Priors of the families of a mixed graph.

    Args:
        sample_size: equivalent sample size of the prior of each table in rows, spread evenly over its cells.
        regression: strength of the prior of each regression.
    """

    sample_size: float
    regression: BGe

    def family(self, mixed: MixedDAG, node: str, center: Float[Tensor, " n"]) -> Family:
        """Prior of a node's parameters, in the dtype and on the device of `center`."""
        q = mixed.num_combinations(node)
        if node in mixed.cardinalities:
            r = mixed.cardinalities[node]
            return DirichletTable(center.new_full((q, r), self.sample_size / (q * r)))
        parents = [mixed.column(parent) for parent in mixed.real_parents(node)]
        axes, p, given = (q,) if mixed.discrete_parents(node) else (), len(parents), self.regression
        return NormalInverseGamma(
            shape=center.new_full(axes, 0.5 * (given.extra_rows + p + 1)),
            rate=center.new_full(axes, 0.5 * given.scale),
            slopes=center.new_zeros(*axes, p),
            scale_tril=(torch.eye(p).to(center) / given.scale**0.5).expand(*axes, p, p),
            center=center[mixed.column(node)].expand(axes),
            regressors=center[parents].expand(*axes, p),
            rows=center.new_full(axes, given.mean_rows),
        )

    def families(self, mixed: MixedDAG, center: Float[Tensor, " n"]) -> dict[str, Family]:
        """Prior of every node's parameters, parents first."""
        return {node: self.family(mixed, node, center) for node in mixed.dag.order}


Interventions = Bool[Tensor, "N n"] | None
"""True where a value was set by intervention; None if none was."""


def observe(mixed: MixedDAG, families: Mapping[str, Family], x: Tensor, intervened: Interventions) -> None:
    """Pyro model of rows: parameters from their priors, then every node given its parents."""
    columns = mixed.columns(x)
    parameters = {node: family.sample_site(node) for node, family in families.items()}
    with pyro.plate("rows", len(x)):
        for node, family in families.items():
            likelihood = family.likelihood(parameters[node], mixed.rows(node, columns))  # type: ignore[arg-type]
            if intervened is not None:
                likelihood = likelihood.mask(~intervened[:, mixed.column(node)])
            pyro.sample(node, likelihood, obs=columns[node])


def exact_posterior(
    mixed: MixedDAG, families: Mapping[str, Family], x: Tensor, intervened: Interventions
) -> ExactPosterior:
    """Posterior of all parameters, family by family, and the log evidence of the rows in nats."""
    columns = mixed.columns(x)
    log_evidence, after = 0.0, dict[str, Family]()
    for node, family in families.items():
        rows = mixed.rows(node, columns)
        if intervened is not None:
            rows = rows.subset(~intervened[:, mixed.column(node)])
        after[node], term = family.posterior(rows)
        log_evidence += term
    return ExactPosterior(log_evidence, FamilyGuide(after))


def call_arguments(mixed: MixedDAG, data: Dataset) -> tuple[Tensor, Interventions]:
    """Arguments x and intervened of a network's call.

    Raises:
        ValueError: if there are other arguments, or rows with values that the nodes cannot have.
    """
    values = data.named("x", "intervened")
    x, intervened = values.get("x"), values.get("intervened")
    if not torch.is_tensor(x) or set(values) - {"x", "intervened"} or len(data.args) > 2:
        raise ValueError(f"expected a call with x and intervened, got {sorted(values)}; pass Dataset((x,), {{}}, N)")
    mixed.check(x)
    if intervened is not None and (intervened.shape != x.shape or intervened.dtype != torch.bool):
        raise ValueError(
            f"expected intervened of shape {tuple(x.shape)} and dtype bool, true where a value was set by "
            f"intervention, got {tuple(intervened.shape)} of {intervened.dtype}; pass a bool mask of the shape of x"
        )
    return x, intervened


def has_all_rows(data: Dataset) -> bool:
    """True if the data hold all rows: the evidence of a minibatch is no fraction of that of all rows."""
    return data.size is None or data.size == data.num_rows


class ConjugateNetwork(nn.Module):
    """Model, check and posterior that networks with conjugate priors share; its subclasses say which nodes and priors."""

    mixed: MixedDAG
    center: Tensor

    @property
    def priors(self) -> Priors:
        """Priors of tables and regressions."""
        raise NotImplementedError(
            "expected priors of a network, got the class that networks share; define the property"
        )

    def forward(self, x: Shaped[Tensor, "N n"], intervened: Interventions = None) -> None:
        observe(self.mixed, self.priors.families(self.mixed, self.center), x, intervened)

    def exact_posterior(self, data: Dataset) -> ExactPosterior | None:
        """Posterior of all tables and regressions, and the log evidence; None for a minibatch."""
        families = self.priors.families(self.mixed, self.center)
        return exact_posterior(self.mixed, families, *call_arguments(self.mixed, data)) if has_all_rows(data) else None

    def check(self, data: Dataset) -> None:
        """Raise ValueError for unexpected arguments, a wrong number of columns, or values that a node cannot have."""
        call_arguments(self.mixed, data)


class MixedNetwork(ConjugateNetwork):
    """Network with regressions.

    Args:
        mixed: the graph with the cardinalities of its discrete nodes.
        center: ν, the prior mean of each variable.
        priors: priors of tables and regressions.

    Raises:
        ValueError: if center has an unequal number of variables.
    """

    def __init__(self, mixed: MixedDAG, center: Float[Tensor, " n"], priors: Priors) -> None:
        super().__init__()
        if len(center) != len(mixed.dag.nodes):
            raise ValueError(
                f"expected a center of {len(mixed.dag.nodes)} variables, got {len(center)}; pass x.mean(0)"
            )
        self.mixed, self._priors = mixed, priors
        self.register_buffer("center", center)

    @property
    def priors(self) -> Priors:
        """Priors of tables and regressions."""
        return self._priors

    def forward(self, x: Float[Tensor, "N n"], intervened: Interventions = None) -> None:
        super().forward(x, intervened)

    def check_training(self, data: Dataset) -> None:
        """Raise ValueError for a constant column of real values."""
        self.mixed.check_training(call_arguments(self.mixed, data)[0])
