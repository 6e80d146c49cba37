"""Convolutional features of signals, images and volumes (LeCun et al., 1998, "Gradient-based learning")."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.layers.features.pooling import MaxPool
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.integers import integer, integers

Pooling = Callable[[Tensor], Tensor]


class CNN(nn.Module):
    """Convolutional network: convolution, rectifier, pooling for each entry of `channels`, then fully connected layers.

    The last feature map is averaged to `grid` cells per axis, so that the `dims` spatial axes of x may have any size.

    Args:
        in_channels: number of channels of x.
        out_features: width of h.
        channels: number of channels after each convolution.
        kernel_size: width of the convolution kernels, odd; feature maps keep their size between poolings.
        pool: pooling after each rectifier: `MaxPool`, `AveragePool`, `UpSample`, or any function of feature maps.
        grid: number of cells per axis of the last feature map.
        hidden: widths of the fully connected layers before the last.
        dims: number of spatial axes of x: 1 for signals, 2 for images, 3 for volumes.

    Raises:
        ValueError: if `dims` is outside 1 to 3 or `kernel_size` is even; on the call, if x has a wrong number of axes
            or channels.
    """

    @checks_arguments
    def __init__(
        self,
        in_channels: int,
        out_features: int,
        *,
        channels: Sequence[int] = (16, 32),
        kernel_size: int = 3,
        pool: Pooling = MaxPool(2),
        grid: int = 4,
        hidden: Sequence[int] = (),
        dims: int = 2,
    ) -> None:
        super().__init__()
        if dims not in (1, 2, 3):
            raise ValueError(f"expected dims of 1, 2 or 3 spatial axes, got {dims}; fold further axes into channels")
        if kernel_size % 2 == 0:
            raise ValueError(f"expected an odd kernel_size, got {kernel_size}; use {kernel_size + 1}")
        self.in_channels, self.out_features = in_channels, out_features
        self.channels, self.hidden = integers("channels", channels), integers("hidden", hidden)
        self.kernel_size, self.pool, self.grid, self.dims = kernel_size, pool, integer("grid", grid), dims
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        widths = (in_channels, *self.channels)
        self.convolutions = nn.ModuleList(
            convolution(a, b, kernel_size, padding=kernel_size // 2) for a, b in pairwise(widths)
        )
        self.connected = fully_connected(widths[-1] * grid**dims, out_features, self.hidden)

    def forward(self, x: Float[Tensor, "N C *space"]) -> Float[Tensor, "N D"]:
        if x.dim() != self.dims + 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"expected x of shape (N, {self.in_channels}, {', '.join(['size'] * self.dims)}), got {tuple(x.shape)}; "
                "reshape it so that the channels are its second axis"
            )
        for convolve in self.convolutions:
            x = self.pool(F.relu(convolve(x)))
        average = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[self.dims - 1]
        return self.connected(average(x, self.grid).flatten(1))

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {
            "in_channels": self.in_channels,
            "out_features": self.out_features,
            "channels": self.channels,
            "kernel_size": self.kernel_size,
            "pool": self.pool,
            "grid": self.grid,
            "hidden": self.hidden,
            "dims": self.dims,
        }


def fully_connected(in_features: int, out_features: int, hidden: Sequence[int]) -> nn.Sequential:
    """Linear layers of the widths in_features, *hidden, out_features, with rectifiers between them."""
    widths = (in_features, *hidden, out_features)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.ReLU(), nn.Linear(a, b)]
    return nn.Sequential(*layers[1:])
