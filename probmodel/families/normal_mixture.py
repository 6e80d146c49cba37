"""Mixtures of univariate normals as predictive distributions: density, quantiles, modes (Carreira-Perpiñán, 2000)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, Normal, constraints

from probmodel.protocols.arguments.checks import checks_arguments

NUM_BISECTIONS = 80
"""Number of halvings of the bracket, more than the bits of a float64."""
MEAN_SHIFT_STEPS = 500
"""Number of mean-shift steps from each component's mean."""
NUM_PATH_POINTS, LEAST_DIP = 65, 1e-9
"""Number of points between two candidate modes, and nats by which the log density has to be lower at one of them."""
SAME_MODE = 1e-2
"""Fraction of the narrowest scale; two modes closer than that are one."""


class NormalMixture(dist.MixtureSameFamily):
    """Mixture Σ_k w_k N(loc_k, scale_k²) that keeps its shape, instead of being summarized by mean and variance.

    Args:
        logits: log weights log w_k up to a constant, (*B, K).
        loc: means of the components, (*B, K).
        scale: standard deviations of the components, (*B, K).
        validate_args: whether to check the parameters; None takes PyTorch's default.
    """

    arg_constraints: ClassVar = {
        "logits": constraints.independent(constraints.real, 1),
        "loc": constraints.independent(constraints.real, 1),
        "scale": constraints.independent(constraints.positive, 1),
    }

    def __init__(
        self,
        logits: Float[Tensor, "*B K"],
        loc: Float[Tensor, "*B K"],
        scale: Float[Tensor, "*B K"],
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(
            dist.Categorical(logits=logits, validate_args=validate_args),
            dist.Normal(loc, scale, validate_args=validate_args),
            validate_args=False,
        )

    def expand(self, batch_shape: Any, _instance: Any = None) -> "NormalMixture":
        shape = torch.Size((*batch_shape, self.loc.shape[-1]))
        return NormalMixture(self.logits.expand(shape), self.loc.expand(shape), self.scale.expand(shape))

    @property
    def logits(self) -> Float[Tensor, "*B K"]:
        """Normalized log weights."""
        return self.mixture_distribution.logits

    @property
    def loc(self) -> Float[Tensor, "*B K"]:
        """Means of the components."""
        return self.component_distribution.loc

    @property
    def scale(self) -> Float[Tensor, "*B K"]:
        """Standard deviations of the components."""
        return self.component_distribution.scale


@checks_arguments
def quantiles(
    distribution: Distribution, probabilities: Tensor | np.ndarray | Sequence[float]
) -> Float[Tensor, "Q *B"]:
    """Quantiles of a univariate distribution, by bisection of its distribution function.

    Args:
        distribution: distribution of real numbers with a `cdf`, such as a `NormalMixture` or the `distribution` of a
            `Prediction`; with several outputs per row each output has its own quantiles.
        probabilities: probabilities (Q,), strictly between 0 and 1.

    Returns:
        One quantile for each probability and each element of the batch, (Q, *B).

    Raises:
        TypeError: for a distribution of anything but real numbers.
        ValueError: for probabilities outside (0, 1).
    """
    distribution = by_output(distribution)
    like = distribution.mean
    probabilities = torch.as_tensor(probabilities, dtype=like.dtype, device=like.device).reshape(-1)
    if not bool(((probabilities > 0) & (probabilities < 1)).all()):
        raise ValueError(
            f"expected probabilities between 0 and 1, got {probabilities.tolist()}; pass values above 0 and below 1"
        )
    p = probabilities.reshape(-1, *(1,) * len(distribution.batch_shape))
    # Cantelli's inequality: a quantile lies within sqrt((1 − p) / p) or its inverse standard deviations of the mean.
    low = distribution.mean - distribution.stddev * ((1 - p) / p).sqrt()
    high = distribution.mean + distribution.stddev * (p / (1 - p)).sqrt()
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        below = distribution.cdf(middle) < p
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def by_output(distribution: Distribution) -> Distribution:
    """Marginal distribution of each output: mixtures of independent normals become one mixture per output.

    Raises:
        TypeError: for discrete distributions, dependent vectors, and distributions without a support.
    """
    if isinstance(distribution, MixtureSameFamily) and isinstance(distribution.component_distribution, Independent):
        normal = distribution.component_distribution.base_dist
        if isinstance(normal, Normal) and normal.loc.dim() == distribution.mixture_distribution.logits.dim() + 1:
            logits = distribution.mixture_distribution.logits[..., None, :]
            loc, scale = normal.loc.mT, normal.scale.mT
            return NormalMixture(logits.expand_as(loc), loc, scale)
    support = distribution.support
    if distribution.event_shape or support is None or support.is_discrete:
        raise TypeError(
            f"expected a distribution of real numbers, got {type(distribution).__name__} of event shape "
            f"{tuple(distribution.event_shape)}; pass the distribution of a regression's Prediction"
        )
    return distribution


@checks_arguments
def modes(distribution: Distribution, *, least: float = 0.0) -> list[Float[Tensor, " M"]]:
    """Local maxima of each density, the highest first, by mean shift from every component's mean.

    Args:
        distribution: mixture of normals, a `NormalMixture` or the `distribution` of a `Prediction`, of batch shape
            (n,).
        least: fraction of the highest maximum's density below which other maxima are left out, in [0, 1); 0 keeps all,
            also those of components with negligible weight.

    Returns:
        One tensor of modes per row, or per row and output where there are several outputs.

    Raises:
        TypeError: for anything but a mixture of normals.
        ValueError: for `least` outside [0, 1).

    Reference:
        Carreira-Perpiñán (2000), "Mode-finding for mixtures of Gaussian distributions".
    """
    if not 0.0 <= least < 1.0:
        raise ValueError(
            f"expected least in [0, 1), got least={least:g}; pass 0.05 to leave out modes below a twentieth"
        )
    mixture = by_output(distribution)
    if not isinstance(mixture, NormalMixture):
        raise TypeError(f"expected a mixture of normals, got {type(mixture).__name__}; pass that of a Prediction")
    logits, loc, scale = (each.flatten(0, -2) for each in (mixture.logits, mixture.loc, mixture.scale))
    precision = scale.square().reciprocal()
    at = loc
    for _ in range(MEAN_SHIFT_STEPS):
        log_p = logits[:, None] + dist.Normal(loc[:, None], scale[:, None]).log_prob(at[..., None])
        weight = log_p.softmax(-1) * precision[:, None]
        at = (weight * loc[:, None]).sum(-1) / weight.sum(-1)
    height = _log_density(logits, loc, scale, at)
    resolution = SAME_MODE * scale.amin(-1)
    parts = zip(at, height, resolution, logits, loc, scale, strict=True)
    return [_distinct(*row, least=least) for row in parts]


def _log_density(logits: Tensor, loc: Tensor, scale: Tensor, at: Float[Tensor, "*B P"]) -> Float[Tensor, "*B P"]:
    normal = dist.Normal(loc[..., None, :], scale[..., None, :])
    return torch.logsumexp(logits[..., None, :] + normal.log_prob(at[..., None]), -1)


def _distinct(
    at: Tensor, height: Tensor, resolution: Tensor, logits: Tensor, loc: Tensor, scale: Tensor, *, least: float
) -> Tensor:
    """Distinct modes, the highest first, with a dip of the density between any two: mean shift is slow where modes merge."""
    kept: list[Tensor] = []
    steps = torch.linspace(0, 1, NUM_PATH_POINTS, dtype=at.dtype, device=at.device)
    order = height.argsort(descending=True)
    order = order[(height - height.max()).exp()[order] >= least]
    for value, top in zip(at[order], height[order], strict=True):
        near = any(bool((value - other).abs() <= resolution) for other in kept)
        if not near and all(
            bool(_log_density(logits, loc, scale, value + steps * (other - value)).min() < top - LEAST_DIP)
            for other in kept
        ):
            kept.append(value)
    return torch.stack(kept)
