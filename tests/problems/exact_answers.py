"""Problems whose log evidence is known exactly, each computed here from the data by a route of its own.

No number passes through the package: closed forms in NumPy and SciPy, `REFERENCE` from the literature or quadrature.
Data come with scikit-learn or are written out; everything is float64.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from scipy import integrate, stats
from scipy.special import betaln, gammaln
from sklearn.datasets import load_diabetes, load_digits, load_iris
from torch import Tensor, nn

from probmodel.inference import NUTS
from probmodel.layers.decisions import Regress
from probmodel.layers.features import Identity
from probmodel.layers.pipeline import Pipeline
from probmodel.layers.representations import VAE, StandardNormal
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target

REFERENCE = {
    "diabetes": -499.9919838,
    "eight schools": -31.3113475,
    "iris, one code": -470.669458,
    "iris, two codes": -404.9627799,
    "iris, three codes": -379.914630,
    "linear CNN": -494.114780,
    "linear pixels": -185.053159,
}
DIGITS_AN_IMAGE = {2: 0.006, 10: 17.452, 20: 27.277}
"""Codes → log evidence of probabilistic PCA in nats an image."""


class Problem(NamedTuple):
    """A model, its data, and the exact log evidence in nats.

    Tags say what applies: "conjugate" (the closed form is in the package's families), "normal" (the posterior is normal
    in unconstrained coordinates, so Laplace is exact), "row-local" (one code per row: the evidence is a sum over rows).
    """

    name: str
    model: Model
    data: Dataset
    log_z: float
    tags: frozenset[str]
    given: tuple[str, ...] = ()
    """Point estimates that the evidence is conditional on."""


def tensor(values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float64))


# ------------------------------------------------------------------------------------------ one-site conjugate models

NORMAL_Y = (2.1, 3.4, -0.7, 1.9, 5.2, 0.3, 2.8)
"""Asymmetric about any prior mean used here."""


def normal_model(x: Tensor, y: Tensor | None = None) -> None:
    mu = pyro.sample("mu", dist.Normal(x.new_tensor(-1.0), x.new_tensor(2.0)))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(mu + x, 1.5), obs=y)


def conjugate_normal() -> Problem:
    """mu ~ N(-1, 2²), y_i ~ N(mu + x_i, 1.5²)."""
    y, x = np.array(NORMAL_Y), np.linspace(0, 1, len(NORMAL_Y))
    covariance = 1.5**2 * np.eye(len(y)) + 2.0**2
    log_z = float(stats.multivariate_normal(x - 1.0, covariance).logpdf(y))
    data = Dataset((tensor(x),), {"y": tensor(y)}, len(y))
    return Problem("conjugate normal", normal_model, data, log_z, frozenset({"conjugate", "normal"}))


BINOMIAL_N, BINOMIAL_Y = (4.0, 9.0, 2.0, 12.0, 5.0), (1.0, 2.0, 0.0, 3.0, 2.0)


def binomial_model(n: Tensor, y: Tensor | None = None) -> None:
    p = pyro.sample("p", dist.Beta(n.new_tensor(1.5), n.new_tensor(4.0)))
    with pyro.plate("rows", len(n)):
        pyro.sample("y", dist.Binomial(n, p), obs=y)


def beta_binomial() -> Problem:
    """p ~ Beta(1.5, 4), y_i ~ Binomial(n_i, p)."""
    n, y = np.array(BINOMIAL_N), np.array(BINOMIAL_Y)
    ways = gammaln(n + 1) - gammaln(y + 1) - gammaln(n - y + 1)
    log_z = float(ways.sum() + betaln(1.5 + y.sum(), 4 + (n - y).sum()) - betaln(1.5, 4))
    data = Dataset((tensor(n),), {"y": tensor(y)}, len(n))
    return Problem("Beta-binomial", binomial_model, data, log_z, frozenset({"conjugate"}))


POISSON_EXPOSURE, POISSON_Y = (1.0, 2.5, 0.5, 4.0), (3.0, 4.0, 0.0, 9.0)


def poisson_model(exposure: Tensor, y: Tensor | None = None) -> None:
    rate = pyro.sample("rate", dist.Gamma(exposure.new_tensor(2.0), exposure.new_tensor(1.5)))
    with pyro.plate("rows", len(exposure)):
        pyro.sample("y", dist.Poisson(rate * exposure), obs=y)


def gamma_poisson() -> Problem:
    """rate ~ Gamma(2, 1.5), y_i ~ Poisson(rate · exposure_i)."""
    t, y = np.array(POISSON_EXPOSURE), np.array(POISSON_Y)
    a, r = 2.0 + y.sum(), 1.5 + t.sum()
    log_z = (y * np.log(t) - gammaln(y + 1)).sum() + 2 * np.log(1.5) - gammaln(2) + gammaln(a) - a * np.log(r)
    data = Dataset((tensor(t),), {"y": tensor(y)}, len(y))
    return Problem("Gamma-Poisson", poisson_model, data, float(log_z), frozenset({"conjugate"}))


def multinomial_model(concentration: Tensor, y: Tensor | None = None) -> None:
    p = pyro.sample("p", dist.Dirichlet(concentration))
    pyro.sample("y", dist.Multinomial(17, p), obs=y)


def dirichlet_multinomial() -> Problem:
    """p ~ Dirichlet(1.5, 0.8, 3), y ~ Multinomial(17, p)."""
    a, y = np.array([1.5, 0.8, 3.0]), np.array([9.0, 2.0, 6.0])
    ways = gammaln(y.sum() + 1) - gammaln(y + 1).sum()
    log_z = ways + gammaln(a.sum()) - gammaln(a).sum() + gammaln(a + y).sum() - gammaln((a + y).sum())
    data = Dataset((tensor(a),), {"y": tensor(y)})
    return Problem("Dirichlet-multinomial", multinomial_model, data, float(log_z), frozenset({"conjugate"}))


# ------------------------------------------------------------------------------------------ linear Gaussian models


def log_evidence_linear(design: np.ndarray, y: np.ndarray, variance: float) -> float:
    """log N(y; 0, variance · I + X Xᵀ), through the p × p matrix I + XᵀX / variance."""
    n, p = design.shape
    inner = np.eye(p) + design.T @ design / variance
    projected = design.T @ y / variance
    quadratic = y @ y / variance - projected @ np.linalg.solve(inner, projected)
    return float(-0.5 * (n * np.log(2 * np.pi * variance) + np.linalg.slogdet(inner)[1] + quadratic))


def linear_model(x: Tensor, y: Tensor | None = None) -> None:
    b = pyro.sample("b", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ b, math.sqrt(0.5)), obs=y)


@lru_cache
def diabetes_arrays() -> tuple[np.ndarray, np.ndarray]:
    raw = load_diabetes()
    x = (raw.data - raw.data.mean(0)) / raw.data.std(0)
    return np.column_stack([np.ones(len(x)), x]), (raw.target - raw.target.mean()) / raw.target.std()


def diabetes_regression() -> Problem:
    """b ~ N(0, I), y ~ N(X b, 0.5 I)."""
    x, y = diabetes_arrays()
    data = Dataset((tensor(x),), {"y": tensor(y)}, len(y))
    return Problem("diabetes", linear_model, data, log_evidence_linear(x, y, 0.5), frozenset({"conjugate", "normal"}))


def convolution_model(x: Tensor, y: Tensor | None = None) -> None:
    weight = pyro.sample("weight", dist.Normal(x.new_zeros(1, 1, 3, 3), 1.0).to_event(4))
    bias = pyro.sample("bias", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pooled = F.conv2d(x, weight, bias).mean((1, 2, 3))
        pyro.sample("y", dist.Normal(pooled, 0.5), obs=y)


def pixel_model(x: Tensor, y: Tensor | None = None) -> None:
    weight = pyro.sample("weight", dist.Normal(x.new_zeros(64), 1.0).to_event(1))
    bias = pyro.sample("bias", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x.flatten(1) @ weight + bias, 0.5), obs=y)


def _zeros_and_ones() -> tuple[np.ndarray, np.ndarray]:
    raw = load_digits()
    kept = raw.target < 2
    return raw.images[kept] / 16, 2.0 * raw.target[kept] - 1


def linear_cnn() -> Problem:
    """One 3 × 3 filter, mean over its map, and a bias: a "Bayesian CNN" in closed form."""
    images, y = _zeros_and_ones()
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    design = np.column_stack([windows.mean((1, 2)).reshape(len(y), 9), np.ones(len(y))])
    data = Dataset((tensor(images)[:, None],), {"y": tensor(y)}, len(y))
    log_z = log_evidence_linear(design, y, 0.25)
    return Problem("linear CNN", convolution_model, data, log_z, frozenset({"conjugate", "normal"}))


def linear_pixels() -> Problem:
    """All 64 pixels and a bias."""
    images, y = _zeros_and_ones()
    design = np.column_stack([images.reshape(len(y), 64), np.ones(len(y))])
    data = Dataset((tensor(images)[:, None],), {"y": tensor(y)}, len(y))
    log_z = log_evidence_linear(design, y, 0.25)
    return Problem("linear pixels", pixel_model, data, log_z, frozenset({"conjugate", "normal"}))


# ------------------------------------------------------------------------------------------ probabilistic PCA


class PPCA(NamedTuple):
    """Probabilistic PCA at its maximum of the likelihood (Tipping & Bishop, 1999, eqs. 7 and 8)."""

    mean: np.ndarray
    weight: np.ndarray
    """(D, q)."""
    variance: float

    def log_likelihood(self, x: np.ndarray) -> float:
        covariance = self.weight @ self.weight.T + self.variance * np.eye(len(self.mean))
        return float(stats.multivariate_normal(self.mean, covariance).logpdf(x).sum())

    def posterior(self) -> tuple[np.ndarray, np.ndarray]:
        """Matrix from x − mean to the code's mean, (q, D), and the code's covariance, (q, q)."""
        covariance = np.linalg.inv(self.weight.T @ self.weight / self.variance + np.eye(self.weight.shape[1]))
        return covariance @ self.weight.T / self.variance, covariance


def ppca(x: np.ndarray, num_codes: int, *, angle: float = 0.0) -> PPCA:
    """The optimum; `angle` rotates the first two codes, which leaves the likelihood as it is."""
    mean = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov(x.T, ddof=0))
    values, vectors = values[::-1], vectors[:, ::-1]
    variance = values[num_codes:].mean()
    weight = vectors[:, :num_codes] * np.sqrt(values[:num_codes] - variance)
    rotation = np.eye(num_codes)
    if angle:
        rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return PPCA(mean, weight @ rotation, float(variance))


def ppca_function(fit: PPCA) -> Model:
    """Probabilistic PCA as anyone would write it in Pyro, its parameters plain tensors."""
    weight, mean, scale = tensor(fit.weight), tensor(fit.mean), math.sqrt(fit.variance)

    def model(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), weight.shape[1]), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(z @ weight.T + mean, scale).to_event(1), obs=y)

    return model


def ppca_pipeline(fit: PPCA) -> Pipeline:
    """The same out of the package's pieces; the guide is the best factorized normal, exact where the axes agree."""
    wide, num_codes = fit.weight.shape
    with isolated(seed=0):
        encoder = nn.Linear(wide, 2 * num_codes)
        vae = VAE(wide, num_codes, encoder=encoder, prior=StandardNormal(num_codes))
        pipeline = Pipeline(Identity(), vae, Regress(num_codes, wide)).double()
    to_code, covariance = fit.posterior()
    # The best factorized normal has the precision's diagonal, not the covariance's (Bishop, 2006, section 10.1.2).
    log_scale = -0.5 * np.log(np.diag(np.linalg.inv(covariance)))
    with torch.no_grad():
        pipeline.decision.mean.weight.copy_(tensor(fit.weight))
        pipeline.decision.mean.bias.copy_(tensor(fit.mean))
        pipeline.decision.log_noise.copy_(tensor(0.5 * math.log(fit.variance)))
        encoder.weight.copy_(tensor(np.concatenate([to_code, np.zeros_like(to_code)])))
        encoder.bias.copy_(tensor(np.concatenate([-to_code @ fit.mean, log_scale])))
    return pipeline


