"""Other ordinary models: missing, censored and truncated data, survival, modules, covariances, potentials."""

import math

import pyro
import pyro.distributions as dist
import torch
from problems.ordinary_job import Job, flags, gaussian_evidence, noise, rows, tensor, uniform
from pyro import poutine
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

from probmodel.protocols.dataset import Dataset


def censored_by_factor(limit, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    over = y >= limit
    with pyro.plate("rows", len(y)):
        normal = dist.Normal(mu, 1.0)
        tail = torch.log1p(-normal.cdf(torch.as_tensor(limit)))
        pyro.factor("y", torch.where(over, tail, normal.log_prob(y)))


def censored_by_mask(limit, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    over = y >= limit
    with pyro.plate("rows", len(y)):
        normal = dist.Normal(mu, 1.0)
        with poutine.mask(mask=~over):
            pyro.sample("y", normal, obs=y)
        with poutine.mask(mask=over):
            tail = 1 - normal.cdf(torch.as_tensor(limit))
            pyro.sample("over", dist.Bernoulli(tail), obs=over.to(y.dtype))


def censored_imputed(limit, y):
    """Censored numbers as latents above the limit."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    excess = pyro.sample("excess", dist.HalfNormal(torch.ones(2)).to_event(1))
    pyro.factor(
        "correction", (dist.Normal(mu, 1.0).log_prob(limit + excess) - dist.HalfNormal(1.0).log_prob(excess)).sum()
    )
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def missing_outcomes(x, seen, y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a * x, 0.5), obs=y, obs_mask=seen)


def missing_outcomes_plain(x, seen, y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        with poutine.mask(mask=seen):
            pyro.sample("y_observed", dist.Normal(a * x, 0.5), obs=y)
        pyro.sample("y_unobserved", dist.Normal(a * x, 0.5))


def nan_outcomes(x, y):
    """Missing outcomes are NaN and masked."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    seen = ~y.isnan()
    with pyro.plate("rows", len(x)), poutine.mask(mask=seen):
        pyro.sample("y", dist.Normal(a * x, 0.5), obs=y.nan_to_num())


def missing_covariates(x, seen, y):
    """Missing covariates are latents with a prior of their own."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        filled = pyro.sample("x", dist.Normal(0.0, 1.0), obs=x, obs_mask=seen)
        pyro.sample("y", dist.Normal(a * filled, 0.5), obs=y)


def missing_covariates_plain(x, seen, y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        with poutine.mask(mask=seen):
            pyro.sample("x_observed", dist.Normal(0.0, 1.0), obs=x)
        filled = torch.where(seen, x, pyro.sample("x_unobserved", dist.Normal(0.0, 1.0)))
        pyro.sample("y", dist.Normal(a * filled, 0.5), obs=y)


def measurement_error(measured, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(measured)):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("measured", dist.Normal(x, 0.3), obs=measured)
        pyro.sample("y", dist.Normal(a + b * x, 0.5), obs=y)


def weibull(x, time, died):
    """Survival times, some of them censored."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    shape = pyro.sample("shape", dist.LogNormal(0.0, 0.5))
    scale = (a + b * x).exp()
    with pyro.plate("rows", len(x)):
        survived = -((time / scale) ** shape)
        density = dist.Weibull(scale, shape).log_prob(time)
        pyro.factor("time", torch.where(died, density, survived))


def exponential_survival(x, time=None):
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("time", dist.Exponential((b * x).exp()), obs=time)


def truncated(y):
    """Normal numbers of which only those above zero are recorded."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, sigma), obs=y)
        pyro.factor("recorded", -torch.special.log_ndtr(mu / sigma).expand(len(y)))


def hurdle(y):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    positive = y > 0
    with pyro.plate("rows", len(y)):
        pyro.sample("positive", dist.Bernoulli(p), obs=positive.to(y.dtype))
        with poutine.mask(mask=positive):
            pyro.sample("y", dist.Poisson(rate), obs=y)
            pyro.factor("above zero", -torch.log(-torch.expm1(-rate)).expand(len(y)))


class SampledNetwork(PyroModule):
    """A network with a prior on each of its weights."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            self.hidden, self.out = PyroModule[nn.Linear](2, 3), PyroModule[nn.Linear](3, 1)
        self.hidden.weight = PyroSample(dist.Normal(0.0, 1.0).expand([3, 2]).to_event(2))
        self.hidden.bias = PyroSample(dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        self.out.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 3]).to_event(2))

    def forward(self, x, y=None):
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        mean = self.out(torch.tanh(self.hidden(x))).squeeze(-1)
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(mean, sigma), obs=y)


class Line(PyroModule):
    """A line with a sampled slope and point estimates of intercept and noise."""

    def __init__(self):
        super().__init__()
        self.intercept = PyroParam(torch.tensor(0.1))
        self.sigma = PyroParam(torch.tensor(0.7), constraint=dist.constraints.positive)
        self.slope = PyroSample(dist.Normal(0.0, 1.0))

    def forward(self, x, y=None):
        mean = self.intercept + self.slope * x
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(mean, self.sigma), obs=y)


