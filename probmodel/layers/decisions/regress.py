"""Numbers of a row: the mean of the predictive distribution, with its variance."""

from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn


class Affine(NamedTuple):
    """y ~ N(W z + b, σ² I)."""

    weight: Float[Tensor, "P K"]
    bias: Float[Tensor, " P"]
    noise: Float[Tensor, ""]
    """σ²."""


class Regress(nn.Module):
    """y ~ N(W z + b, σ² I), σ a parameter or a function of z; acts by the predictive mean (least squared loss).

    Noise that differs from row to row is a map of the code, such as `Regress(8, 1, noise=nn.Linear(8, 1))`.

    Args:
        in_features: width of z.
        out_features: numbers to predict a row.
        noise: where σ starts; or a module z → log σ, (N, out_features), or (N, 1) for all numbers of a row.

    Reference:
        Goldberg, Williams & Bishop (1998), Regression with Input-dependent Noise: A Gaussian Process Treatment, NeurIPS.
    """

    def __init__(self, in_features: int, out_features: int = 1, *, noise: float | nn.Module = 1.0) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.start = None if isinstance(noise, nn.Module) else noise
        self.log_noise = noise if isinstance(noise, nn.Module) else _log_scale(noise)
        self.mean = nn.Linear(in_features, out_features)

    def likelihood(self, z: Float[Tensor, "*S N K"]) -> TorchDistributionMixin:
        loc = self.mean(z)
        log_noise: Any = self.log_noise(z) if isinstance(self.log_noise, nn.Module) else self.log_noise
        if log_noise.dim() and log_noise.shape[-1] not in (1, self.out_features):
            raise ValueError(f"noise needs {self.out_features} outputs (log scales), got {log_noise.shape[-1]}")
        return dist.Normal(loc, log_noise.exp().to(loc).expand(loc.shape)).to_event(1)

    def affine(self) -> Affine:
        """The likelihood as a map of z with normal noise.

        Raises:
            ValueError: for noise that depends on z.
        """
        if isinstance(self.log_noise, nn.Module):
            raise ValueError("expected one noise for all rows, got a function of the code; set noise to a number")
        return Affine(self.mean.weight, self.mean.bias, (2 * self.log_noise).exp())

    def act(self, predictive: torch.distributions.Distribution) -> Tensor:
        """Predictive mean, (N, out_features)."""
        return predictive.mean

    def observed(self, y: Tensor) -> Tensor:
        """Y as (N, out_features)."""
        return y[:, None] if y.dim() == 1 else y

    def check(self, y: Tensor) -> None:
        """Raise ValueError for y of a wrong shape or kind."""
        if self.observed(y).dim() != 2 or self.observed(y).shape[1] != self.out_features:
            raise ValueError(
                f"y needs shape (N, {self.out_features}), got {tuple(y.shape)}; set out_features or reshape"
            )
        if not y.is_floating_point():
            raise ValueError(f"y needs real numbers, got {y.dtype}; convert with y.float(), or classify")

    def check_training(self, y: Tensor) -> None:
        """Accept any y that can be scored: even a constant has a best fit."""

    def settings(self) -> dict[str, object]:
        """Arguments that build the same piece again."""
        noise = self.log_noise if self.start is None else self.start
        return {"in_features": self.in_features, "out_features": self.out_features, "noise": noise}


def _log_scale(noise: float) -> nn.Parameter:
    if not noise > 0:
        raise ValueError(f"noise needs to be a positive standard deviation, got {noise}")
    return nn.Parameter(torch.tensor(noise).log())
