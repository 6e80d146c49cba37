"""Handwritten digits: 1,797 images of 8 × 8 pixels that come with scikit-learn (Alpaydin & Kaynak, 1998)."""

import torch
from sklearn.datasets import load_digits

from probmodel.data.prepare import split, standardize_images
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset


@checks_arguments
def digits(*, seed: int, dtype: torch.dtype = torch.float32) -> tuple[Dataset, Dataset]:
    """The digits, split 80 / 20 within each class and standardized by one mean and sd of the training images.

    >>> train, test = digits(seed=0)
    >>> train.args[0].shape, test.kwargs["y"].shape
    (torch.Size([1437, 1, 8, 8]), torch.Size([360]))

    Args:
        seed: seed of the split.
        dtype: dtype of the images.

    Returns:
        (train, test), each Dataset((x,), {"y": y}) with x of shape (N, 1, 8, 8) and y (N,) int64 in 0 … 9.

    Reference:
        Alpaydin & Kaynak (1998), Optical recognition of handwritten digits, UCI repository.
    """
    raw = load_digits()
    x = torch.from_numpy(raw.images).to(dtype).unsqueeze(1)
    y = torch.from_numpy(raw.target).long()
    train, test = split(Dataset((x,), {"y": y}, len(x)), seed=seed, stratify=y)
    scaled = standardize_images(train.args[0], test.args[0])
    return train._replace(args=(scaled[0],)), test._replace(args=(scaled[1],))
