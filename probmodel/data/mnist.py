"""MNIST: 70,000 handwritten digits of 28 × 28 pixels (LeCun, Bottou, Bengio & Haffner, 1998)."""

import os
import zipfile
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import fetch_openml
from torch import Tensor

from probmodel.data.locate import VARIABLE, locate
from probmodel.data.prepare import standardize_images
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset

FILE = "mnist/mnist.npz"
"""Path of the images below PROBMODEL_DATA, with arrays x_train, y_train, x_test, y_test."""

NUM_TRAIN = 60_000
"""Number of training images, which are the first rows on OpenML."""


@checks_arguments
def mnist(dtype: torch.dtype = torch.float32) -> tuple[Dataset, Dataset]:
    """MNIST in its original split, standardized by one mean and sd of the training images.

    Read from mnist/mnist.npz below PROBMODEL_DATA where that variable is set, else fetched from OpenML.

    Args:
        dtype: dtype of the images.

    Returns:
        (train, test) of 60,000 and 10,000 rows, each Dataset((x,), {"y": y}) with x of shape (N, 1, 28, 28) and
        y (N,) int64 in 0 … 9.

    Raises:
        FileNotFoundError: where the file is missing, or there is neither the variable nor a connection to OpenML.
        ValueError: for a file that does not hold the images.

    Reference:
        LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning applied to document recognition.
    """
    raw = _read() if os.environ.get(VARIABLE) else _fetch()
    x_train, x_test = standardize_images(_images(raw.x_train, dtype), _images(raw.x_test, dtype))
    return (
        Dataset((x_train,), {"y": torch.from_numpy(raw.y_train.astype(np.int64))}, len(x_train)),
        Dataset((x_test,), {"y": torch.from_numpy(raw.y_test.astype(np.int64))}, len(x_test)),
    )


class _Raw(NamedTuple):
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def _images(x: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(x.reshape(-1, 1, 28, 28)).to(dtype)


def _read() -> _Raw:
    path = locate(FILE)
    remedy = "put the original file in its place"
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            raw = _Raw(*(file[name] for name in _Raw._fields))
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"expected the arrays {_Raw._fields} in {path}, got: {error}; {remedy}") from error
    for x, y in ((raw.x_train, raw.y_train), (raw.x_test, raw.y_test)):
        if x.shape[1:] != (28, 28) or x.dtype != np.uint8 or y.shape != x.shape[:1]:
            got = f"{x.dtype} {x.shape} and {y.shape}"
            raise ValueError(f"expected uint8 images (N, 28, 28) and labels (N,) in {path}, got {got}; {remedy}")
        if len(y) == 0 or not np.isin(y, range(10)).all():
            raise ValueError(f"expected labels in 0 … 9 in {path}, got {np.unique(y)[:20].tolist()}; {remedy}")
    return raw


def _fetch() -> _Raw:
    try:
        x, y = fetch_openml("mnist_784", version=1, as_frame=False, return_X_y=True, parser="auto")
    except OSError as error:
        remedy = f"set {VARIABLE} to a folder that holds {FILE}, or connect to the internet"
        raise FileNotFoundError(f"expected MNIST in {VARIABLE} or on OpenML, got: {error}; {remedy}") from error
    return _Raw(x[:NUM_TRAIN], y[:NUM_TRAIN], x[NUM_TRAIN:], y[NUM_TRAIN:])
