"""Discrete units of Boltzmann machines: binary, categorical, counts."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus

from probmodel.families.boltzmann_machines.states import SOFTPLUS_THRESHOLD, bernoulli, logit_of_mean
from probmodel.families.boltzmann_machines.units import ONE_HOT, check_values, frozen
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.integers import integer


class BernoulliUnits(nn.Module):
    """Units in {0, 1}, with the log odds η as natural parameter."""

    binary = True
    num_units: int | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {}

    @property
    def detached(self) -> "BernoulliUnits":
        return frozen(self)

    def statistic(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        return v

    def log_base(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        return v.new_zeros(v.shape[:-1])

    def log_partition(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        return softplus(eta, threshold=SOFTPLUS_THRESHOLD).sum(-1)

    def sample(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        return bernoulli(eta)

    def natural_parameters(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        return logit_of_mean(v)

    def check(self, v: Tensor) -> None:
        check_values(v, (v == 0) | (v == 1), "0 and 1", "binarize: (x > threshold).double()")

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {}


class CategoricalUnits(nn.Module):
    """Groups of units of which exactly one is on, one per categorical variable: v concatenates their one-hot codes.

    Args:
        cardinalities: number of values of each variable, at least 2; V is their sum.

    Raises:
        ValueError: without a variable, or for a cardinality below 2.
    """

    binary = False

    @checks_arguments
    def __init__(self, cardinalities: Sequence[int]) -> None:
        super().__init__()
        if not len(cardinalities):
            raise ValueError(
                "expected cardinalities of one variable or more, got none; pass the number of values of each"
            )
        self.cardinalities = tuple(integer("cardinality", each, least=2) for each in cardinalities)
        self.num_units: int | None = sum(self.cardinalities)
        starts = torch.tensor([0, *self.cardinalities[:-1]]).cumsum(0)
        offsets = torch.arange(max(self.cardinalities))
        self.inside: Tensor
        self.register_buffer("inside", offsets < torch.tensor(self.cardinalities)[:, None])
        self.index: Tensor
        self.register_buffer("index", torch.where(self.inside, starts[:, None] + offsets, 0))

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {}

    @property
    def detached(self) -> "CategoricalUnits":
        return frozen(self)

    def statistic(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        return v

    def log_base(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        return v.new_zeros(v.shape[:-1])

    def log_partition(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        return torch.logsumexp(self._grouped(eta), -1).sum(-1)

    def sample(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        logits = self._grouped(eta)
        gumbel = -torch.log(torch.empty_like(logits).exponential_())
        return one_hot((logits + gumbel).argmax(-1), logits.shape[-1]).to(eta)[..., self.inside]

    def natural_parameters(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        return torch.log(v.sum(0) + 1)

    def check(self, v: Tensor) -> None:
        if v.shape[-1] != sum(self.cardinalities):
            raise ValueError(f"expected rows of {sum(self.cardinalities)} one-hot values, got {v.shape[-1]}; {ONE_HOT}")
        check_values(v, (v == 0) | (v == 1), "0 and 1", ONE_HOT)
        on = torch.where(self.inside, v[..., self.index], 0).sum(-1)
        check_values(v, on == 1, "one unit that is on in each group", ONE_HOT)

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"cardinalities": self.cardinalities}

    def _grouped(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S G K"]:
        return torch.where(self.inside, eta[..., self.index], -torch.inf)


class CountUnits(nn.Module):
    """Units with values 0, 1, 2, …, independent v | h ~ Poisson(exp η).

    With {0, 1} hidden units η has finitely many values, so that Z = Σ_h exp(c h + Σ_i exp(b_i + W_i h)) is finite for
    any signs of W.
    """

    binary = False
    num_units: int | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {}

    @property
    def detached(self) -> "CountUnits":
        return frozen(self)

    def statistic(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        return v

    def log_base(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        return -torch.lgamma(v + 1).sum(-1)

    def log_partition(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        return torch.exp(eta).sum(-1)

    def sample(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        return torch.poisson(torch.exp(eta))

    def natural_parameters(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        return torch.log((v.sum(0) + 1) / (len(v) + 1))

    def check(self, v: Tensor) -> None:
        check_values(
            v, torch.isfinite(v) & (v >= 0) & (v == v.round()), "counts 0, 1, 2, …", "round them, or use GaussianUnits"
        )

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {}
