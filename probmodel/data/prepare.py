"""Preparation of data for fitting: standardization, splits, one-hot labels and minibatches."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.model_selection import train_test_split
from torch import Tensor

from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.dataset_checks import check_form, check_rows_can_be_taken
from probmodel.protocols.errors import DataWarning, warn
from probmodel.protocols.integers import checked_seed, integer

CONSTANT_COLUMN = 8.0
"""A standard deviation below this many machine epsilons of the largest value is the rounding error of the mean."""

SHOWN = 10
"""Largest number of columns that a warning lists."""


@checks_arguments
def standardize(train: Float[Tensor, "N *columns"], *others: Float[Tensor, "..."]) -> tuple[Tensor, ...]:
    """Columns of mean 0 and standard deviation 1: (x - mean) / sd, mean and sd those of `train` over its rows (ddof 0).

    >>> standardize(torch.tensor([[1.0], [3.0]]), torch.tensor([[4.0]]))
    (tensor([[-1.],
            [ 1.]]), tensor([[2.]]))

    Args:
        train: rows that determine the scale; at least two.
        others: further rows with the same columns, put on the scale of `train`.

    Returns:
        `train`, then each of `others`, in their dtype and on their device. A column constant in `train` is 0 in all.

    Raises:
        ValueError: for fewer than two rows, unequal columns, a dtype that is not floating-point, NaN or infinite values.

    Warns:
        UserWarning: naming the columns that are constant in `train`.
    """
    _check_scalable(train, others)
    sd, mean = torch.std_mean(train, dim=0, correction=0)
    _check_finite(sd, "the variance of train")
    constant = sd <= CONSTANT_COLUMN * torch.finfo(train.dtype).eps * train.abs().amax(0)
    if constant.any():
        warn(
            f"expected values that vary in train, got a constant in {_names(constant)}, scaled to zero; drop constant columns",
            DataWarning,
        )
    return tuple(torch.where(constant, 0, (x - mean) / sd) for x in (train, *others))


@checks_arguments
def standardize_images(train: Float[Tensor, "N C *space"], *others: Float[Tensor, "_ C *space"]) -> tuple[Tensor, ...]:
    """Images on the scale of `train`: (x - mean) / sd, one mean and one sd for all pixels (ddof 0).

    A constant pixel thus stays comparable with its neighbors.

    >>> images = torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1)
    >>> standardize_images(images)[0].flatten()
    tensor([-1.,  1.])

    Args:
        train: images that determine the scale; at least two.
        others: further images of the same shape.

    Returns:
        `train`, then each of `others`, in their dtype and on their device; all 0 where `train` is constant.

    Raises:
        ValueError: for fewer than two images, unequal shapes, a dtype that is not floating-point, NaN or infinite values.

    Warns:
        DataWarning: when all pixels of `train` are equal.
    """
    _check_scalable(train, others)
    sd, mean = torch.std_mean(train, correction=0)
    _check_finite(sd, "the variance of train")
    if sd <= CONSTANT_COLUMN * torch.finfo(train.dtype).eps * train.abs().max():
        warn(
            "expected values that vary in train, got a constant in all pixels, scaled to zero; check how the images were read",
            DataWarning,
        )
        return tuple(torch.zeros_like(x) for x in (train, *others))
    return tuple((x - mean) / sd for x in (train, *others))


@checks_arguments
def split(
    data: Dataset, *, test_fraction: float = 0.2, seed: int, stratify: Int[Tensor, " N"] | None = None
) -> tuple[Dataset, Dataset]:
    """Random split of the rows into training and test data.

    >>> train, test = split(Dataset((torch.arange(10.0),), size=10), seed=0)
    >>> train.size, test.size
    (8, 2)

    Args:
        data: a full data set with rows.
        test_fraction: fraction of the rows in the test data, rounded up to whole rows.
        seed: seed of the permutation.
        stratify: class of each row; both parts then hold the classes in the same proportions.

    Returns:
        (train, test), the `size` of each being its own number of rows.

    Raises:
        ValueError: for data without rows, a minibatch, fewer than two rows, NaN or infinite values, a fraction that
            leaves a part empty; when stratifying, for a wrong number of labels, a single class, or a class that cannot be
            in both parts.
    """
    num_rows, seed = _check_full(data), checked_seed(seed)
    if not 0 < test_fraction < 1:
        raise ValueError(f"expected 0 < test_fraction < 1, got {test_fraction}; pass the fraction of rows to hold out")
    num_test = math.ceil(test_fraction * num_rows)
    if num_test == num_rows:
        raise ValueError(f"expected a row left to train on, got {num_test} of {num_rows} to test; lower test_fraction")
    if stratify is not None:
        _check_strata(stratify, num_rows, num_test)
    labels = None if stratify is None else stratify.cpu().numpy()
    parts = train_test_split(np.arange(num_rows), test_size=num_test, random_state=seed, stratify=labels)
    train, test = (data.rows(torch.from_numpy(part))._replace(size=len(part)) for part in parts)
    return train, test


@checks_arguments
def one_hot(labels: Int[Tensor, "*rows"], num_classes: int) -> Int[Tensor, "*rows K"]:
    """Unit vectors of the classes: 1 at k = label, else 0.

    >>> one_hot(torch.tensor([2, 0]), 3)
    tensor([[0, 0, 1],
            [1, 0, 0]])

    Args:
        labels: class of each row, in 0 … num_classes - 1.
        num_classes: number of classes K.

    Returns:
        One-hot rows as int64, as from `torch.nn.functional.one_hot`.

    Raises:
        ValueError: for labels that are empty, not integers or out of range.
        TypeError: for labels that are not a tensor.
    """
    _check_tensor(labels, "labels")
    num_classes = integer("num_classes", num_classes)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"expected integer labels, got {labels.dtype}; convert them with labels.long()")
    if labels.numel() == 0:
        raise ValueError("expected at least one label, got none; check how the data were read")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        remedy = "number the classes from 0" if low < 0 else f"number the classes from 0 or pass num_classes={high + 1}"
        raise ValueError(f"expected labels in 0 … {num_classes - 1}, got {low} … {high}; {remedy}")
    return torch.nn.functional.one_hot(labels.long(), num_classes)


@checks_arguments
def with_one_hot(data: Dataset, num_classes: int) -> Dataset:
    """The same data with the integer labels `y` as one-hot rows.

    >>> with_one_hot(Dataset((torch.zeros(2, 1),), {"y": torch.tensor([1, 0])}, size=2), 2).kwargs["y"].tolist()
    [[0, 1], [1, 0]]

    Raises:
        ValueError: for data without a keyword argument `y`, and for labels that `one_hot` refuses.
    """
    check_form(data)
    if "y" not in data.kwargs:
        raise ValueError(
            f"expected labels under the name 'y', got {sorted(data.kwargs)}; pass Dataset(args, {{'y': y}})"
        )
    return data._replace(kwargs={**data.kwargs, "y": one_hot(data.kwargs["y"], num_classes)})


@checks_arguments
def batches(num_rows: int, batch_size: int, generator: torch.Generator) -> Iterator[Int[Tensor, " B"]]:
    """Endless sequence of minibatches as row indices; each epoch is a fresh permutation.

    All batches are of equal size: the rows left over at the end of an epoch, different ones each time, are dropped.

    >>> stream = batches(5, 2, torch.Generator().manual_seed(0))
    >>> [len(next(stream)) for _ in range(4)]
    [2, 2, 2, 2]
    >>> next(batches(3, 8, torch.Generator()))
    tensor([0, 1, 2])

    Args:
        num_rows: number of rows of the data set.
        batch_size: rows per batch B; from `num_rows` upward each batch holds all rows in order.
        generator: random number generator of the permutations; its device is that of the row indices.

    Raises:
        ValueError: for fewer than one row in the data or in a batch.
    """
    return _endless(integer("num_rows", num_rows), integer("batch_size", batch_size), generator)


def _endless(num_rows: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while batch_size >= num_rows:
        yield torch.arange(num_rows, device=generator.device)
    num_batches = num_rows // batch_size
    while True:
        order = torch.randperm(num_rows, generator=generator, device=generator.device)
        yield from order[: num_batches * batch_size].split(batch_size)


def _names(constant: Tensor) -> str:
    if constant.dim() == 0:
        return "the only column"
    index = [entry[0] if len(entry) == 1 else tuple(entry) for entry in constant.nonzero().tolist()]
    more = f" and {len(index) - SHOWN} more" if len(index) > SHOWN else ""
    return f"columns {', '.join(map(str, index[:SHOWN]))}{more}"


def _check_finite(x: Tensor, name: str) -> None:
    bad = x.numel() - int(x.isfinite().sum())
    if bad:
        remedy = "drop or impute the rows, or rescale values too large for the dtype"
        raise ValueError(f"expected finite values in {name}, got {bad} NaN or infinite of {x.numel()}; {remedy}")


def _check_tensor(x: Any, name: str) -> None:
    if not torch.is_tensor(x):
        remedy = "pass torch.as_tensor(array), or one tensor of a Dataset at a time"
        raise TypeError(f"expected a tensor as {name}, got {type(x).__name__}; {remedy}")


def _check_scalable(train: Any, others: tuple[Any, ...]) -> None:
    _check_tensor(train, "train")
    for x in others:
        _check_tensor(x, "further rows")
    if train.dim() == 0 or len(train) < 2 or train.numel() == 0:
        raise ValueError(f"expected at least two rows in train, got shape {tuple(train.shape)}; pass more data")
    for x in (train, *others):
        if not x.is_floating_point():
            raise ValueError(f"expected floating-point values, got {x.dtype}; convert with x.to(torch.float32)")
        if x.shape[1:] != train.shape[1:] or x.dim() == 0:
            want, got = tuple(train.shape[1:]), tuple(x.shape)
            raise ValueError(f"expected rows of shape {want} as in train, got {got}; pass the same columns in all")
        _check_finite(x, "the data")


def _check_full(data: Dataset) -> int:
    check_form(data)
    tensors = data.tensors()
    if data.size is None or not tensors or tensors[0].dim() == 0:
        got = f"size={data.size} and {len(tensors)} tensors"
        rows = len(tensors[0]) if tensors and tensors[0].dim() else "number of rows"
        raise ValueError(f"expected data with rows, got {got}; pass Dataset(args, kwargs, size={rows})")
    check_rows_can_be_taken(data)
    if len(tensors[0]) != data.size:
        raise ValueError(f"expected all {data.size} rows, got {len(tensors[0])}; split before taking minibatches")
    if data.size < 2:
        raise ValueError(f"expected at least two rows, got {data.size}; pass more data")
    for name, x in data.by_name().items():
        if torch.is_tensor(x):
            _check_finite(x, name)
    return data.size


def _check_strata(stratify: Tensor, num_rows: int, num_test: int) -> None:
    if stratify.shape != (num_rows,):
        remedy = "pass one class per row"
        raise ValueError(f"expected stratify of shape ({num_rows},), got {tuple(stratify.shape)}; {remedy}")
    if stratify.is_floating_point():
        raise ValueError(f"expected integer classes in stratify, got {stratify.dtype}; convert with .long()")
    classes, counts = stratify.unique(return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"expected at least two classes to stratify by, got {classes.tolist()}; leave stratify out")
    if counts.min() < 2:
        rare = classes[counts < 2].tolist()
        raise ValueError(f"expected two rows or more of each class, got one of {rare}; drop or merge these classes")
    if min(num_test, num_rows - num_test) < len(classes):
        got = f"{num_rows - num_test} train and {num_test} test rows for {len(classes)} classes"
        raise ValueError(f"expected each class in both parts, got {got}; change test_fraction or pass more data")
