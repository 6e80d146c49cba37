"""Pooling functions between convolutions: maximum, average, and up-sampling."""

from dataclasses import asdict, dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from probmodel.protocols.arguments.checks import checks_arguments, checks_fields


@checks_fields
@dataclass(frozen=True)
class MaxPool:
    """Largest value of each window of `size` along every spatial axis.

    >>> import torch
    >>> MaxPool(2)(torch.arange(4.0).reshape(1, 1, 4)).tolist()
    [[[1.0, 3.0]]]
    """

    size: int = 2

    @checks_arguments
    def __call__(self, x: Float[Tensor, "N C *space"]) -> Float[Tensor, "N C *pooled"]:
        _check_maps(x)
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.dim() - 3]
        return pool(x, self.size)

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return asdict(self)


@checks_fields
@dataclass(frozen=True)
class AveragePool:
    """Mean of each window of `size` along every spatial axis."""

    size: int = 2

    @checks_arguments
    def __call__(self, x: Float[Tensor, "N C *space"]) -> Float[Tensor, "N C *pooled"]:
        _check_maps(x)
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.dim() - 3]
        return pool(x, self.size)

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return asdict(self)


@checks_fields
@dataclass(frozen=True)
class UpSample:
    """Each value repeated `size` times along every spatial axis, for the larger feature maps of a decoder."""

    size: int = 2

    @checks_arguments
    def __call__(self, x: Float[Tensor, "N C *space"]) -> Float[Tensor, "N C *pooled"]:
        _check_maps(x)
        return F.interpolate(x, scale_factor=float(self.size), mode="nearest")

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return asdict(self)


def _check_maps(x: Tensor) -> None:
    """Raise ValueError unless x holds feature maps with one to three spatial axes."""
    if x.dim() not in (3, 4, 5) or not x.numel():
        raise ValueError(
            f"expected feature maps (N, C, *space) with one to three spatial axes, got shape {tuple(x.shape)}; reshape them"
        )
