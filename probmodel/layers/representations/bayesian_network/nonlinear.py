"""Networks of variables given their parents by neural networks (Friedman & Nachman, 2000; Lachapelle et al., 2020)."""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.families.bayesian_networks.dag import DAG
from probmodel.layers.representations.bayesian_network.mixed import MixedDAG, call_arguments
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.integers import integer


class NonlinearNetwork(nn.Module):
    """A network of discrete and real variables, each given its parents by a neural network of one hidden layer.

        W_1 ~ N(0, s² / d),   W_2 ~ N(0, s² / hidden),   biases ~ N(0, s²),   f = W_2 tanh(W_1 parents + b_1) + b_2,
        real:      x_ni ~ N(f, σ_i²),   σ_i ~ HalfNormal(noise_scale);
        discrete:  x_ni ~ Categorical(softmax f),

    with one-hot encoded discrete parents, d inputs in all; a node without parents has f = b_2.  Discrete nodes may have
    real parents.  There is no closed form: SVI, NUTS, Laplace and `evidence.sandwich` apply as to any model.

    It is called as `model(x)`, x (N, n) of a float dtype with columns in the graph's order of nodes, integers in the
    columns of discrete nodes.  The priors are for columns of mean 0 and unit variance.  Hidden units can be permuted,
    and their signs flipped, without a change of the function: the posterior has 2^hidden hidden! modes, or as many as
    the data separate.

    Args:
        dag: the graph.
        cardinalities: discrete variable → number of its values; all other nodes are real.
        num_hidden: number of units of the hidden layer.
        weight_scale: s, prior scale of the weights and biases.
        noise_scale: scale of the half-normal prior of each real node's standard deviation.

    Raises:
        ValueError: if a cardinality is of no node or below 2, or a scale is not positive.

    Reference:
        Friedman & Nachman (2000), "Gaussian process networks", UAI; Lachapelle, Brouillard, Deleu & Lacoste-Julien (2020),
        "Gradient-based neural DAG learning", ICLR; Neal (1996), "Bayesian learning for neural networks", for the scales.
    """

    @checks_arguments
    def __init__(
        self,
        dag: DAG,
        cardinalities: Mapping[str, int] | None = None,
        *,
        num_hidden: int = 8,
        weight_scale: float = 1.0,
        noise_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not (weight_scale > 0 and noise_scale > 0):
            raise ValueError(
                f"expected positive scales, got weight_scale={weight_scale} and noise_scale={noise_scale}; pass 1.0 "
                "for standardized columns"
            )
        self.mixed = MixedDAG(dag, dict(cardinalities or {}))
        self.num_hidden = integer("num_hidden", num_hidden)
        self.weight_scale, self.noise_scale = weight_scale, noise_scale

    def forward(self, x: Float[Tensor, "N n"]) -> None:
        columns = self.mixed.columns(x)
        drawn = {node: self._weights(node, x) for node in self.mixed.dag.order}
        scales = {node: self._noise(node, x) for node in self.mixed.dag.order if node not in self.mixed.cardinalities}
        with pyro.plate("rows", len(x)):
            for node, layers in drawn.items():
                f = self._inputs(node, columns, x)
                for i, (weight, bias) in enumerate(layers):
                    f = (torch.tanh(f) if i else f) @ weight + bias
                real = node in scales
                likelihood = dist.Normal(f[:, 0], scales[node]) if real else dist.Categorical(logits=f)
                pyro.sample(node, likelihood, obs=columns[node])

    def check(self, data: Dataset) -> None:
        """Raise ValueError for unexpected arguments, a wrong number of columns, or values that a node cannot have."""
        _, intervened = call_arguments(self.mixed, data)
        if intervened is not None:
            raise ValueError(
                "expected a call with x alone, got intervened too; drop the rows, or take a conjugate network"
            )

    def check_training(self, data: Dataset) -> None:
        """Raise ValueError for a constant column of real values."""
        self.mixed.check_training(call_arguments(self.mixed, data)[0])

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {
            "dag": self.mixed.dag,
            "cardinalities": self.mixed.cardinalities,
            "num_hidden": self.num_hidden,
            "weight_scale": self.weight_scale,
            "noise_scale": self.noise_scale,
        }

    def _inputs(self, node: str, columns: Mapping[str, Tensor], like: Tensor) -> Float[Tensor, "N d"]:
        """Values of the parents, with discrete ones one-hot encoded."""
        parts = [like.new_zeros(len(like), 0)]
        for parent in self.mixed.dag.parents[node]:
            r = self.mixed.cardinalities.get(parent)
            column = columns[parent]
            # PyTorch's one_hot depends on values, and cannot be traced.
            parts.append(
                column[:, None] if r is None else (column[:, None] == torch.arange(r, device=like.device)).to(like)
            )
        return torch.cat(parts, -1)

    def _weights(self, node: str, like: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(W, b) of each layer; the only layer of a node without parents has no inputs."""
        width = sum(self.mixed.cardinalities.get(parent, 1) for parent in self.mixed.dag.parents[node])
        out = self.mixed.cardinalities.get(node, 1)
        if not width:
            return [(like.new_zeros(0, out), self._normal(f"{node}.bias", like, out))]
        hidden = self._normal(f"{node}.hidden.weight", like, width, self.num_hidden)
        bias = self._normal(f"{node}.hidden.bias", like, self.num_hidden)
        weight = self._normal(f"{node}.weight", like, self.num_hidden, out)
        return [(hidden, bias), (weight, self._normal(f"{node}.bias", like, out))]

    def _normal(self, site: str, like: Tensor, *shape: int) -> Tensor:
        """Sample a weight or bias from its prior; rows of a weight are inputs, and a bias has a fan-in of 1."""
        fan_in = shape[0] if len(shape) == 2 else 1
        scale = like.new_full(shape, self.weight_scale / math.sqrt(fan_in))
        return pyro.sample(site, dist.Normal(torch.zeros_like(scale), scale).to_event(len(shape)))

    def _noise(self, node: str, like: Tensor) -> Tensor:
        return pyro.sample(f"{node}.scale", dist.HalfNormal(like.new_tensor(self.noise_scale)))
