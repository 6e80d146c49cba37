"""Pyro models of many kinds, in float64, with data to call them: what tracing, sites and target must get right."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import AffineTransform, ExpTransform, SigmoidTransform

from probmodel.protocols.dataset import Dataset


class Case(NamedTuple):
    model: Callable[..., Any]
    data: Dataset


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ZERO, ONE = torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)


def eight_schools(sigma, y):
    mu = pyro.sample("mu", dist.Normal(ZERO, 5 * ONE))
    tau = pyro.sample("tau", dist.HalfCauchy(5 * ONE))
    with pyro.plate("schools", len(sigma)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def nested_plates(y):
    groups, items = y.shape
    scale = pyro.sample("scale", dist.Gamma(2 * ONE, ONE))
    with pyro.plate("groups", groups, dim=-2):
        level = pyro.sample("level", dist.Normal(ZERO, scale))
        with pyro.plate("items", items, dim=-1):
            effect = pyro.sample("effect", dist.StudentT(4 * ONE, level, ONE))
            pyro.sample("y", dist.Normal(effect, 0.5), obs=y)


def mixture(y):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3, dtype=torch.float64)))
    with pyro.plate("components", 3):
        loc = pyro.sample("loc", dist.Normal(ZERO, 3 * ONE))
    with pyro.plate("rows", len(y)):
        k = pyro.sample("k", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(loc[k], 0.7), obs=y)


def latent_under_discrete(y):
    """A continuous code whose prior is a mixture: prior and likelihood both need the sum over k."""
    with pyro.plate("rows", len(y)):
        k = pyro.sample("k", dist.Categorical(tensor(0.3, 0.7)))
        z = pyro.sample("z", dist.Normal(tensor(-1.0, 2.0)[k], 1.0))
        pyro.sample("y", dist.Normal(z + k, 0.5), obs=y)


def hidden_markov(y, lengths):
    """Sequences of unequal lengths, masked."""
    transition = pyro.sample("transition", dist.Dirichlet(torch.ones(2, 2, dtype=torch.float64)).to_event(1))
    loc = pyro.sample("loc", dist.Normal(tensor(-1.0, 1.0), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        state: Any = 0
        for t in pyro.markov(range(y.shape[1])):
            with poutine.mask(mask=t < lengths):
                state = pyro.sample(f"state_{t}", dist.Categorical(transition[state]))
                pyro.sample(f"y_{t}", dist.Normal(loc[state], 1.0), obs=y[:, t])


def subsampled(x, y):
    """An explicit subsample of a larger set: Pyro scales it, and so must we."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
    with pyro.plate("data", 50, subsample=torch.arange(len(y))):
        pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def constrained(y):
    p = pyro.sample("p", dist.Beta(2 * ONE, 3 * ONE))
    s = pyro.sample("s", dist.Uniform(-ONE, 2 * ONE))
    rate = pyro.sample("rate", dist.Exponential(ONE))
    with poutine.scale(scale=0.5):
        pyro.sample("h", dist.HalfNormal(2 * ONE))
    ordered = pyro.sample("ordered", dist.TransformedDistribution(dist.Normal(ZERO, ONE), [SigmoidTransform()]))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(s + p, 0.1 + rate * ordered), obs=y)


def transformed(y):
    base = dist.Normal(torch.zeros(3, dtype=torch.float64), ONE)
    a = pyro.sample("a", dist.TransformedDistribution(base, [AffineTransform(1.0, 0.5), ExpTransform()]).to_event(1))
    b = pyro.sample("b", dist.LogNormal(ZERO, ONE))
    pyro.sample("y", dist.Normal(a * b, 1.0).to_event(1), obs=y)


def events(x, y):
    w = pyro.sample("w", dist.Normal(ZERO, ONE).expand([2, 3]).to_event(2))
    precision = pyro.sample("precision", dist.Gamma(3 * ONE, ONE).expand([3]).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ w, precision.rsqrt()).to_event(1), obs=y)


def factor_only():
    """A banana-shaped density given by its logarithm alone."""
    x = pyro.sample("x", dist.Normal(torch.zeros(2, dtype=torch.float64), 2.0).to_event(1))
    pyro.factor("banana", -((x[0] - 1) ** 2) - 0.5 * (x[1] - x[0] ** 2) ** 2)


def gaussian_process(x, y):
    length = pyro.sample("length", dist.LogNormal(ZERO, ONE))
    variance = pyro.sample("variance", dist.HalfNormal(ONE))
    squared = (x[:, None] - x) ** 2
    kernel = variance * torch.exp(-0.5 * squared / length**2) + 1e-2 * torch.eye(len(x), dtype=x.dtype)
    f = pyro.sample("f", dist.MultivariateNormal(torch.zeros_like(x), covariance_matrix=kernel))
    pyro.sample("y", dist.Normal(f, 0.3).to_event(1), obs=y)


def correlated(y):
    scale = pyro.sample("scale", dist.HalfCauchy(ONE).expand([3]).to_event(1))
    cholesky = pyro.sample("cholesky", dist.LKJCholesky(3, 2 * ONE))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(3).double(), scale_tril=scale[:, None] * cholesky), obs=y)


def counts(y):
    p = pyro.sample("p", dist.Dirichlet(tensor(1.0, 2.0, 3.0, 0.5)))
    pyro.sample("y", dist.Multinomial(10, p), obs=y)


def directions(y):
    loc = pyro.sample("loc", dist.VonMises(ZERO, 0.5 * ONE))
    concentration = pyro.sample("concentration", dist.Gamma(2 * ONE, ONE))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.VonMises(loc, concentration), obs=y)


def row_codes(y):
    """One code per row, like a VAE's decoder; half of it on the positive axis."""
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        s = pyro.sample("s", dist.LogNormal(ZERO, 0.5 * ONE))
        pyro.sample("y", dist.Normal(z.sum(-1), s), obs=y)


CASES = {
    "eight_schools": Case(
        eight_schools,
        Dataset((tensor(15, 10, 16, 11, 9, 11, 10, 18),), {"y": tensor(28, 8, -3, 7, -1, 1, 18, 12)}, 8),
    ),
    "nested_plates": Case(nested_plates, Dataset((noise(3, 4),), {}, 3)),
    "mixture": Case(mixture, Dataset((noise(6),), {}, 6)),
    "latent_under_discrete": Case(latent_under_discrete, Dataset((noise(4),), {}, 4)),
    "hidden_markov": Case(hidden_markov, Dataset((noise(3, 4), torch.tensor([4, 2, 3])), {}, 3)),
    "subsampled": Case(subsampled, Dataset((noise(5, 2), (noise(5, seed=1) > 0).double()), {})),
    "constrained": Case(constrained, Dataset((noise(5),), {}, 5)),
    "transformed": Case(transformed, Dataset((noise(3),), {})),
    "events": Case(events, Dataset((noise(6, 2), noise(6, 3, seed=1)), {}, 6)),
    "factor_only": Case(factor_only, Dataset()),
    "gaussian_process": Case(gaussian_process, Dataset((noise(5), noise(5, seed=1)), {})),
    "correlated": Case(correlated, Dataset((noise(5, 3),), {}, 5)),
    "counts": Case(counts, Dataset((tensor(3, 0, 2, 5),), {})),
    "directions": Case(directions, Dataset((noise(6),), {}, 6)),
    "row_codes": Case(row_codes, Dataset((noise(5),), {}, 5)),
}
"""Name → model and data; none of them needs anything but its arguments."""


def regression(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[1]).to(x), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)
