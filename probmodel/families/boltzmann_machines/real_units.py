"""Real-valued units of Boltzmann machines: normal, and continuous Bernoulli on [0, 1]."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.families.boltzmann_machines.units import LARGEST_NATURAL_PARAMETER, NUM_BISECTIONS, check_values, frozen
from probmodel.protocols.arguments.checks import checks_arguments

NEAR_ZERO = 1e-3
"""Magnitude of natural parameters of units in [0, 1] below which series are as exact as single precision."""


class ContinuousBernoulliUnits(nn.Module):
    """Units in [0, 1], such as gray levels, with density of v | η ∝ exp(η v) (Loaiza-Ganem & Cunningham, 2019)."""

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
        """Sum over units of log ((exp η − 1) / η), in nats."""
        size = eta.abs()
        # (exp η − 1) / η = exp(η / 2) 2 sinh(η / 2) / η; near 0, where that is 0 / 0, by its series.
        far = torch.where(size < NEAR_ZERO, 1.0, size)
        log_ratio = torch.where(
            size < NEAR_ZERO, eta**2 / 24, 0.5 * far + torch.log(-torch.expm1(-far)) - torch.log(far)
        )
        return (0.5 * eta + log_ratio).sum(-1)

    def sample(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        """Draws by inversion of the distribution function (exp(η v) − 1) / (exp η − 1)."""
        uniform = torch.rand_like(eta)
        size = eta.abs()
        far = torch.where(size < NEAR_ZERO, 1.0, size)
        # Draws for −|η| are mirrored where η is positive, so that no exponential overflows.
        low = -torch.log1p(uniform * torch.expm1(-far)) / far
        v = torch.where(size < NEAR_ZERO, uniform, low).clamp(0.0, 1.0)
        return torch.where(eta > 0, 1 - v, v)

    def natural_parameters(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        mean = (v.sum(0) + 0.5) / (len(v) + 1)
        low, high = torch.full_like(mean, -LARGEST_NATURAL_PARAMETER), torch.full_like(mean, LARGEST_NATURAL_PARAMETER)
        for _ in range(NUM_BISECTIONS):
            middle = (low + high) / 2
            above = self._mean(middle) > mean
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2

    def _mean(self, eta: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        far = torch.where(eta.abs() < NEAR_ZERO, 1.0, eta)
        return torch.where(eta.abs() < NEAR_ZERO, 0.5 + eta / 12, 1 / -torch.expm1(-far) - 1 / far)

    def check(self, v: Tensor) -> None:
        check_values(v, (v >= 0) & (v <= 1), "numbers from 0 to 1", "scale them: (x - low) / (high - low)")

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {}


class GaussianUnits(nn.Module):
    """Real-valued units, independent v | h ~ N(σ η, σ²); standardize the data where σ is fixed at 1.

    Args:
        num_units: number of units V.
        learn_scale: whether to fit one σ per unit, with initial value 1, instead of fixing all at 1.
    """

    binary = False

    @checks_arguments
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

    def natural_parameters(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        return self.statistic(v).mean(0)

    def check(self, v: Tensor) -> None:
        check_values(v, torch.isfinite(v), "finite numbers", "impute or drop rows with missing values")

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"num_units": self.num_units, "learn_scale": self.learn_scale}
