"""An ordinary job: a Pyro model as people write it, its data, and what is known about it from elsewhere."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probmodel.protocols.dataset import Dataset


class Job(NamedTuple):
    """A model with data and its truth; floats are of the default dtype.

    Args:
        model: any Pyro model.
        data: data for its call.
        held_out: new rows, where the model has rows.
        plain: model of the same latents whose density plain Pyro gives by one run, without discrete or masked latents;
            None takes the model itself.
        log_evidence: exact log evidence in nats, by a way of its own.
        has_guide: whether Pyro's automatic guides take the model.
        has_rows: whether new rows have a likelihood each, rather than one of all.
    """

    model: Callable[..., Any]
    data: Dataset
    held_out: Dataset | None = None
    plain: Callable[..., Any] | None = None
    log_evidence: Callable[[], float] | None = None
    has_guide: bool = True
    has_rows: bool = True


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.get_default_dtype())


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, the same in every dtype."""
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(torch.get_default_dtype())


def uniform(*shape: int, seed: int = 0) -> Tensor:
    drawn = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(torch.get_default_dtype())


def counts(mean: float, *shape: int, seed: int = 0) -> Tensor:
    """Poisson counts."""
    rates = torch.full(shape, mean, dtype=torch.float64)
    return torch.poisson(rates, torch.Generator().manual_seed(seed)).to(torch.get_default_dtype())


def flags(probability: float, *shape: int, seed: int = 0) -> Tensor:
    return (uniform(*shape, seed=seed) < probability).to(torch.get_default_dtype())


def labels(number: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(number, shape, generator=torch.Generator().manual_seed(seed))


def rows(*args: Any, held_out: int, **kwargs: Any) -> tuple[Dataset, Dataset]:
    """Training rows and held-out rows of tensors whose first axis runs over rows."""
    whole = Dataset(args, kwargs, len(args[0]) if args else len(next(iter(kwargs.values()))))
    size = whole.size or 0
    trained, new = whole.rows(slice(size - held_out)), whole.rows(slice(size - held_out, size))
    return trained._replace(size=size - held_out), new._replace(size=held_out)


def gaussian_evidence(design: Tensor, y: Tensor, scale: float, prior: float = 1.0) -> float:
    """log p(y) of y ~ N(X w, scale²), w ~ N(0, prior²), by the multivariate normal."""
    covariance = prior**2 * design @ design.mT + scale**2 * torch.eye(len(y), dtype=design.dtype)
    zero = torch.zeros_like(y)
    return float(torch.distributions.MultivariateNormal(zero, covariance).log_prob(y))
