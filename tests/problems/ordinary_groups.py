"""Ordinary hierarchical models: schools, counties, items, ragged groups."""

import pyro
import pyro.distributions as dist
import torch
from problems.ordinary_job import Job, counts, flags, labels, noise, rows, tensor
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam

from probmodel.protocols.dataset import Dataset


def eight_schools(sigma, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(sigma)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_noncentered(sigma, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(sigma)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


eight_schools_reparametrized = poutine.reparam(eight_schools, config={"theta": LocScaleReparam(0.0)})


def varying_intercepts(county, floor, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.Exponential(1.0))
    with pyro.plate("counties", 4):
        alpha = pyro.sample("alpha", dist.Normal(mu, tau))
    with pyro.plate("rows", len(floor)):
        pyro.sample("y", dist.Normal(alpha[county] + slope * floor, sigma), obs=y)


def varying_slopes(group, x, y=None):
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    scales = pyro.sample("scales", dist.HalfCauchy(torch.ones(2)).to_event(1))
    cholesky = pyro.sample("cholesky", dist.LKJCholesky(2, torch.tensor(2.0)))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("groups", 5):
        beta = pyro.sample("beta", dist.MultivariateNormal(mean, scale_tril=scales[:, None] * cholesky))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(beta[group, 0] + beta[group, 1] * x, sigma), obs=y)


def nested_plates(y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("schools", 3, dim=-1):
        school = pyro.sample("school", dist.Normal(mu, tau))
        with pyro.plate("pupils", 4, dim=-2):
            pyro.sample("y", dist.Normal(school, 0.7), obs=y)


def ragged_groups(kept, y=None):
    """Groups of unequal size, padded and masked."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    groups, most = kept.shape
    with pyro.plate("groups", groups, dim=-2):
        level = pyro.sample("level", dist.Normal(mu, 0.8))
        with pyro.plate("members", most, dim=-1), poutine.mask(mask=kept):
            pyro.sample("y", dist.Normal(level, 0.5), obs=y)


def ragged_evidence(kept, y):
    """Normal levels and a normal mean: one multivariate normal of all kept numbers."""
    group = torch.arange(len(kept))[:, None].expand_as(kept)[kept]
    same = (group[:, None] == group).to(y)
    covariance = 1 + 0.64 * same + 0.25 * torch.eye(len(group))
    return float(dist.MultivariateNormal(torch.zeros(len(group)), covariance).log_prob(y[kept]))


def ragged_loop(lengths, y=None):
    """Groups of unequal size in a loop over sequential plates."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    for group in pyro.plate("groups", len(lengths)):
        level = pyro.sample(f"level_{group}", dist.Normal(mu, 1.0))
        with pyro.plate(f"members_{group}", lengths[group]):
            pyro.sample(f"y_{group}", dist.Normal(level, 0.5), obs=None if y is None else y[group])


def rasch(person, item, y=None):
    with pyro.plate("persons", 6):
        ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
    with pyro.plate("items", 4):
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 2.0))
    with pyro.plate("answers", len(person)):
        pyro.sample("y", dist.Bernoulli(logits=ability[person] - difficulty[item]), obs=y)


def two_parameter_items(y=None):
    persons, items = 6, 4
    with pyro.plate("items", items, dim=-1):
        discrimination = pyro.sample("discrimination", dist.LogNormal(0.0, 0.5))
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 1.0))
    with pyro.plate("persons", persons, dim=-2):
        ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
        with pyro.plate("answers", items, dim=-1):
            pyro.sample("y", dist.Bernoulli(logits=discrimination * (ability - difficulty)), obs=y)


def batting(at_bats, hits=None):
    """Efron and Morris's batting averages, partially pooled."""
    m = pyro.sample("m", dist.Uniform(0.0, 1.0))
    kappa = pyro.sample("kappa", dist.Pareto(1.0, 1.5))
    with pyro.plate("players", len(at_bats)):
        phi = pyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
        pyro.sample("hits", dist.Binomial(at_bats, phi), obs=hits)


def meta_analysis(effect, error):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(0.5))
    with pyro.plate("studies", len(effect)):
        theta = pyro.sample("theta", dist.StudentT(4.0, mu, tau))
        pyro.sample("y", dist.Normal(theta, error), obs=effect)


def bradley_terry(first, second, won=None):
    """Paired comparisons; the strengths of the players sum to about zero by their prior."""
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    strength = pyro.sample("strength", dist.Normal(torch.zeros(5), scale).to_event(1))
    with pyro.plate("games", len(first)):
        pyro.sample("won", dist.Bernoulli(logits=strength[first] - strength[second]), obs=won)


def growth_curves(age, y=None):
    """Individuals by ages, each with an intercept and a slope."""
    individuals = 5
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    tau = pyro.sample("tau", dist.HalfNormal(1.0).expand([2]).to_event(1))
    with pyro.plate("individuals", individuals, dim=-2):
        a = pyro.sample("a", dist.Normal(mu[0], tau[0]))
        b = pyro.sample("b", dist.Normal(mu[1], tau[1]))
        with pyro.plate("ages", len(age), dim=-1):
            pyro.sample("y", dist.Normal(a + b * age, 0.5), obs=y)


SIGMA, SCORES = (15, 10, 16, 11, 9, 11, 10, 18), (28, 8, -3, 7, -1, 1, 18, 12)


def _schools(model):
    return Job(model, Dataset((tensor(*SIGMA),), {"y": tensor(*SCORES)}, 8))


def _ragged():
    kept = torch.arange(4) < torch.tensor([4, 1, 3])[:, None]
    y = torch.where(kept, noise(3, 4), 0.0)
    return Job(ragged_groups, Dataset((kept, y), {}, 3), log_evidence=lambda: ragged_evidence(kept, y))


JOBS = {
    "eight schools, centered": lambda: _schools(eight_schools),
    "eight schools, non-centered": lambda: _schools(eight_schools_noncentered),
    "eight schools, reparametrized": lambda: _schools(eight_schools_reparametrized),
    "varying intercepts": lambda: Job(
        varying_intercepts, *rows(labels(4, 14), flags(0.5, 14), y=noise(14, seed=1), held_out=4)
    ),
    "varying slopes": lambda: Job(varying_slopes, *rows(labels(5, 16), noise(16), y=noise(16, seed=1), held_out=4)),
    "nested plates": lambda: Job(nested_plates, Dataset((), {"y": noise(4, 3)})),
    "ragged groups, masked": _ragged,
    "ragged groups, in a loop": lambda: Job(
        ragged_loop, Dataset(((3, 1, 2), [noise(3), noise(1, seed=1), noise(2, seed=2)]), {}), has_guide=False
    ),
    "item response, Rasch": lambda: Job(
        rasch, *rows(labels(6, 20), labels(4, 20, seed=1), y=flags(0.5, 20), held_out=4)
    ),
    "item response, two parameters": lambda: Job(two_parameter_items, Dataset((), {"y": flags(0.5, 6, 4)})),
    "batting averages": lambda: Job(batting, Dataset((tensor(45, 45, 40, 50),), {"hits": tensor(18, 11, 9, 14)}, 4)),
    "meta-analysis": lambda: Job(meta_analysis, Dataset((noise(6), 0.2 + flags(0.5, 6)), {}, 6)),
    "paired comparisons": lambda: Job(
        bradley_terry, *rows(labels(5, 16), labels(5, 16, seed=3), won=flags(0.5, 16), held_out=4)
    ),
    "growth curves": lambda: Job(growth_curves, Dataset((tensor(-1, 0, 1),), {"y": noise(5, 3) + counts(2.0, 5, 1)})),
}
"""Name → job."""
