"""Predictive distributions as lists of distributions, one per draw, for families whose parameters cannot be stacked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Distribution

MOMENT_DRAWS, PART_DRAWS = 4_000, 400
"""Draws from which the mean and variance of a distribution without a closed form are estimated, alone and in a list."""


class Stacked(Distribution):
    """S distributions of one family and batch shape B, as one of batch shape (S, *B).

    Args:
        parts: the distributions, S of them.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, parts: Sequence[Distribution]) -> None:
        self.parts = tuple(parts)
        shape = torch.Size((len(self.parts), *self.parts[0].batch_shape))
        super().__init__(shape, self.parts[0].event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.parts[0].support

    @property
    def mean(self) -> Float[Tensor, "S *B"]:
        return self._moments()[0]

    @property
    def variance(self) -> Float[Tensor, "S *B"]:
        return self._moments()[1]

    def _moments(self) -> tuple[Tensor, Tensor]:
        with _seeded():
            means, variances = zip(*(_moments(part, PART_DRAWS) for part in self.parts), strict=True)
        return torch.stack(means), torch.stack(variances)

    def log_prob(self, value: Tensor) -> Float[Tensor, "S *B"]:
        """Log density of values under each distribution, in nats; an S axis of the value is optional."""
        whole = value.expand(self.batch_shape + self.event_shape)
        return torch.stack([part.log_prob(each) for part, each in zip(self.parts, whole, strict=True)])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        return torch.stack([part.sample(shape) for part in self.parts], len(shape))


class DrawMixture(Distribution):
    """Mixture of S distributions of batch shape B, with weights by batch entry.

    Args:
        parts: the distributions, S of them.
        log_weights: log weights up to a constant, (S, *B).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, parts: Sequence[Distribution], log_weights: Float[Tensor, "S *B"]) -> None:
        self.stacked = Stacked(parts)
        self.log_weights = log_weights.expand(self.stacked.batch_shape).log_softmax(0)
        super().__init__(parts[0].batch_shape, parts[0].event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.stacked.support

    @property
    def mean(self) -> Float[Tensor, "*B"]:
        return self._mean(self.stacked.mean)

    @property
    def variance(self) -> Float[Tensor, "*B"]:
        mean = self.stacked.mean
        return self._mean(self.stacked.variance + mean.square()) - self._mean(mean).square()

    def log_prob(self, value: Tensor) -> Float[Tensor, "*B"]:
        """Log density, in nats."""
        return (self.stacked.log_prob(value) + self.log_weights).logsumexp(0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        chosen = Categorical(logits=self.log_weights.movedim(0, -1)).sample(shape)
        index = chosen.reshape(*chosen.shape, *(1,) * len(self.event_shape)).expand(*chosen.shape, *self.event_shape)
        return self.stacked.sample(shape).gather(len(shape), index.unsqueeze(len(shape))).squeeze(len(shape))

    def _mean(self, by_draw: Float[Tensor, "S *B"]) -> Float[Tensor, "*B"]:
        weights = self.log_weights.exp()
        return (weights.reshape(*weights.shape, *(1,) * len(self.event_shape)) * by_draw).sum(0)


def moments(distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Mean and variance, in closed form where the family has one, else from seeded draws."""
    with _seeded():
        return _moments(distribution, MOMENT_DRAWS)


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _moments(distribution: Distribution, num_draws: int) -> tuple[Tensor, Tensor]:
    try:
        return distribution.mean, distribution.variance
    except (NotImplementedError, AttributeError):
        draws = distribution.sample(torch.Size([num_draws])).double()
        return draws.mean(0), draws.var(0)
