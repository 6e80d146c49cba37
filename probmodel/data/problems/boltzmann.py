"""Boltzmann machines of {0, 1} units whose log partition function is known, by enumeration or in closed form."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from sklearn.datasets import load_digits
from torch import Tensor

from probmodel.data.locate import locate
from probmodel.protocols.arguments.checks import checks_arguments

DIGITS_FILE = "evidence/rbm_digits64x16.csv"
NUM_TRAIN = 1500
"""Number of digits on which the machine of `boltzmann_digits` was trained."""


class BoltzmannProblem(NamedTuple):
    """A machine p(v, h) ∝ exp(v W h + b v + c h) of {0, 1} units, and its log partition function.

    Args:
        weight: couplings W of visible and hidden units, float64.
        visible_bias: bias b of the visible units.
        hidden_bias: bias c of the hidden units.
        log_z: log Σ exp(v W h + b v + c h) over all states, in nats; exact to the digits given.
        source: origin of the machine, and how log_z was found.
    """

    weight: Float[Tensor, "V H"]
    visible_bias: Float[Tensor, " V"]
    hidden_bias: Float[Tensor, " H"]
    log_z: float
    source: str


class CoupledProblem(NamedTuple):
    """A machine p(v) ∝ exp(½ v J v + b v) of {0, 1} units, and its log partition function.

    Args:
        couplings: couplings J of the units, float64, symmetric with a zero diagonal.
        bias: bias b of the units.
        log_z: log Σ exp(½ v J v + b v) over all states, in nats; exact to the digits given.
        shift: difference to add to log_z for the published value with −1 and +1 spins; 0 where that is for {0, 1} units.
        source: origin of the machine, and how log_z was found.
    """

    couplings: Float[Tensor, "V V"]
    bias: Float[Tensor, " V"]
    log_z: float
    shift: float
    source: str


def boltzmann_16x10() -> BoltzmannProblem:
    """A machine of strong couplings by formula, W_ij = sin(ij + i/2), b_i = 0.2 cos i, c_j = −0.3 sin j, i and j from 1.

    Log partition function 25.3724456889 nats.
    """
    return _by_formula(16, 10, 1.0, 25.3724456889)


def boltzmann_64x16() -> BoltzmannProblem:
    """A machine by the formula of `boltzmann_16x10` with couplings half as strong and 64 × 16 units.

    Log partition function 63.0630576167 nats.
    """
    return _by_formula(64, 16, 0.5, 63.0630576167)


def boltzmann_digits() -> BoltzmannProblem:
    """A machine of 64 × 16 units trained by persistent contrastive divergence on the rows of `binary_digits`.

    Log partition function 62.432891 nats; exact log likelihood −18.7881 nats per training image, −19.0051 per test image.

    Raises:
        FileNotFoundError: where PROBMODEL_DATA names no folder with evidence/rbm_digits64x16.csv.
    """
    table = torch.as_tensor(np.loadtxt(locate(DIGITS_FILE), delimiter=","))
    source = "trained by persistent contrastive divergence; log Z by enumeration of the hidden units"
    return BoltzmannProblem(table[:-1, :-1], table[:-1, -1], table[-1, :-1], 62.432891, source)


def boltzmann_12() -> CoupledProblem:
    """A machine of twelve units, all coupled by formula, J_ij = sin(ij) for i < j and b_i = 0.1 cos i, i and j from 1.

    Log partition function 10.0725495811 nats.
    """
    i = torch.arange(1, 13, dtype=torch.float64)
    upper = torch.sin(i[:, None] * i).triu(1)
    return CoupledProblem(upper + upper.T, 0.1 * torch.cos(i), 10.0725495811, 0.0, "by formula; log Z by enumeration")


@checks_arguments
def ising_torus(side: int) -> CoupledProblem:
    """Ising's model on a torus of side × side spins at its critical point, K = ½ log(1 + √2), as {0, 1} units v = (s + 1) / 2.

    K s s' = 4 K v v' − 2 K (v + v') + K for each of 2 side² pairs of neighbors, so that J = 4 K between neighbors and
    b = −8 K; the published log Σ exp(K Σ s s') is log_z + 2 side² K: 60.1417808 nats for 8 × 8, 238.6422566 for 16 × 16,
    952.6480795 for 32 × 32.

    Args:
        side: number of spins per side, at least 3.

    Raises:
        ValueError: for a side below 3, where two neighbors would be coupled twice.

    Reference:
        Kaufman (1949), "Crystal statistics II: partition function evaluated by spinor analysis".
    """
    if side < 3:
        raise ValueError(f"expected a side of 3 or more, got {side}; enlarge the torus")
    coupling = 0.5 * math.log(1 + math.sqrt(2))
    index = torch.arange(side**2).view(side, side)
    couplings = torch.zeros(side**2, side**2, dtype=torch.float64)
    for axis in (0, 1):
        couplings[index.flatten(), index.roll(-1, axis).flatten()] = 4 * coupling
    bias = torch.full((side**2,), -8 * coupling, dtype=torch.float64)
    shift = 2 * side**2 * coupling
    return CoupledProblem(couplings + couplings.T, bias, _kaufman(side, coupling) - shift, shift, "Kaufman (1949)")


def binary_digits() -> tuple[Float[Tensor, "N 64"], Float[Tensor, "M 64"]]:
    """scikit-learn's 8 × 8 digits as {0, 1} (a pixel is 1 from 8 of 16 upwards): the first 1500 rows, and the last 297."""
    rows = torch.as_tensor(load_digits().data >= 8).double()
    return rows[:NUM_TRAIN], rows[NUM_TRAIN:]


def _by_formula(visible: int, hidden: int, scale: float, log_z: float) -> BoltzmannProblem:
    i = torch.arange(1, visible + 1, dtype=torch.float64)
    j = torch.arange(1, hidden + 1, dtype=torch.float64)
    weight = scale * torch.sin(i[:, None] * j + i[:, None] / 2)
    source = "by formula; log Z by enumeration of the hidden units"
    return BoltzmannProblem(weight, 0.2 * torch.cos(i), -0.3 * torch.sin(j), log_z, source)


def _kaufman(side: int, coupling: float) -> float:
    """Log Σ exp(K Σ s s') on the torus at the critical point, in nats: three of Kaufman's products over wave numbers.

    The fourth product, of sinh over even wave numbers, is 0 there, since γ is 0 at wave number 0.
    """
    wave = torch.arange(2 * side, dtype=torch.float64) * math.pi / side
    base = math.cosh(2 * coupling) ** 2 / math.sinh(2 * coupling)
    half = side / 2 * torch.acosh((base - torch.cos(wave)).clamp(min=1.0))
    log_cosh = half + torch.log1p(torch.exp(-2 * half))
    log_sinh = half + torch.log(-torch.expm1(-2 * half))
    products = torch.stack([log_cosh[1::2].sum(), log_sinh[1::2].sum(), log_cosh[::2].sum()])
    return float(torch.logsumexp(products, 0)) + (side**2 / 2 - 1) * math.log(2)
