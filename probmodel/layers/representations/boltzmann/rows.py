"""Which data a Boltzmann machine is called with as the density of rows."""

from collections.abc import Callable

from torch import Tensor

from probmodel.protocols.dataset import Dataset


def check_call(kind: str, data: Dataset, check_rows: Callable[[Tensor], None]) -> None:
    """Raise ValueError unless data is `Dataset((x,), {}, N)` with rows that pass."""
    values = data.named("x")
    if set(values) != {"x"}:
        raise ValueError(
            f"expected {kind} to be called with x alone, got {sorted(values)}; pass Dataset((x,), {{}}, N)"
        )
    check_rows(values["x"])
