"""Translation of PyTorch's errors about shapes into terms of the model and its data."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from probmodel.protocols.dataset import Dataset


@contextmanager
def translated_errors(data: Dataset) -> Iterator[None]:
    """Context for a call of a model: turns errors about wrong shapes or names into a ValueError that states them.

    Raises:
        ValueError: in place of an error of PyTorch or Python.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        shapes = [tuple(t.shape) for t in data.args if torch.is_tensor(t)]
        named = {name: tuple(t.shape) for name, t in data.kwargs.items() if torch.is_tensor(t)}
        devices = sorted({str(t.device) for t in data.tensors()})
        first = (str(error).strip() or "no message").split("\nTrace Shapes")[0]
        raise ValueError(
            f"expected a model that runs on its data, got {type(error).__name__}: {first}; check names and shapes of the "
            f"data, positional {shapes} and named {named} on {' and '.join(devices) or 'no device'}, against the model's "
            "arguments and sites"
        ) from error
