"""Logistic regressions: no closed form, but a normal-like posterior that importance sampling integrates to a few digits."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import fetch_openml
from torch import Tensor

from probmodel.data.locate import VARIABLE, locate
from probmodel.data.prepare import standardize
from probmodel.data.problems.problem import Problem
from probmodel.protocols.dataset import Dataset

SONAR_FILE = "evidence/sonar_std.csv"


def pima_m1() -> Problem:
    """Diabetes of 532 Pima women, by pregnancies, glucose, body mass index and pedigree.

    y_i ~ Bernoulli(logit⁻¹(x_i · theta)), theta ~ N(0, 100 I) in 5 dimensions, x_i = (1, NP, PGC, BMI, DP), covariates
    standardized.

    Log evidence -257.2325 ± 0.0003 nats (Laplace's method: -257.2516).

    Raises:
        FileNotFoundError: where PROBMODEL_DATA names no folder with evidence/pima_indian.csv.

    Reference:
        Smith et al. (1988), Using the ADAP learning algorithm; Friel & Wyse (2012), Estimating the evidence: a review,
        Statistica Neerlandica 66.
    """
    return _pima("Pima M1", columns=(1, 2, 5, 6), log_z=-257.2325, uncertainty=0.0003)


def pima_m2() -> Problem:
    """Diabetes of the Pima women with age as a further covariate: `pima_m1` with x_i = (1, NP, PGC, BMI, DP, AGE).

    Log evidence -259.8573 ± 0.0002 nats (Laplace's method: -259.8858); M1 is favored by a factor of 13.8.

    Raises:
        FileNotFoundError: where PROBMODEL_DATA names no folder with evidence/pima_indian.csv.

    Reference:
        Smith et al. (1988), Using the ADAP learning algorithm; Friel & Wyse (2012), Estimating the evidence: a review,
        Statistica Neerlandica 66.
    """
    return _pima("Pima M2", columns=(1, 2, 5, 6, 7), log_z=-259.8573, uncertainty=0.0002)


def sonar() -> Problem:
    """Mines and rocks by 60 bands of sonar: 208 rows for 61 coefficients, where Laplace's method is off by 3 nats.

    y_i ~ Bernoulli(logit⁻¹(x_i · theta)), theta ~ N(0, I) in 61 dimensions, x_i a constant and the bands, standardized;
    y = 1 for a mine. Read from evidence/sonar_std.csv below PROBMODEL_DATA where that variable is set, else fetched from
    OpenML.

    Log evidence -108.385 ± 0.002 nats (Laplace's method: -111.43).

    Raises:
        FileNotFoundError: where the file is not below PROBMODEL_DATA, or the variable is not set, and OpenML cannot be
            reached.

    Reference:
        Gorman & Sejnowski (1988), Analysis of hidden units in a layered network, Neural Networks 1; Chopin & Ridgway
        (2017), Leave Pima Indians alone, Statistical Science 32.
    """
    x, y = _sonar_arrays()
    source = "importance sampling; data of Gorman & Sejnowski (1988)"
    data = Dataset((x,), {"y": y, "prior_scale": 1.0}, len(x))
    return Problem("sonar", _logistic, data, -108.385, uncertainty=0.002, source=source)


def _pima(name: str, columns: tuple[int, ...], log_z: float, uncertainty: float) -> Problem:
    table = torch.from_numpy(np.loadtxt(locate("evidence/pima_indian.csv")))
    x = torch.cat([torch.ones_like(table[:, :1]), table[:, list(columns)]], dim=1)
    data = Dataset((x,), {"y": table[:, 0].contiguous(), "prior_scale": 10.0}, len(x))
    return Problem(name, _logistic, data, log_z, uncertainty, "importance sampling; Friel & Wyse (2012)")


def _sonar_arrays() -> tuple[Tensor, Tensor]:
    try:
        table = torch.from_numpy(np.loadtxt(locate(SONAR_FILE), delimiter=","))
    except FileNotFoundError as missing:
        try:
            x, label = fetch_openml("sonar", version=1, as_frame=False, return_X_y=True, parser="auto")
        except OSError as error:
            remedy = f"set {VARIABLE} to a folder that holds {SONAR_FILE}, or connect to the internet"
            raise FileNotFoundError(f"{missing}; OpenML failed too: {error}; {remedy}") from error
        (bands,) = standardize(torch.from_numpy(np.asarray(x, dtype=np.float64)))
        y = torch.from_numpy((np.asarray(label) == "Mine").astype(np.float64))
        return torch.cat([torch.ones_like(bands[:, :1]), bands], dim=1), y
    return table[:, 1:].contiguous(), table[:, 0].contiguous()


def _logistic(x: Tensor, y: Tensor | None = None, prior_scale: float = 1.0) -> None:
    theta = pyro.sample("theta", dist.Normal(x.new_zeros(x.shape[1]), prior_scale).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ theta), obs=y)
