"""Ordinary mixtures, inflated counts, raters and populations: models with discrete latents, summed out."""

import pyro
import pyro.distributions as dist
import torch
from problems.ordinary_job import Job, counts, flags, labels, noise, rows, tensor
from scipy.special import betaln, gammaln

from probmodel.protocols.dataset import Dataset


def _components():
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("components", 3):
        loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    return weights, loc, scale


def gaussian_mixture(y=None, size=0):
    weights, loc, scale = _components()
    with pyro.plate("rows", size if y is None else len(y)):
        k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(loc[k], scale), obs=y)


def gaussian_mixture_summed(y):
    weights, loc, scale = _components()
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(loc, scale)), obs=y)


def _ordered():
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    base = dist.Normal(torch.zeros(2), 2.0).to_event(1)
    loc = pyro.sample("loc", dist.TransformedDistribution(base, [dist.transforms.OrderedTransform()]))
    return weights, loc


def ordered_mixture(y):
    weights, loc = _ordered()
    with pyro.plate("rows", len(y)):
        k = pyro.sample("k", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(loc[k], 0.8), obs=y)


def ordered_mixture_summed(y):
    weights, loc = _ordered()
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(loc, 0.8)), obs=y)


def _lines():
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("lines", 2):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
    return weights, a, b


def mixture_of_regressions(x, y=None):
    weights, a, b = _lines()
    with pyro.plate("rows", len(x)):
        k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(a[k] + b[k] * x, 0.5), obs=y)


def mixture_of_regressions_summed(x, y=None):
    weights, a, b = _lines()
    with pyro.plate("rows", len(x)):
        lines = dist.Normal(a + b * x[:, None], 0.5)
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights.expand(len(x), 2)), lines), obs=y)