PIPELINE_GIVEN = ("model.decision.log_noise", "model.decision.mean.weight", "model.decision.mean.bias")


def iris_array() -> np.ndarray:
    return load_iris().data.astype(np.float64)


def digits_array() -> np.ndarray:
    return load_digits().data / 16


def _ppca_problem(name: str, x: np.ndarray, num_codes: int, *, as_pipeline: bool) -> Problem:
    fit = ppca(x, num_codes)
    data = Dataset((tensor(x),), {"y": tensor(x)}, len(x))
    tags = frozenset({"conjugate", "normal", "row-local"})
    if as_pipeline:
        model: Model = ppca_pipeline(fit)
        return Problem(f"{name}, pipeline", model, data, fit.log_likelihood(x), tags, PIPELINE_GIVEN)
    return Problem(f"{name}, function", ppca_function(fit), data, fit.log_likelihood(x), tags)


def iris_ppca(num_codes: int, *, as_pipeline: bool) -> Problem:
    """A linear VAE of the irises."""
    words = {1: "one code", 2: "two codes", 3: "three codes"}
    return _ppca_problem(f"iris, {words[num_codes]}", iris_array(), num_codes, as_pipeline=as_pipeline)


def digits_ppca(num_codes: int, *, as_pipeline: bool) -> Problem:
    """A linear VAE of 1,797 images."""
    return _ppca_problem(f"digits, {num_codes} codes", digits_array(), num_codes, as_pipeline=as_pipeline)