class NetworkMean(nn.Module):
    """A network by point estimates, registered by `pyro.module`, and a sampled noise."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))

    def forward(self, x, y=None):
        pyro.module("net", self.net)
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(self.net(x).squeeze(-1), sigma), obs=y)


def with_parameters(x, y=None):
    """A point estimate by `pyro.param` beside a sampled slope."""
    offset = pyro.param("offset", torch.zeros(()))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(offset + slope * x, 0.5), obs=y)


def wishart(y):
    dimension = y.shape[-1]
    precision = pyro.sample("precision", dist.Wishart(torch.tensor(5.0), covariance_matrix=torch.eye(dimension)))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(dimension), precision_matrix=precision), obs=y)


def lkj_covariance(y):
    scale = pyro.sample("scale", dist.HalfCauchy(1.0).expand([3]).to_event(1))
    cholesky = pyro.sample("cholesky", dist.LKJCholesky(3, torch.tensor(2.0)))
    mean = pyro.sample("mean", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.MultivariateNormal(mean, scale_tril=scale[:, None] * cholesky), obs=y)


def factor_analysis(y):
    """One code per row, shared loadings."""
    loadings = pyro.sample("loadings", dist.Normal(0.0, 1.0).expand([2, 3]).to_event(2))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0).expand([3]).to_event(1))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z @ loadings, sigma).to_event(1), obs=y)


def banana():
    """A potential in two dimensions whose integral is known: the second number is shifted by the square of the first."""
    x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.factor("banana", -0.5 * (x[1] - x[0] ** 2) ** 2 + 0.5 * x[1] ** 2)


def bimodal():
    """Two modes in ten dimensions of equal mass, by a potential."""
    x = pyro.sample("x", dist.Normal(torch.zeros(10), 3.0).to_event(1))
    modes = torch.stack([dist.Normal(m, 0.5).log_prob(x).sum() for m in (-2.0, 2.0)])
    pyro.factor("modes", modes.logsumexp(0) - math.log(2.0))


def bimodal_evidence():
    """The overlap of two normal densities, ten times."""
    return float(10 * dist.Normal(tensor(0.0), (9 + 0.25) ** 0.5).log_prob(tensor(2.0)))


def cauchy_location(y):
    mu = pyro.sample("mu", dist.Cauchy(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, 0.5), obs=y)


def funnel():
    v = pyro.sample("v", dist.Normal(0.0, 1.0))
    with pyro.plate("numbers", 3):
        pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))


LIMIT = 0.5


def _censored(model):
    y = noise(10).clamp(max=LIMIT)
    return Job(model, Dataset((LIMIT, y), {}, None))


def _missing_y():
    x, y, seen = noise(9), noise(9, seed=1), uniform(9) < 0.6
    return Job(
        missing_outcomes,
        Dataset((x, seen, y), {}, 9),
        plain=missing_outcomes_plain,
        log_evidence=lambda: gaussian_evidence(x[seen][:, None], y[seen], 0.5),
    )


def _nan_y():
    x, y = noise(9), torch.where(uniform(9) < 0.6, noise(9, seed=1), torch.nan)
    seen = ~y.isnan()
    return Job(
        nan_outcomes, Dataset((x, y), {}, 9), log_evidence=lambda: gaussian_evidence(x[seen][:, None], y[seen], 0.5)
    )


def _missing_x():
    data = Dataset((noise(9), uniform(9) < 0.6, noise(9, seed=1)), {}, 9)
    return Job(missing_covariates, data, plain=missing_covariates_plain)


def _network(module):
    return Job(module, *rows(noise(14, 2), y=noise(14, seed=1), held_out=4))


JOBS = {
    "censored, by a factor": lambda: _censored(censored_by_factor),
    "censored, by masks": lambda: _censored(censored_by_mask),
    "censored, imputed": lambda: Job(censored_imputed, Dataset((LIMIT, noise(8).clamp(max=LIMIT)), {}, 8)),
    "missing outcomes": _missing_y,
    "missing outcomes, NaN": _nan_y,
    "missing covariates": _missing_x,
    "measurement error": lambda: Job(measurement_error, *rows(noise(9), y=noise(9, seed=1), held_out=3)),
    "survival, Weibull": lambda: Job(weibull, Dataset((noise(10), 0.2 + uniform(10), flags(0.7, 10).bool()), {}, 10)),
    "survival, exponential": lambda: Job(exponential_survival, *rows(noise(12), time=0.2 + uniform(12), held_out=4)),
    "truncated": lambda: Job(truncated, Dataset((0.1 + uniform(8),), {}, 8)),
    "hurdle": lambda: Job(hurdle, Dataset((tensor(0, 0, 1, 3, 2, 0, 1, 4),), {}, 8)),
    "network of sampled weights": lambda: _network(SampledNetwork()),
    "line with point estimates": lambda: Job(Line(), *rows(noise(12), y=noise(12, seed=1), held_out=4)),
    "network of point estimates": lambda: _network(NetworkMean()),
    "line with a parameter": lambda: Job(with_parameters, *rows(noise(12), y=noise(12, seed=1), held_out=4)),
    "covariance of scales and correlations": lambda: Job(lkj_covariance, Dataset((noise(8, 3),), {}, 8)),
    "factor analysis": lambda: Job(factor_analysis, Dataset((noise(6, 3),), {}, 6)),
    "banana": lambda: Job(banana, Dataset(), log_evidence=lambda: 0.0),
    "bimodal in ten dimensions": lambda: Job(bimodal, Dataset(), log_evidence=bimodal_evidence),
    "location with a Cauchy prior": lambda: Job(cauchy_location, Dataset((1 + noise(6),), {}, 6)),
    "funnel": lambda: Job(funnel, Dataset(), log_evidence=lambda: 0.0),
}
"""Name → job."""
