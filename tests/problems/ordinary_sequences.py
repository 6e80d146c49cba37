"""Ordinary models of sequences: hidden Markov models, state spaces, autoregressions, change points."""

import pyro
import pyro.distributions as dist
import torch
from problems.ordinary_job import Job, counts, labels, noise, tensor
from pyro import poutine

from probmodel.protocols.dataset import Dataset

START = 0
"""State before the first of a chain."""


def forward(transition, log_likelihoods):
    """Log density of observations whose state follows a Markov chain from `START`, by the forward algorithm.

    Args:
        transition: probabilities (from, to).
        log_likelihoods: of each state at each time (T, ..., K).
    """
    log_alpha = transition[START].log() + log_likelihoods[0]
    for each in log_likelihoods[1:]:
        log_alpha = (log_alpha[..., :, None] + transition.log()).logsumexp(-2) + each
    return log_alpha.logsumexp(-1)


def _chain_parameters():
    transition = pyro.sample("transition", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    loc = pyro.sample("loc", dist.Normal(tensor(-1.0, 1.0), 1.0).to_event(1))
    return transition, loc


def hidden_markov(y):
    transition, loc = _chain_parameters()
    state = START
    for t in pyro.markov(range(len(y))):
        state = pyro.sample(f"state_{t}", dist.Categorical(transition[state]))
        pyro.sample(f"y_{t}", dist.Normal(loc[state], 1.0), obs=y[t])


def hidden_markov_summed(y):
    transition, loc = _chain_parameters()
    pyro.factor("y", forward(transition, dist.Normal(loc, 1.0).log_prob(y[:, None])))


def _emissions():
    transition = pyro.sample("transition", dist.Dirichlet(torch.ones(3, 3)).to_event(1))
    emission = pyro.sample("emission", dist.Dirichlet(torch.ones(3, 4)).to_event(1))
    return transition, emission


def categorical_hidden_markov(y):
    transition, emission = _emissions()
    state = START
    for t in pyro.markov(range(len(y))):
        state = pyro.sample(f"state_{t}", dist.Categorical(transition[state]), infer={"enumerate": "parallel"})
        pyro.sample(f"y_{t}", dist.Categorical(emission[state]), obs=y[t])


def categorical_hidden_markov_summed(y):
    transition, emission = _emissions()
    pyro.factor("y", forward(transition, emission.log().mT[y]))


def ragged_hidden_markov(y, lengths):
    """Sequences of unequal lengths in a plate, masked after their ends."""
    transition, loc = _chain_parameters()
    with pyro.plate("sequences", len(y), dim=-1):
        state = START
        for t in pyro.markov(range(y.shape[1])):
            with poutine.mask(mask=t < lengths):
                state = pyro.sample(f"state_{t}", dist.Categorical(transition[state]), infer={"enumerate": "parallel"})
                pyro.sample(f"y_{t}", dist.Normal(loc[state], 1.0), obs=y[:, t])


def ragged_hidden_markov_summed(y, lengths):
    transition, loc = _chain_parameters()
    kept = torch.arange(y.shape[1]) < lengths[:, None]
    by_state = torch.where(kept[..., None], dist.Normal(loc, 1.0).log_prob(y[..., None]), 0.0)
    pyro.factor("y", forward(transition, by_state.transpose(0, 1)).sum())


def discrete_hmm_distribution(y):
    transition, loc = _chain_parameters()
    chain = dist.DiscreteHMM(tensor(0.5, 0.5).log(), transition.log(), dist.Normal(loc, 1.0), duration=len(y))
    pyro.sample("y", chain, obs=y)


def local_level(y):
    """A random walk observed with noise, step by step."""
    step = pyro.sample("step", dist.HalfNormal(1.0))
    level = pyro.sample("level_0", dist.Normal(0.0, 1.0))
    for t in range(len(y)):
        if t:
            level = pyro.sample(f"level_{t}", dist.Normal(level, step))
        pyro.sample(f"y_{t}", dist.Normal(level, 0.5), obs=y[t])


def known_walk(y):
    """A random walk of known steps."""
    level = torch.zeros(())
    for t in pyro.markov(range(len(y))):
        level = pyro.sample(f"level_{t}", dist.Normal(level, 0.7))
        pyro.sample(f"y_{t}", dist.Normal(level, 0.5), obs=y[t])


def walk_evidence(y):
    times = 1.0 + torch.arange(len(y))
    covariance = 0.49 * torch.minimum(times[:, None], times) + 0.25 * torch.eye(len(y))
    return float(dist.MultivariateNormal(torch.zeros(len(y)), covariance).log_prob(y))


def autoregression(y):
    """Second order, given the first two numbers."""
    constant = pyro.sample("constant", dist.Normal(0.0, 1.0))
    phi = pyro.sample("phi", dist.Normal(0.0, 0.5).expand([2]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("times", len(y) - 2):
        pyro.sample("y", dist.Normal(constant + phi[0] * y[1:-1] + phi[1] * y[:-2], sigma), obs=y[2:])


def stochastic_volatility(y):
    sigma = pyro.sample("sigma", dist.Exponential(5.0))
    nu = pyro.sample("nu", dist.Exponential(0.1))
    steps = pyro.sample("steps", dist.Normal(torch.zeros(len(y)), 1.0).to_event(1))
    volatility = (sigma * steps).cumsum(-1)
    with pyro.plate("times", len(y)):
        pyro.sample("y", dist.StudentT(2 + nu, 0.0, volatility.exp()), obs=y)


def ordered_changes(time, y):
    """Two change points, the second after the first."""
    first = pyro.sample("first", dist.Uniform(0.0, 1.0))
    second = pyro.sample("second", dist.Uniform(first, 1.0))
    levels = pyro.sample("levels", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    after = torch.sigmoid((time[:, None] - torch.stack([first, second])) / 0.05)
    mean = levels[0] + (levels[1:] - levels[:-1]) @ after.T
    with pyro.plate("times", len(time)):
        pyro.sample("y", dist.Normal(mean, 0.3), obs=y)


def _rates():
    early = pyro.sample("early", dist.Exponential(1.0))
    late = pyro.sample("late", dist.Exponential(1.0))
    return early, late


def disasters(y):
    """Counts whose rate changes at an unknown time."""
    early, late = _rates()
    time = torch.arange(len(y))
    change = pyro.sample("change", dist.Categorical(torch.ones(len(y)) / len(y)))
    with pyro.plate("years", len(y)):
        pyro.sample("y", dist.Poisson(torch.where(time < change, early, late)), obs=y)


def disasters_summed(y):
    early, late = _rates()
    time = torch.arange(len(y))
    rates = torch.where(time < time[:, None], early, late)
    by_change = dist.Poisson(rates).log_prob(y).sum(-1) - torch.log(torch.tensor(float(len(y))))
    pyro.factor("y", by_change.logsumexp(-1))


def garch(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    base = pyro.sample("base", dist.HalfNormal(1.0))
    shock = pyro.sample("shock", dist.Uniform(0.0, 1.0))
    memory = pyro.sample("memory", dist.Uniform(0.0, 1 - shock))
    variance = torch.ones(())
    for t in range(len(y)):
        if t:
            variance = base + shock * (y[t - 1] - mu) ** 2 + memory * variance
        pyro.sample(f"y_{t}", dist.Normal(mu, variance.sqrt()), obs=y[t])


def seasonal(month, y=None):
    trend = pyro.sample("trend", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    season = pyro.sample("season", dist.Normal(torch.zeros(4), scale).to_event(1))
    with pyro.plate("times", len(month)):
        pyro.sample("y", dist.Normal(0.1 * trend * month + season[month % 4], 0.5), obs=y)


def gaussian_hmm(y):
    """A local level by the distribution that sums its states out."""
    step = pyro.sample("step", dist.HalfNormal(1.0))
    one, zero = torch.eye(1), torch.zeros(1)
    level = dist.GaussianHMM(
        dist.Normal(zero, 1.0).to_event(1),
        one,
        dist.Normal(zero, step).to_event(1),
        one,
        dist.Normal(zero, 0.5).to_event(1),
        duration=len(y),
    )
    pyro.sample("y", level, obs=y)


def _walk():
    y = noise(6)
    return Job(known_walk, Dataset((y,), {}), log_evidence=lambda: walk_evidence(y))


JOBS = {
    "hidden Markov model": lambda: Job(hidden_markov, Dataset((noise(6),), {}), plain=hidden_markov_summed),
    "hidden Markov model, categorical": lambda: Job(
        categorical_hidden_markov, Dataset((labels(4, 6),), {}), plain=categorical_hidden_markov_summed
    ),
    "hidden Markov model, ragged": lambda: Job(
        ragged_hidden_markov,
        Dataset((noise(3, 4), torch.tensor([4, 2, 3])), {}, 3),
        plain=ragged_hidden_markov_summed,
    ),
    "hidden Markov distribution": lambda: Job(discrete_hmm_distribution, Dataset((noise(6),), {})),
    "local level": lambda: Job(local_level, Dataset((noise(5),), {})),
    "random walk": _walk,
    "autoregression": lambda: Job(autoregression, Dataset((noise(12),), {})),
    "stochastic volatility": lambda: Job(stochastic_volatility, Dataset((noise(8),), {}, 8)),
    "ordered change points": lambda: Job(
        ordered_changes, Dataset((torch.linspace(0, 1, 12), noise(12)), {}, 12), has_guide=False
    ),
    "discrete change point": lambda: Job(disasters, Dataset((counts(2.0, 10),), {}), plain=disasters_summed),
    "GARCH": lambda: Job(garch, Dataset((noise(6),), {}), has_guide=False),
    "seasons": lambda: Job(seasonal, Dataset((torch.arange(12),), {"y": noise(12)}, 12)),
    "Gaussian hidden Markov distribution": lambda: Job(gaussian_hmm, Dataset((noise(6, 1),), {})),
}
"""Name → job."""
