"""Ordinary regressions: links, likelihoods and priors as people write them."""

import pyro
import pyro.distributions as dist
import torch
from problems.ordinary_job import Job, counts, flags, gaussian_evidence, labels, noise, rows, uniform
from pyro import poutine

from probmodel.protocols.dataset import Dataset


def linear(x, y=None):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def linear_without_plates(x, y=None):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(w * x, 0.5).to_event(1), obs=y)


def linear_of_integers(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a * x, 0.5), obs=y)


def logistic(x, y=None):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w + b), obs=y)


def logistic_clamped(x, y=None):
    w = pyro.sample("w", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Bernoulli(torch.sigmoid(w * x).clamp(1e-6, 1 - 1e-6)), obs=y)


def probit_groups(group, x, y=None):
    """A probit of 31 groups, whose probabilities are kept off 0 and 1."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("groups", 31):
        a = pyro.sample("a", dist.Normal(mu, tau))
    with pyro.plate("rows", len(x)):
        p = dist.Normal(0.0, 1.0).cdf(a[group] + slope * x).clamp(1e-6, 1 - 1e-6)
        pyro.sample("y", dist.Bernoulli(p), obs=y)


def softmax(x, y=None):
    w = pyro.sample("w", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Categorical(logits=x @ w), obs=y)


def ordinal(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("cuts", 3):
        gaps = pyro.sample("gaps", dist.LogNormal(-0.5, 0.5))
    cutpoints = gaps.cumsum(-1) - 1.5
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.OrderedLogistic(slope * x, cutpoints), obs=y)


def ordinal_ordered(x, y=None):
    """Cut points by an ordering transform of normal numbers."""
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    cuts = pyro.sample("cuts", dist.TransformedDistribution(base, [dist.transforms.OrderedTransform()]))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.OrderedLogistic(slope * x, cuts), obs=y)


def poisson_offset(exposure, x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Poisson((a + b * x + exposure.log()).exp()), obs=y)


def negative_binomial(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    r = pyro.sample("r", dist.Gamma(2.0, 0.5))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.NegativeBinomial(r, logits=a + b * x - r.log()), obs=y)


def student(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    nu = pyro.sample("nu", dist.Gamma(2.0, 0.1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.StudentT(nu + 1, a + b * x, sigma), obs=y)


def quantile(x, y=None):
    """The upper quartile by the asymmetric Laplace density."""
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.AsymmetricLaplace(a + b * x, scale, (0.75 / 0.25) ** 0.5), obs=y)


def beta_regression(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    phi = pyro.sample("phi", dist.Gamma(2.0, 0.2))
    mean = torch.sigmoid(a + b * x)
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Beta(mean * phi, (1 - mean) * phi), obs=y)


def gamma_regression(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    shape = pyro.sample("shape", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Gamma(shape, shape / (a + b * x).exp()), obs=y)


def von_mises(x, y=None):
    mu = pyro.sample("mu", dist.VonMises(0.0, 0.5))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    concentration = pyro.sample("concentration", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.VonMises(mu + 2 * torch.atan(slope * x), concentration), obs=y)


def heteroscedastic(x, y=None):
    a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    s = pyro.sample("s", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a[0] + a[1] * x, (s[0] + s[1] * x).exp()), obs=y)


def horseshoe(x, y=None):
    features = x.shape[1]
    tau = pyro.sample("tau", dist.HalfCauchy(0.5))
    with pyro.plate("features", features):
        lam = pyro.sample("lam", dist.HalfCauchy(1.0))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    beta = pyro.deterministic("beta", z * lam * tau, event_dim=1)
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def multivariate_outcome(x, y=None):
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2, 3]).to_event(2))
    sigma = pyro.sample("sigma", dist.HalfNormal(torch.ones(3)).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ w, sigma).to_event(1), obs=y)


def weighted(x, weight, y=None):
    """Rows with weights, as from a survey."""
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)), poutine.scale(scale=weight):
        pyro.sample("y", dist.Normal(w * x, 0.5), obs=y)


def splines(basis, y=None):
    """A random walk of spline coefficients."""
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    steps = pyro.sample("steps", dist.Normal(torch.zeros(basis.shape[1]), 1.0).to_event(1))
    coefficients = (tau * steps).cumsum(-1)
    sigma = pyro.sample("sigma", dist.HalfNormal(0.5))
    with pyro.plate("rows", len(basis)):
        pyro.sample("y", dist.Normal(basis @ coefficients, sigma), obs=y)


def hats(x, knots=5):
    return (1 - (x[:, None] - torch.linspace(-2, 2, knots)).abs()).clamp(min=0.0)


def gaussian_process(x, y):
    length = pyro.sample("length", dist.LogNormal(0.0, 0.5))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(0.5))
    kernel = scale**2 * torch.exp(-0.5 * ((x[:, None] - x) / length) ** 2)
    covariance = kernel + (sigma**2 + 1e-6) * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), covariance), obs=y)


def latent_gaussian_process(x, y):
    """A Poisson rate whose logarithm is a Gaussian process."""
    kernel = torch.exp(-0.5 * (x[:, None] - x) ** 2) + 1e-4 * torch.eye(len(x))
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
    f = torch.linalg.cholesky(kernel) @ z
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Poisson(f.exp()), obs=y)


def _linear():
    train, new = rows(noise(14, 2), y=noise(14, seed=1), held_out=4)
    return Job(linear, train, new, log_evidence=lambda: gaussian_evidence(train.args[0], train.kwargs["y"], 0.5))


def _without_plates():
    train, new = rows(noise(14), y=noise(14, seed=1), held_out=4)
    return Job(
        linear_without_plates,
        train,
        new,
        log_evidence=lambda: gaussian_evidence(train.args[0][:, None], train.kwargs["y"], 0.5),
        has_rows=False,
    )


def _integers():
    train, new = rows(noise(14), y=labels(3, 14), held_out=4)
    return Job(
        linear_of_integers,
        train,
        new,
        log_evidence=lambda: gaussian_evidence(train.args[0][:, None], train.kwargs["y"].to(noise(1)), 0.5),
    )


def _simple(model, y):
    return Job(model, *rows(noise(len(y)), y=y, held_out=4))


JOBS = {
    "linear regression": _linear,
    "linear regression without plates": _without_plates,
    "normal model of integers": _integers,
    "logistic regression": lambda: Job(logistic, *rows(noise(16, 2), y=flags(0.5, 16), held_out=4)),
    "logistic regression, clamped": lambda: _simple(logistic_clamped, flags(0.5, 16)),
    "probit of 31 groups, clamped": lambda: Job(
        probit_groups, *rows(labels(31, 66), noise(66), y=flags(0.5, 66), held_out=4)
    ),
    "softmax regression": lambda: Job(softmax, *rows(noise(16, 2), y=labels(3, 16), held_out=4)),
    "ordinal regression": lambda: _simple(ordinal, labels(4, 16)),
    "ordinal regression, ordered cuts": lambda: _simple(ordinal_ordered, labels(4, 16)),
    "Poisson regression with offset": lambda: Job(
        poisson_offset, *rows(1 + counts(3.0, 14), noise(14), y=counts(3.0, 14, seed=1), held_out=4)
    ),
    "negative binomial regression": lambda: _simple(negative_binomial, counts(4.0, 16)),
    "Student t regression": lambda: _simple(student, noise(16, seed=1)),
    "quantile regression": lambda: _simple(quantile, noise(16, seed=1)),
    "beta regression": lambda: _simple(beta_regression, 0.05 + 0.9 * uniform(16)),
    "gamma regression": lambda: _simple(gamma_regression, 0.1 + uniform(16)),
    "von Mises regression": lambda: _simple(von_mises, noise(16, seed=1)),
    "heteroscedastic regression": lambda: _simple(heteroscedastic, noise(16, seed=1)),
    "horseshoe": lambda: Job(horseshoe, *rows(noise(16, 4), y=noise(16, seed=1), held_out=4)),
    "outcomes of three numbers": lambda: Job(
        multivariate_outcome, *rows(noise(14, 2), y=noise(14, 3, seed=1), held_out=4)
    ),
    "weighted rows": lambda: Job(weighted, *rows(noise(14), 0.5 + uniform(14), y=noise(14, seed=1), held_out=4)),
    "splines": lambda: Job(splines, *rows(hats(noise(18)), y=noise(18, seed=1), held_out=4)),
    "Gaussian process": lambda: Job(gaussian_process, Dataset((torch.linspace(-2, 2, 8), noise(8)), {})),
    "log Gaussian Cox process": lambda: Job(
        latent_gaussian_process, Dataset((torch.linspace(-2, 2, 8), counts(2.0, 8)), {}, 8)
    ),
}
"""Name → job."""
