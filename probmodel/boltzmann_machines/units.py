"""Visible units of an exponential-family harmonium (Welling, Rosen-Zvi & Hinton, 2005).

Given the hidden units, p(v | η) = exp(log_base(v) + statistic(v) · η − log_partition(η)) with η = b + W h, unit by unit.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus

from probmodel.boltzmann_machines.states import THRESHOLD, bernoulli, logit_of_mean
from probmodel.integers import integer
from probmodel.structural import Structural

ONE_HOT = "code each variable by torch.nn.functional.one_hot and put the codes side by side"

NEAR_ZERO = 1e-3
"""Natural parameters of units in [0, 1] below which series are as exact as single precision."""
LARGEST, BISECTIONS = 200.0, 60
"""Natural parameter of a unit whose mean lies half a hundredth from 0 or 1; halvings of the interval."""

Module = TypeVar("Module", bound=nn.Module)


@runtime_checkable
class Units(Protocol, metaclass=Structural):
    """A layer of units of one exponential family; draws come from the global random state."""

    binary: bool
    """Whether the states are all of {0, 1}^V, so that they can be enumerated."""
    num_units: int | None
    """V, where the family has a number of its own; None for any."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters by name."""
        ...

    @property
    def detached(self) -> Any:
        """The same units in float64, detached."""
        ...

    def statistic(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        """What couples to the hidden units and the bias."""
        ...

    def log_base(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        """Log base measure, nats."""
        ...

    def log_partition(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        """Log ∫ exp(log_base(v) + statistic(v) · η) dv, nats."""
        ...

    def sample(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        """States given their natural parameters."""
        ...

    def natural(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        """Natural parameters of independent units that have the rows' means, a little smoothed."""
        ...

    def check(self, v: Tensor) -> None:
        """Raise ValueError for values that the units do not take."""
        ...


class BernoulliUnits(nn.Module):
    """{0, 1} units: η is the log odds."""

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
        return softplus(eta, threshold=THRESHOLD).sum(-1)

    def sample(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        return bernoulli(eta)

    def natural(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        return logit_of_mean(v)

    def check(self, v: Tensor) -> None:
        _require(v, (v == 0) | (v == 1), "0 and 1", "binarise: (x > threshold).double()")

    def settings(self) -> dict[str, object]:
        """Arguments that build the same piece again."""
        return {}


class ContinuousBernoulliUnits(nn.Module):
    """Units in [0, 1], such as shades of grey, v | η with density ∝ exp(η v) (Loaiza-Ganem & Cunningham, 2019)."""

    binary = False
    num_units: int | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {}

    @property
    def detached(self) -> "ContinuousBernoulliUnits":
        return frozen(self)

    def statistic(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        return v

    def log_base(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        return v.new_zeros(v.shape[:-1])

    def log_partition(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        """Log ((exp η − 1) / η), unit by unit."""
        size = eta.abs()
        # (exp η − 1) / η = exp(η / 2) 2 sinh(η / 2) / η; near 0 by its series, where that is 0 / 0.
        far = torch.where(size < NEAR_ZERO, 1.0, size)
        log_ratio = torch.where(
            size < NEAR_ZERO, eta**2 / 24, 0.5 * far + torch.log(-torch.expm1(-far)) - torch.log(far)
        )
        return (0.5 * eta + log_ratio).sum(-1)

    def sample(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        """By inversion of the distribution function (exp(η v) − 1) / (exp η − 1)."""
        uniform = torch.rand_like(eta)
        size = eta.abs()
        far = torch.where(size < NEAR_ZERO, 1.0, size)
        # Of −|η|, and mirrored where η is positive, so that no exponential overflows.
        low = -torch.log1p(uniform * torch.expm1(-far)) / far
        v = torch.where(size < NEAR_ZERO, uniform, low).clamp(0.0, 1.0)
        return torch.where(eta > 0, 1 - v, v)

    def natural(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        mean = (v.sum(0) + 0.5) / (len(v) + 1)
        low, high = torch.full_like(mean, -LARGEST), torch.full_like(mean, LARGEST)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            above = self._mean(middle) > mean
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2

    def _mean(self, eta: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        far = torch.where(eta.abs() < NEAR_ZERO, 1.0, eta)
        return torch.where(eta.abs() < NEAR_ZERO, 0.5 + eta / 12, 1 / -torch.expm1(-far) - 1 / far)

    def check(self, v: Tensor) -> None:
        _require(v, (v >= 0) & (v <= 1), "numbers from 0 to 1", "scale: (x - low) / (high - low)")

    def settings(self) -> dict[str, object]:
        """Arguments that build the same piece again."""
        return {}


class GaussianUnits(nn.Module):
    """Real units, v | h ~ N(σ η, σ²) unit by unit; standardise the data where σ stays 1.

    Args:
        num_units: V.
        learn_scale: whether σ is fitted, a unit each; it starts at 1.
    """

    binary = False

    def __init__(self, num_units: int, *, learn_scale: bool = False) -> None:
        super().__init__()
        self.num_units: int | None = num_units
        self.learn_scale = learn_scale
        self.log_scale: Tensor
        start = torch.zeros(num_units)
        if learn_scale:
            self.log_scale = nn.Parameter(start)
        else:
            self.register_buffer("log_scale", start)

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"log_scale": self.log_scale} if self.learn_scale else {}

    @property
    def detached(self) -> "GaussianUnits":
        return frozen(self)

    def statistic(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        return v * torch.exp(-self.log_scale)

    def log_base(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        return torch.distributions.Normal(torch.zeros_like(self.log_scale), self.log_scale.exp()).log_prob(v).sum(-1)

    def log_partition(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        return 0.5 * (eta**2).sum(-1)

    def sample(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        return self.log_scale.exp() * (eta + torch.randn_like(eta))

    def natural(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        return self.statistic(v).mean(0)

    def check(self, v: Tensor) -> None:
        _require(v, torch.isfinite(v), "finite numbers", "impute or drop rows with missing values")

    def settings(self) -> dict[str, object]:
        """Arguments that build the same piece again."""
        return {"num_units": self.num_units, "learn_scale": self.learn_scale}


class CategoricalUnits(nn.Module):
    """Groups of units of which one is on, one group a categorical variable: v is its one-hot code, group after group.

    Args:
        cardinalities: how many values each variable has; V is their sum.
    """

    binary = False

    def __init__(self, cardinalities: Sequence[int]) -> None:
        super().__init__()
        if not cardinalities:
            raise ValueError("expected the number of values of one variable or more, got none")
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

    def natural(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        return torch.log(v.sum(0) + 1)

    def check(self, v: Tensor) -> None:
        if v.shape[-1] != sum(self.cardinalities):
            raise ValueError(
                f"expected rows of {sum(self.cardinalities)} one-hot numbers, got {v.shape[-1]}; {ONE_HOT}"
            )
        _require(v, (v == 0) | (v == 1), "0 and 1", ONE_HOT)
        on = torch.where(self.inside, v[..., self.index], 0).sum(-1)
        _require(v, on == 1, "one unit that is on in each group", ONE_HOT)

    def settings(self) -> dict[str, object]:
        """Arguments that build the same piece again."""
        return {"cardinalities": self.cardinalities}

    def _grouped(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S G K"]:
        return torch.where(self.inside, eta[..., self.index], -torch.inf)


class CountUnits(nn.Module):
    """Whole numbers from 0, v | h ~ Poisson(exp η) unit by unit.

    With {0, 1} hidden units η has finitely many values, so that Z = Σ_h exp(c h + Σ_i exp(b_i + W_i h)) is finite whatever
    the signs of W.
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

    def natural(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        return torch.log((v.sum(0) + 1) / (len(v) + 1))

    def check(self, v: Tensor) -> None:
        _require(
            v, torch.isfinite(v) & (v >= 0) & (v == v.round()), "counts 0, 1, 2, …", "round, or take GaussianUnits"
        )

    def settings(self) -> dict[str, object]:
        """Arguments that build the same piece again."""
        return {}


def frozen(units: Module) -> Module:
    """A copy in float64 whose parameters take no gradients."""
    return deepcopy(units).double().requires_grad_(False)


def _require(v: Tensor, valid: Bool[Tensor, "..."], expected: str, remedy: str) -> None:
    if v.dim() < 2 or not v.numel() or not bool(valid.all()):
        raise ValueError(
            f"expected rows (N, V) of {expected} with N > 0, got {tuple(v.shape)} with other values or none; {remedy}"
        )