def outliers(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    p = pyro.sample("p", dist.Beta(1.0, 10.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(p), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(a * x, 0.3 + 8 * z), obs=y)


def outliers_summed(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    p = pyro.sample("p", dist.Beta(1.0, 10.0))
    with pyro.plate("rows", len(x)):
        each = dist.Normal((a * x)[:, None], tensor(0.3, 8.3))
        which = dist.Categorical(torch.stack([1 - p, p]).expand(len(x), 2))
        pyro.sample("y", dist.MixtureSameFamily(which, each), obs=y)


def zero_inflated(x, y=None):
    gate = pyro.sample("gate", dist.Beta(1.0, 1.0))
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.ZeroInflatedPoisson((a + 0.5 * x).exp(), gate=gate), obs=y)


def zero_inflated_latent(x, y=None):
    gate = pyro.sample("gate", dist.Beta(1.0, 1.0))
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        off = pyro.sample("off", dist.Bernoulli(gate), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Poisson((a + 0.5 * x).exp() * (1 - off) + 1e-30), obs=y)


def zero_inflated_negative_binomial(x, y=None):
    gate = pyro.sample("gate", dist.Normal(0.0, 1.0))
    r = pyro.sample("r", dist.Gamma(2.0, 1.0))
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.ZeroInflatedNegativeBinomial(r, logits=a + 0.5 * x, gate_logits=gate), obs=y)


def multinomial(y):
    p = pyro.sample("p", dist.Dirichlet(torch.ones(4)))
    pyro.sample("y", dist.Multinomial(10, p), obs=y)


def multinomial_evidence(y):
    """The Dirichlet-multinomial probability."""
    total = y.sum().double()
    return float(gammaln(total + 1) + gammaln(4.0) - gammaln(total + 4))


def dirichlet_multinomial(y):
    concentration = pyro.sample("concentration", dist.Gamma(2.0, 1.0).expand([3]).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.DirichletMultinomial(concentration, y.sum(-1)), obs=y)


def beta_binomial(y=None, size=0):
    p = pyro.sample("p", dist.Beta(2.0, 3.0))
    with pyro.plate("rows", size if y is None else len(y)):
        pyro.sample("y", dist.Bernoulli(p), obs=y)


def beta_binomial_evidence(y):
    ones = float(y.sum())
    return float(betaln(2 + ones, 3 + len(y) - ones) - betaln(2, 3))


def _confusion(raters):
    prevalence = pyro.sample("prevalence", dist.Dirichlet(torch.ones(2)))
    prior = torch.ones(2, 2) + 2 * torch.eye(2)
    with pyro.plate("raters", raters, dim=-1):
        confusion = pyro.sample("confusion", dist.Dirichlet(prior).to_event(1))
    return prevalence, confusion


def dawid_skene(y):
    """Items by raters, each of whom confuses the classes in a way of his own."""
    prevalence, confusion = _confusion(y.shape[1])
    with pyro.plate("items", len(y), dim=-2):
        truth = pyro.sample("truth", dist.Categorical(prevalence), infer={"enumerate": "parallel"})
        with pyro.plate("answers", y.shape[1], dim=-1):
            rater = torch.arange(y.shape[1])
            pyro.sample("y", dist.Categorical(confusion[rater, truth]), obs=y)


def dawid_skene_summed(y):
    prevalence, confusion = _confusion(y.shape[1])
    by_class = torch.stack([confusion[r].log()[:, y[:, r]] for r in range(y.shape[1])]).sum(0)
    pyro.factor("y", (prevalence.log()[:, None] + by_class).logsumexp(0).sum())


def capture_recapture(first, second, both, largest):
    """Closed population of unknown size, counted twice."""
    p = pyro.sample("p", dist.Beta(2.0, 2.0).expand([2]).to_event(1))
    seen = first + second - both
    hidden = pyro.sample("hidden", dist.Categorical(torch.ones(largest)))
    total = hidden + seen
    chances = torch.stack([p[0] * p[1], p[0] * (1 - p[1]), (1 - p[0]) * p[1], (1 - p[0]) * (1 - p[1])])
    numbers = torch.stack(torch.broadcast_tensors(both, first - both, second - both, hidden), -1).to(p.dtype)
    log_ways = torch.lgamma(total + 1.0) - torch.lgamma(numbers + 1).sum(-1)
    pyro.factor("captures", log_ways + (numbers * chances.log()).sum(-1))


def capture_recapture_summed(first, second, both, largest):
    p = pyro.sample("p", dist.Beta(2.0, 2.0).expand([2]).to_event(1))
    terms = []
    for hidden in range(largest):
        numbers = torch.stack([both, first - both, second - both, torch.tensor(hidden)]).to(p.dtype)
        chances = torch.stack([p[0] * p[1], p[0] * (1 - p[1]), (1 - p[0]) * p[1], (1 - p[0]) * (1 - p[1])])
        terms.append(dist.Multinomial(probs=chances, validate_args=False).log_prob(numbers))
    pyro.factor("captures", torch.stack(terms).logsumexp(0) - torch.tensor(float(largest)).log())


def _occupancy():
    return pyro.sample("psi", dist.Beta(1.0, 1.0)), pyro.sample("p", dist.Beta(1.0, 1.0))


def occupancy(visits, y=None):
    """Sites that are occupied or not, visited several times."""
    psi, p = _occupancy()
    with pyro.plate("sites", len(visits)):
        z = pyro.sample("z", dist.Bernoulli(psi))
        pyro.sample("y", dist.Binomial(visits, z * p), obs=y)


def occupancy_summed(visits, y=None):
    psi, p = _occupancy()
    present = psi.log() + dist.Binomial(visits, p).log_prob(y)
    absent = torch.where(y == 0, torch.log1p(-psi), -torch.inf)
    pyro.factor("y", torch.logaddexp(present, absent).sum())


def _topics():
    topics = pyro.sample("topics", dist.Dirichlet(torch.ones(2, 4)).to_event(1))
    return topics


def topic_model(words):
    """Documents of words, each word of one of two topics."""
    topics = _topics()
    with pyro.plate("documents", words.shape[1], dim=-1):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("words", len(words), dim=-2):
            topic = pyro.sample("topic", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("word", dist.Categorical(topics[topic]), obs=words)


def topic_model_summed(words):
    topics = _topics()
    with pyro.plate("documents", words.shape[1], dim=-1):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("words", len(words), dim=-2):
            pyro.sample("word", dist.Categorical(weights @ topics), obs=words)


def _multinomial():
    y = tensor(3, 0, 2, 5)
    return Job(multinomial, Dataset((y,), {}), log_evidence=lambda: multinomial_evidence(y))


def _beta_binomial():
    y = flags(0.4, 12)
    return Job(beta_binomial, Dataset((), {"y": y}, 12), log_evidence=lambda: beta_binomial_evidence(y))


def _lines_job():
    return Job(
        mixture_of_regressions, *rows(noise(12), y=noise(12, seed=1), held_out=4), plain=mixture_of_regressions_summed
    )


def _outliers():
    return Job(outliers, *rows(noise(12), y=noise(12, seed=1), held_out=4), plain=outliers_summed)


def _captured():
    data = Dataset((torch.tensor(12), torch.tensor(15), torch.tensor(6), 20), {})
    return Job(capture_recapture, data, plain=capture_recapture_summed)


JOBS = {
    "Gaussian mixture": lambda: Job(gaussian_mixture, Dataset((noise(8),), {}, 8), plain=gaussian_mixture_summed),
    "Gaussian mixture, ordered": lambda: Job(
        ordered_mixture, Dataset((noise(8),), {}, 8), plain=ordered_mixture_summed
    ),
    "Gaussian mixture, one site": lambda: Job(gaussian_mixture_summed, Dataset((noise(8),), {}, 8)),
    "mixture of regressions": _lines_job,
    "outliers": _outliers,
    "zero-inflated Poisson": lambda: Job(zero_inflated, *rows(noise(12), y=labels(3, 12).to(noise(1)), held_out=4)),
    "zero-inflated Poisson by a latent": lambda: Job(
        zero_inflated_latent,
        *rows(noise(12), y=labels(3, 12).to(noise(1)), held_out=4),
        plain=zero_inflated,
    ),
    "zero-inflated negative binomial": lambda: Job(
        zero_inflated_negative_binomial, *rows(noise(12), y=labels(3, 12).to(noise(1)), held_out=4)
    ),
    "multinomial": _multinomial,
    "Dirichlet-multinomial": lambda: Job(dirichlet_multinomial, Dataset((counts(3.0, 6, 3),), {}, 6)),
    "beta-binomial": _beta_binomial,
    "raters": lambda: Job(dawid_skene, Dataset((labels(2, 5, 3),), {}, 5), plain=dawid_skene_summed),
    "capture and recapture": _captured,
    "occupancy": lambda: Job(
        occupancy,
        *rows(torch.full((10,), 3.0), y=labels(3, 10).to(noise(1)), held_out=3),
        plain=occupancy_summed,
    ),
    "topics": lambda: Job(topic_model, Dataset((labels(4, 5, 3),), {}), plain=topic_model_summed),
}
"""Name → job."""
