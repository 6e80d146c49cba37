"""Hierarchical normal models: all is normal given the scale of the groups, so that one quadrature gives the evidence."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from probmodel.data.locate import locate
from probmodel.data.problems.problem import Problem
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model

SCHOOLS_Y = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
"""Effect of coaching in each school, in points."""
SCHOOLS_SIGMA = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)
"""Standard error of each effect."""


def hierarchical_normal_h0() -> Problem:
    """Twenty normal means about zero: the null hypothesis of the vignette of the R package bridgesampling.

    y_i ~ N(theta_i, 1), theta_i ~ N(0, tau2), tau2 ~ InvGamma(1, 1), i = 1 … 20. Latents are tau2 and
    eta_i = theta_i / √tau2: 21 dimensions.

    Log evidence -37.5341313 nats.

    Raises:
        FileNotFoundError: where PROBMODEL_DATA names no folder with evidence/bridgesampling_hiernormal_y.csv.

    Reference:
        Gronau, Singmann & Wagenmakers (2020), bridgesampling: an R package for estimating normalizing constants,
        Journal of Statistical Software 92.
    """
    return _hierarchical_normal("hierarchical normal H0", _means_about_zero, -37.5341312602)


def hierarchical_normal_h1() -> Problem:
    """Twenty normal means about an unknown one: the alternative to `hierarchical_normal_h0`.

    y_i ~ N(theta_i, 1), theta_i ~ N(mu, tau2), mu ~ N(0, 1), tau2 ~ InvGamma(1, 1). Latents are mu, tau2 and
    eta_i = (theta_i - mu) / √tau2: 22 dimensions.

    Log evidence -37.7983064 nats.

    Raises:
        FileNotFoundError: where PROBMODEL_DATA names no folder with evidence/bridgesampling_hiernormal_y.csv.

    Reference:
        Gronau, Singmann & Wagenmakers (2020), bridgesampling: an R package for estimating normalizing constants,
        Journal of Statistical Software 92.
    """
    return _hierarchical_normal("hierarchical normal H1", _means_about_mu, -37.7983064102)


def eight_schools() -> Problem:
    """Effects of coaching for a test in eight schools, the classic example of partial pooling.

    y_j ~ N(theta_j, sigma_j²), theta_j ~ N(mu, tau²), mu ~ N(0, 5²), tau ~ HalfCauchy(5). Latents are mu, tau and
    eta_j = (theta_j - mu) / tau: 10 dimensions.

    >>> eight_schools().data.kwargs["y"].tolist()
    [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]

    Log evidence -31.3113474 nats.

    Reference:
        Rubin (1981), Estimation in parallel randomized experiments, Journal of Educational Statistics 6.
    """
    sigma, y = (torch.tensor(values, dtype=torch.float64) for values in (SCHOOLS_SIGMA, SCHOOLS_Y))
    source = "quadrature over tau; data of Rubin (1981)"
    return Problem("eight schools", _schools, Dataset((sigma,), {"y": y}), -31.3113473523, source=source)


def _hierarchical_normal(name: str, model: Model, log_z: float) -> Problem:
    y = torch.from_numpy(np.loadtxt(locate("evidence/bridgesampling_hiernormal_y.csv")))
    source = "quadrature over tau2; data of Gronau et al. (2020)"
    return Problem(name, model, Dataset((torch.ones_like(y),), {"y": y}), log_z, source=source)


def _means(mu: Tensor, sigma: Tensor, y: Tensor | None) -> None:
    tau2 = pyro.sample("tau2", dist.InverseGamma(sigma.new_tensor(1.0), sigma.new_tensor(1.0)))
    with pyro.plate("groups", len(sigma)):
        eta = pyro.sample("eta", dist.Normal(torch.zeros_like(sigma), 1.0))
        pyro.sample("y", dist.Normal(mu + tau2.sqrt() * eta, sigma), obs=y)


def _means_about_zero(sigma: Tensor, y: Tensor | None = None) -> None:
    _means(sigma.new_tensor(0.0), sigma, y)


def _means_about_mu(sigma: Tensor, y: Tensor | None = None) -> None:
    _means(pyro.sample("mu", dist.Normal(sigma.new_tensor(0.0), 1.0)), sigma, y)


def _schools(sigma: Tensor, y: Tensor | None = None) -> None:
    mu = pyro.sample("mu", dist.Normal(sigma.new_tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(sigma.new_tensor(5.0)))
    with pyro.plate("schools", len(sigma)):
        eta = pyro.sample("eta", dist.Normal(torch.zeros_like(sigma), 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)
