"""Regression by the mean of the predictive distribution, with its variance."""

from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from probmodel.protocols.arguments.checks import checks_arguments


class Affine(NamedTuple):
    """Affine normal likelihood y ~ N(W z + b, σ² I)."""

    weight: Float[Tensor, "P K"]
    bias: Float[Tensor, " P"]
    noise: Float[Tensor, ""]
    """Variance σ² of the noise."""


class Regress(nn.Module):
    """Regression: y ~ N(W z + b, σ² I), with σ a parameter or a function of z.

    The action is the predictive mean, which has the least expected squared loss.
    Noise that differs between rows is a function of the code, such as `Regress(8, 1, noise=nn.Linear(8, 1))`.

    Args:
        in_features: width of z.
        out_features: number of responses per row.
        noise: initial value of σ; or a module z → log σ, (N, out_features), or (N, 1) for one σ per row.

    Raises:
        ValueError: if the initial value of σ is not positive; in `likelihood`, if the module `noise` has a wrong
            number of outputs.

    Reference:
        Goldberg, Williams & Bishop (1998), Regression with Input-dependent Noise: A Gaussian Process Treatment,
        NeurIPS.
    """

    @checks_arguments
    def __init__(self, in_features: int, out_features: int = 1, *, noise: float | nn.Module = 1.0) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        depends_on_code = isinstance(noise, nn.Module)
        self.initial_noise = None if depends_on_code else noise
        self.log_noise: Any = noise if depends_on_code else _log_scale(noise)  # type: ignore[arg-type]
        self.mean = nn.Linear(in_features, out_features)

    def likelihood(self, z: Float[Tensor, "*S N K"]) -> TorchDistributionMixin:
        """Normal distribution of y given the codes, one per row."""
        loc = self.mean(z)
        log_noise: Any = self.log_noise(z) if self.initial_noise is None else self.log_noise
        if log_noise.dim() and log_noise.shape[-1] not in (1, self.out_features):
            raise ValueError(
                f"expected noise with {self.out_features} outputs (log scales), got {log_noise.shape[-1]}; change its "
                "last layer"
            )
        return dist.Normal(loc, log_noise.exp().to(loc).expand(loc.shape)).to_event(1)

    def affine(self) -> Affine:
        """The likelihood as an affine map of z with normal noise.

        Raises:
            ValueError: if the noise depends on z.
        """
        if self.initial_noise is None:
            raise ValueError("expected one noise for all rows, got a function of the code; set noise to a number")
        return Affine(self.mean.weight, self.mean.bias, (2 * self.log_noise).exp())

    def act(self, predictive: torch.distributions.Distribution) -> Tensor:
        """Predictive mean of each row, (N, out_features)."""
        return predictive.mean

    def observed(self, y: Tensor) -> Tensor:
        """Responses as a matrix (N, out_features)."""
        return y[:, None] if y.dim() == 1 else y

    def check(self, y: Tensor) -> None:
        """Raise ValueError for y of a wrong shape or dtype."""
        if self.observed(y).dim() != 2 or self.observed(y).shape[1] != self.out_features:
            raise ValueError(
                f"expected y of shape (N, {self.out_features}), got {tuple(y.shape)}; set out_features or reshape y"
            )
        if not y.is_floating_point():
            raise ValueError(
                f"expected floating-point numbers in y, got {y.dtype}; convert with y.float(), or use Classify"
            )

    def check_training(self, y: Tensor) -> None:
        """Accept any y that can be scored: even a constant response has a best fit."""

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        noise = self.log_noise if self.initial_noise is None else self.initial_noise
        return {"in_features": self.in_features, "out_features": self.out_features, "noise": noise}


def _log_scale(noise: float) -> nn.Parameter:
    if not noise > 0:
        raise ValueError(f"expected noise as a positive standard deviation, got {noise}; 1.0 is the default")
    return nn.Parameter(torch.tensor(noise).log())
