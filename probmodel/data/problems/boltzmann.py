"""Boltzmann machines between two layers of {0, 1} units whose log partition function is known by enumeration."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from sklearn.datasets import load_digits
from torch import Tensor

from probmodel.data.locate import locate

DIGITS_FILE = "evidence/rbm_digits64x16.csv"
NUM_TRAIN = 1500
"""Rows of the digits that the trained machine has seen."""


class BoltzmannProblem(NamedTuple):
    """A machine p(v, h) ∝ exp(v W h + b v + c h) of {0, 1} units, and its log partition function.

    Args:
        weight: W, float64.
        visible_bias: b.
        hidden_bias: c.
        log_z: log Σ exp(v W h + b v + c h) over all states, nats; exact to the digits given.
        source: where machine and number come from.
    """

    weight: Float[Tensor, "V H"]
    visible_bias: Float[Tensor, " V"]
    hidden_bias: Float[Tensor, " H"]
    log_z: float
    source: str


def boltzmann_16x10() -> BoltzmannProblem:
    """Strong couplings by formula, W_ij = sin(ij + i/2), b_i = .2 cos i, c_j = −.3 sin j, i and j from 1.

    Log partition function 25.3724456889 nats.
    """
    return _by_formula(16, 10, 1.0, 25.3724456889)


def boltzmann_64x16() -> BoltzmannProblem:
    """The formula of `boltzmann_16x10` with couplings half as strong and 64 × 16 units.

    Log partition function 63.0630576167 nats.
    """
    return _by_formula(64, 16, 0.5, 63.0630576167)


def boltzmann_digits() -> BoltzmannProblem:
    """A machine of 64 × 16 units trained by persistent contrastive divergence on the rows of `binary_digits`.

    Log partition function 62.432891 nats; exact log likelihood −18.7881 nats a training image, −19.0051 a test image.

    Raises:
        FileNotFoundError: PROBMODEL_DATA names no folder with evidence/rbm_digits64x16.csv.
    """
    table = torch.as_tensor(np.loadtxt(locate(DIGITS_FILE), delimiter=","))
    source = "trained by persistent contrastive divergence; log Z by enumeration of the hidden units"
    return BoltzmannProblem(table[:-1, :-1], table[:-1, -1], table[-1, :-1], 62.432891, source)


def binary_digits() -> tuple[Float[Tensor, "N 64"], Float[Tensor, "M 64"]]:
    """scikit-learn's 8 × 8 digits as {0, 1} (a pixel is on from 8 of 16 upwards): the first 1500 rows, the last 297."""
    rows = torch.as_tensor(load_digits().data >= 8).double()
    return rows[:NUM_TRAIN], rows[NUM_TRAIN:]


def _by_formula(visible: int, hidden: int, scale: float, log_z: float) -> BoltzmannProblem:
    i = torch.arange(1, visible + 1, dtype=torch.float64)
    j = torch.arange(1, hidden + 1, dtype=torch.float64)
    weight = scale * torch.sin(i[:, None] * j + i[:, None] / 2)
    source = "by formula; log Z by enumeration of the hidden units"
    return BoltzmannProblem(weight, 0.2 * torch.cos(i), -0.3 * torch.sin(j), log_z, source)
