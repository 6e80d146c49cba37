"""Linear Gaussian models, whose evidence is a normal or Student density (Zellner, 1971)."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from probmodel.data.locate import locate
from probmodel.data.problems.problem import Problem
from probmodel.data.tables import diabetes
from probmodel.protocols.dataset import Dataset


def radiata_pine_m1() -> Problem:
    """Strength of 42 specimens of radiata pine, explained by their density x.

    y_i ~ N(a + b (x_i - mean x), 1 / tau), tau ~ Gamma(shape 3, rate 2 · 300²), a given tau ~ N(3000, 1 / (0.06 tau)),
    b given tau ~ N(185, 1 / (6 tau)). Latents are tau, (a - 3000) √(0.06 tau) and (b - 185) √(6 tau), all of order one
    but tau; the evidence does not depend on that choice.

    Log evidence -310.1282855 nats: y is Student with 6 degrees of freedom. With the rate 300², also found in print,
    it would be -311.306.

    Raises:
        FileNotFoundError: where PROBMODEL_DATA names no folder with evidence/radiata_pine.csv.

    Reference:
        Williams (1959), Regression Analysis; Friel & Wyse (2012), Estimating the evidence: a review, Statistica
        Neerlandica 66.
    """
    return _radiata_pine("radiata pine M1", column=2, log_z=-310.1282855367)


def radiata_pine_m2() -> Problem:
    """Strength of radiata pine explained by z, the density adjusted for resin: `radiata_pine_m1` with z for x.

    Log evidence -301.7046021 nats, so the Bayes factor of M2 against M1 is exp(8.4237) = 4553.

    Raises:
        FileNotFoundError: where PROBMODEL_DATA names no folder with evidence/radiata_pine.csv.

    Reference:
        Williams (1959), Regression Analysis; Friel & Wyse (2012), Estimating the evidence: a review, Statistica
        Neerlandica 66.
    """
    return _radiata_pine("radiata pine M2", column=3, log_z=-301.7046021344)


def diabetes_regression() -> Problem:
    """Regression of the progression of diabetes in 442 patients on a constant and ten measurements, with known noise.

    b ~ N(0, I) in 11 dimensions, y ~ N([1, X] b, 0.5 I), 0.5 the variance, X and y standardized (ddof 0).

    Log evidence -499.9919838 nats, log N(y; 0, 0.5 I + [1, X] [1, X]ᵀ); the posterior is normal, so Laplace's method
    is exact.

    Reference:
        Efron, Hastie, Johnstone & Tibshirani (2004), Least angle regression, Annals of Statistics 32.
    """
    source = "closed form; data of Efron et al. (2004)"
    return Problem("diabetes regression", _regression, diabetes(), -499.9919837669, source=source)


def linear_cnn() -> Problem:
    """A Bayesian convolutional network with an evidence in closed form: one 3 × 3 filter, mean pool and a bias.

    y ~ N(mean of (w * x) + c, 0.25 I), 0.25 the variance, w_jk ~ N(0, 1), c ~ N(0, 1); x are the 360 digits 0 and 1 of
    scikit-learn, 8 × 8 pixels divided by 16, and y is -1 or 1.

    Log evidence -494.1147803 nats: filter and pool are linear in the nine weights.

    Reference:
        Alpaydin & Kaynak (1998), Optical recognition of handwritten digits, UCI repository.
    """
    raw = load_digits()
    kept = raw.target < 2
    x = torch.from_numpy(raw.images[kept] / 16).unsqueeze(1)
    y = torch.from_numpy(2.0 * raw.target[kept] - 1)
    source = "closed form; data of Alpaydin & Kaynak (1998)"
    return Problem("linear CNN", _convolution, Dataset((x,), {"y": y}, len(x)), -494.1147802666, source=source)


def _radiata_pine(name: str, column: int, log_z: float) -> Problem:
    table = np.loadtxt(locate("evidence/radiata_pine.csv"))
    x, y = torch.from_numpy(table[:, column]), torch.from_numpy(table[:, 1])
    data = Dataset((x - x.mean(),), {"y": y}, len(x))
    return Problem(name, _pine, data, log_z, source="closed form; Friel & Wyse (2012), data of Williams (1959)")


def _pine(x: Tensor, y: Tensor | None = None) -> None:
    tau = pyro.sample("tau", dist.Gamma(x.new_tensor(3.0), x.new_tensor(2 * 300.0**2)))
    a_scaled = pyro.sample("a_scaled", dist.Normal(x.new_tensor(0.0), 1.0))
    b_scaled = pyro.sample("b_scaled", dist.Normal(x.new_tensor(0.0), 1.0))
    a = 3000 + a_scaled / torch.sqrt(0.06 * tau)
    b = 185 + b_scaled / torch.sqrt(6 * tau)
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a + b * x, tau.rsqrt()), obs=y)


def _regression(x: Tensor, y: Tensor | None = None) -> None:
    b = pyro.sample("b", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ b, math.sqrt(0.5)), obs=y)


def _convolution(x: Tensor, y: Tensor | None = None) -> None:
    weight = pyro.sample("weight", dist.Normal(x.new_zeros(1, 1, 3, 3), 1.0).to_event(4))
    bias = pyro.sample("bias", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pooled = F.conv2d(x, weight, bias).mean((1, 2, 3))
        pyro.sample("y", dist.Normal(pooled, 0.5), obs=y)
