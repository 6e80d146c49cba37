"""Check of the data with which a Boltzmann machine is called as a density of rows."""

from collections.abc import Callable

from torch import Tensor

from probmodel.protocols.dataset import Dataset


def check_row_data(kind: str, data: Dataset, check_rows: Callable[[Tensor], None]) -> None:
    """Raise ValueError unless data is `Dataset((x,), {}, N)` with rows that `check_rows` accepts.

    Args:
        kind: name of the machine in the message, with its article.
        data: data of the call.
        check_rows: function that raises ValueError for rows that the machine cannot have.
    """
    values = data.named("x")
    if set(values) != {"x"}:
        raise ValueError(
            f"expected {kind} to be called with x alone, got {sorted(values)}; pass Dataset((x,), {{}}, N)"
        )
    check_rows(values["x"])
