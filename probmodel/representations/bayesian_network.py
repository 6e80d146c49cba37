"""Bayesian networks as Pyro models: a directed acyclic graph with a prior of each conditional distribution.

Their evidence is known in closed form (Heckerman, Geiger & Chickering, 1995; Geiger & Heckerman, 2002), which is what
`BDeu` and `BGe` sum over families.
"""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probmodel.bayesian_networks.dag import DAG
from probmodel.bayesian_networks.gaussian_scores import BGe


class CategoricalNetwork(nn.Module):
    """A network of categorical variables, each conditional distribution under a symmetric Dirichlet prior.

        θ_ij ~ Dirichlet(α, …, α),   x_ni | parents in their combination j ~ Categorical(θ_ij),   α = sample_size / (q_i r_i).

    Called as `model(x)`, x (N, n) whole numbers by the graph's own order of nodes.  Its log evidence is `score(dag, data,
    BDeu(sample_size))`.

    Args:
        dag: the graph.
        cardinalities: variable → how many values it has.
        sample_size: rows that the prior counts for.

    Raises:
        ValueError: for cardinalities of other variables.

    Reference:
        Heckerman, Geiger & Chickering (1995), "Learning Bayesian networks: the combination of knowledge and statistical
        data", Machine Learning.
    """

    def __init__(self, dag: DAG, cardinalities: Mapping[str, int], sample_size: float = 1.0) -> None:
        super().__init__()
        if set(cardinalities) != set(dag.nodes):
            raise ValueError(f"expected cardinalities of {sorted(dag.nodes)}, got them of {sorted(cardinalities)}")
        self.dag, self.cardinalities, self.sample_size = dag, dict(cardinalities), sample_size

    def forward(self, x: Int[Tensor, "N n"]) -> None:
        columns = dict(zip(self.dag.nodes, x.unbind(1), strict=True))
        tables = {node: self._probabilities(node) for node in self.dag.order}
        with pyro.plate("rows", len(x)):
            for node, table in tables.items():
                pyro.sample(node, dist.Categorical(table[self._combination(node, columns)]), obs=columns[node])

    def _probabilities(self, node: str) -> Float[Tensor, "q r"]:
        r = self.cardinalities[node]
        q = math.prod(self.cardinalities[parent] for parent in self.dag.parents[node])
        prior = torch.full((q, r), self.sample_size / (q * r))
        return pyro.sample(f"{node}.probabilities", dist.Dirichlet(prior).to_event(1))

    def _combination(self, node: str, columns: Mapping[str, Tensor]) -> Int[Tensor, " N"]:
        found = torch.zeros_like(columns[node])
        for parent in self.dag.parents[node]:
            found = found * self.cardinalities[parent] + columns[parent]
        return found


class LinearGaussianNetwork(nn.Module):
    """A network of linear regressions, each with the prior that a normal-Wishart one of all variables together implies.

        σ_i² ~ InvGamma((α_w − n + p_i + 1) / 2, t / 2),   b_i | σ_i² ~ N(0, σ_i² / t I),
        m_i | b_i, σ_i² ~ N(ν_i − b_i · ν, σ_i² / α_μ),
        x_ni ~ N(m_i + b_i · parents, σ_i²),    p_i parents.

    Called as `model(x)`, x (N, n) by the graph's own order of nodes.  Its log evidence is `gaussian_score(dag, …, BGe(…))`.

    Args:
        dag: the graph.
        centre: ν, the prior mean of each variable; the columns' means are the custom.
        prior: its strength.

    Raises:
        ValueError: for a centre of another number of variables.

    Reference:
        Geiger & Heckerman (2002), "Parameter priors for directed acyclic graphical models and the characterization of
        several probability distributions", Annals of Statistics; Kuipers, Moffa & Heckerman (2014).
    """

    def __init__(self, dag: DAG, centre: Float[Tensor, " n"], prior: BGe | None = None) -> None:
        super().__init__()
        if len(centre) != len(dag.nodes):
            raise ValueError(f"expected a centre of {len(dag.nodes)} variables, got {len(centre)}")
        self.dag, self.prior = dag, prior or BGe()
        self.centre: Tensor
        self.register_buffer("centre", centre)

    def forward(self, x: Float[Tensor, "N n"]) -> None:
        at = {node: column for column, node in enumerate(self.dag.nodes)}
        regressions = {
            node: self._regression(node, [at[p] for p in self.dag.parents[node]], at[node]) for node in self.dag.order
        }
        with pyro.plate("rows", len(x)):
            for node, (slopes, intercept, variance) in regressions.items():
                mean = intercept + x[:, [at[parent] for parent in self.dag.parents[node]]] @ slopes
                pyro.sample(node, dist.Normal(mean, variance.sqrt()), obs=x[:, at[node]])

    def _regression(self, node: str, parents: list[int], column: int) -> tuple[Tensor, Tensor, Tensor]:
        prior, centre = self.prior, self.centre
        scale = centre.new_tensor(prior.scale)
        shape = centre.new_tensor(0.5 * (prior.extra_rows + len(parents) + 1))
        variance = pyro.sample(f"{node}.variance", dist.InverseGamma(shape, 0.5 * scale))
        slopes = centre.new_zeros(0)
        if parents:
            width = (variance / scale).sqrt().expand(len(parents))
            slopes = pyro.sample(f"{node}.slopes", dist.Normal(torch.zeros_like(width), width).to_event(1))
        start = centre[column] - slopes @ centre[parents]
        intercept = pyro.sample(f"{node}.intercept", dist.Normal(start, (variance / prior.mean_rows).sqrt()))
        return slopes, intercept, variance
