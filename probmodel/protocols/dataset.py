"""How a model is called, and the fingerprint of what was observed."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


class Dataset(NamedTuple):
    """How a model is called: `model(*args, **kwargs)`.

    Tensors that share the first tensor's first axis are aligned by row when `size` is given.

    Args:
        args: positional arguments of the model.
        kwargs: keyword arguments of the model; observations usually go here.
        size: rows of the full data set; a minibatch keeps the full size, which is what scales it. None where the data
            have no rows that could be taken out.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    size: int | None = None

    @property
    def num_rows(self) -> int | None:
        """Rows held here (the batch), or None when `size` is None."""
        return None if self.size is None else len(self.tensors()[0])

    def named(self, *names: str) -> dict[str, Any]:
        """Arguments by name, where the positional ones have these names in the model's signature."""
        return dict(zip(names, self.args, strict=False)) | dict(self.kwargs)

    def tensors(self) -> list[Tensor]:
        """All tensors, positional ones first."""
        values = [*self.args, *self.kwargs.values()]
        return [value for value in values if isinstance(value, Tensor)]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Dataset":
        """Apply `function` to each tensor; everything else passes through."""

        def apply(value: Any) -> Any:
            return function(value) if isinstance(value, Tensor) else value

        return Dataset(
            tuple(apply(value) for value in self.args),
            {name: apply(value) for name, value in self.kwargs.items()},
            self.size,
        )

    def rows(self, index: Int[Tensor, " B"] | slice) -> "Dataset":
        """The minibatch of the rows in `index`; `size` stays that of the full set."""
        count = self.num_rows
        if count is None:
            raise ValueError("expected data with rows, got size=None; give Dataset(args, kwargs, size=number of rows)")
        return self.map(lambda t: t[index] if t.dim() and len(t) == count else t)

    def to(self, target: torch.device | torch.dtype | str) -> "Dataset":
        """The same data on another device, or its floating-point tensors in another dtype."""
        if isinstance(target, torch.dtype):
            return self.map(lambda t: t.to(target) if t.is_floating_point() else t)
        return self.map(lambda t: t.to(target))


def digest(values: list[Tensor]) -> str:
    """Fingerprint of observed values: equal for the same numbers in any dtype, device or order of sites."""
    parts = sorted(value.detach().cpu().double().contiguous().numpy().tobytes() for value in values)
    return hashlib.sha256(b"|".join(parts)).hexdigest()[:16]


def counted(value: Tensor, kept: Tensor) -> Tensor:
    """What a digest takes of a value of which a mask leaves some out: with the mask, since an evidence depends on it."""
    # By NumPy, since a number taken out of a tensor would end a recording in which sites are looked at.
    if kept.detach().cpu().numpy().all():
        return value
    return torch.cat([value.double().reshape(-1), kept.to(value.device).double().reshape(-1)])