# ------------------------------------------------------------------------------------------ eight schools

SCHOOLS_Y = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
SCHOOLS_SIGMA = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)


def schools_model(sigma: Tensor, y: Tensor | None = None) -> None:
    mu = pyro.sample("mu", dist.Normal(sigma.new_zeros(()), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(sigma.new_tensor(5.0)))
    with pyro.plate("schools", len(sigma)):
        eta = pyro.sample("eta", dist.Normal(sigma.new_zeros(len(sigma)), 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)


def eight_schools() -> Problem:
    """Rubin (1981), non-centered: mu ~ N(0, 5²), tau ~ HalfCauchy(5), eta_j ~ N(0, 1), y_j ~ N(mu + tau eta_j, s_j²)."""
    data = Dataset((tensor(SCHOOLS_SIGMA),), {"y": tensor(SCHOOLS_Y)})
    return Problem("eight schools", schools_model, data, schools_quadrature().log_z, frozenset())


class Moments(NamedTuple):
    """Posterior mean and standard deviation by site, and the log evidence."""

    log_z: float
    mean: dict[str, float]
    sd: dict[str, float]


@lru_cache
def schools_quadrature() -> Moments:
    """Integrate over tau alone: mu and every eta_j are normal given tau."""
    y, sigma = np.array(SCHOOLS_Y), np.array(SCHOOLS_SIGMA)

    def given_tau(tau: float) -> np.ndarray:
        """Density of (tau, y), times 1, tau, tau², E[mu | tau, y] and E[mu² | tau, y]."""
        variance = sigma**2 + tau**2
        density = stats.halfcauchy(scale=5).pdf(tau)
        density *= stats.multivariate_normal(np.zeros(8), np.diag(variance) + 25.0).pdf(y)
        precision = 1 / 25 + (1 / variance).sum()
        mean = (y / variance).sum() / precision
        return density * np.array([1, tau, tau**2, mean, mean**2 + 1 / precision])

    # tau = s / (1 − s) maps the half line to the unit interval.
    total, _ = integrate.quad_vec(lambda s: given_tau(s / (1 - s)) / (1 - s) ** 2, 0, 1, epsrel=1e-11, norm="max")
    z, tau, tau2, mu, mu2 = (*(total[:1]), *(total[1:] / total[0]))
    return Moments(
        float(np.log(z)),
        {"mu": float(mu), "tau": float(tau)},
        {"mu": float(np.sqrt(mu2 - mu**2)), "tau": float(np.sqrt(tau2 - tau**2))},
    )


@lru_cache
def schools_draws() -> Posterior:
    """NUTS draws of eight schools, sampled once for all tests."""
    problem = eight_schools()
    return NUTS(num_samples=400, num_warmup=200, progress=False)(problem.model, problem.data, seed=0)


def schools_at_their_prior(num_samples: int) -> Posterior:
    """Draws from the prior of eight schools, for what needs a model without rows or closed form and no sampler."""
    problem = eight_schools()
    density = target(problem.model, problem.data)
    draws = density.constrain(density.sample_prior(num_samples, 0))
    return Posterior(problem.model, problem.data, {name: v[None] for name, v in draws.items()}, {"method": "NUTS"})


def annealed(leaves: list[Tensor], *, rate: float = 0.05, decay: float = 0.995) -> torch.optim.Optimizer:
    """Adam whose rate falls step by step, so that the last iterate does not wander about the optimum."""
    optimizer = torch.optim.Adam(leaves, lr=rate)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return optimizer


PROBLEMS: tuple[Callable[[], Problem], ...] = (
    conjugate_normal,
    beta_binomial,
    gamma_poisson,
    dirichlet_multinomial,
    diabetes_regression,
    linear_cnn,
    linear_pixels,
    *(
        lambda q=q, p=p: iris_ppca(q, as_pipeline=p)  # type: ignore[misc]
        for q in (1, 2, 3)
        for p in (False, True)
    ),
    *(
        lambda q=q, p=p: digits_ppca(q, as_pipeline=p)  # type: ignore[misc]
        for q in (2, 10, 20)
        for p in (False, True)
    ),
    eight_schools,
)
