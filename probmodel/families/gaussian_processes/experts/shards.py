"""Division of a data set's rows among experts, at random or by k-means on the inputs (Lloyd, 1982)."""

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from torch import Tensor

from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.integers import checked_seed, integer


@checks_arguments
def random_shards(num_rows: int, num_shards: int, *, seed: int = 0) -> Int[Tensor, " n"]:
    """Random shard 0 … num_shards − 1 of each row, with sizes that differ by at most one.

    >>> random_shards(5, 2, seed=1).bincount()
    tensor([3, 2])

    Args:
        num_rows: number of rows.
        num_shards: number of shards.
        seed: seed of the random division.

    Raises:
        ValueError: for more shards than rows.
    """
    num_shards = _checked(num_rows, num_shards)
    order = np.random.default_rng(checked_seed(seed)).permutation(num_rows)
    return torch.from_numpy(order % num_shards)


@checks_arguments
def kmeans_shards(x: Float[Tensor, "n D"], num_shards: int, *, seed: int = 0) -> Int[Tensor, " n"]:
    """Shard 0 … num_shards − 1 of each row by k-means, which groups nearby rows; sizes differ, and the largest costs most.

    Args:
        x: inputs (n, D), in units in which Euclidean distances are meaningful.
        num_shards: number of shards.
        seed: seed of the initial centers.

    Raises:
        ValueError: for more shards than distinct rows.
    """
    num_shards = _checked(len(torch.unique(x.detach(), dim=0)), num_shards)
    rows = x.detach().cpu().numpy()
    return torch.from_numpy(KMeans(num_shards, n_init=1, random_state=checked_seed(seed)).fit_predict(rows)).long()


def rows_of(assignment: Int[Tensor, " n"]) -> tuple[Int[Tensor, " _"], ...]:
    """Row numbers of each shard.

    Raises:
        ValueError: unless each row has one integer shard, and each shard 0 … K − 1 has rows.
    """
    if assignment.dim() != 1 or assignment.is_floating_point() or assignment.is_complex() or not len(assignment):
        got = f"{assignment.dtype} of shape {tuple(assignment.shape)}"
        raise ValueError(f"expected an integer shard for each row, of shape (n,), got {got}; pass kmeans_shards(x, K)")
    numbers = assignment.detach().cpu().long().numpy()
    if numbers.min() < 0:
        raise ValueError(f"expected shards 0 … K − 1, got {numbers.min()}; number them from 0")
    sizes = np.bincount(numbers)
    if not sizes.all():
        empty = np.flatnonzero(sizes == 0).tolist()
        raise ValueError(
            f"expected rows in each of the shards 0 … {len(sizes) - 1}, got none in {empty[:10]}; number those in use "
            "without gaps, as torch.unique(shards, return_inverse=True)[1] does"
        )
    ends = np.cumsum(sizes)[:-1]
    return tuple(torch.from_numpy(rows) for rows in np.split(np.argsort(numbers, kind="stable"), ends))


def _checked(num_rows: int, num_shards: int) -> int:
    num_shards = integer("num_shards", num_shards)
    if num_shards > num_rows:
        raise ValueError(
            f"expected at most {num_rows} shards, one distinct row each, got {num_shards}; take fewer shards"
        )
    return num_shards
