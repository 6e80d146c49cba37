"""Predictions with discrete latents summed out, and of families whose parameters cannot be stacked, against direct sums."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import probmodel as pb
from probmodel.families.draw_mixture import DrawMixture, moments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.randomness import isolated


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, A = normal(30), normal(1, 50, seed=1)
NEW = normal(6, seed=2)
ONE = torch.tensor(1.0).double()


def by_hand(model, y, **kwargs):
    return Posterior(model, Dataset((X,), {"y": y, **kwargs}, len(X)), {"a": A}, {"method": "by hand"})


def slope():
    return pyro.sample("a", dist.Normal(0 * ONE, ONE))


def robust(x, y=None):
    a = slope()
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.002 * ONE))
        pyro.sample("y", dist.Normal(a * x, 0.3 + 8 * z), obs=y)


def counts(x, y=None):
    a = slope()
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(torch.sigmoid(x)))
        pyro.sample("y", dist.Poisson((a * x).exp() * z + 1e-3), obs=y)


def coin(x, y=None):
    a = slope()
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.2, 0.3, 0.5]).double()))
        pyro.sample("y", dist.Bernoulli(logits=a * x + z), obs=y)


def chained(x, y=None):
    """Two latents, one given the other; the outcome depends on the second alone."""
    a = slope()
    with pyro.plate("rows", len(x)):
        first = pyro.sample("first", dist.Bernoulli(0.3 * ONE))
        second = pyro.sample("second", dist.Bernoulli(0.1 + 0.7 * first))
        pyro.sample("y", dist.Normal(a * x + 3 * second, ONE), obs=y)


OUTLIERS = NEW + torch.tensor([9.0, 0, 0, -9, 0, 0]).double()
SUMS = {
    robust: (OUTLIERS, [(0.998, lambda m: dist.Normal(m, 0.3 * ONE)), (0.002, lambda m: dist.Normal(m, 8.3 * ONE))]),
    counts: (
        torch.tensor([0.0, 1, 2, 0, 5, 1]).double(),
        [
            (torch.sigmoid(NEW), lambda m: dist.Poisson(m.exp() + 1e-3)),
            (torch.sigmoid(-NEW), lambda m: dist.Poisson(0 * m + 1e-3)),
        ],
    ),
    coin: (
        torch.tensor([0.0, 1, 1, 0, 1, 0]).double(),
        [(p, lambda m, k=k: dist.Bernoulli(logits=m + k)) for k, p in enumerate((0.2, 0.3, 0.5))],
    ),
    chained: (
        OUTLIERS,
        [
            (0.7 * 0.1 + 0.3 * 0.8, lambda m: dist.Normal(m + 3, ONE)),
            (0.7 * 0.9 + 0.3 * 0.2, lambda m: dist.Normal(m, ONE)),
        ],
    ),
}


@pytest.mark.parametrize("model", SUMS)
def test_discrete_latents_of_new_rows_are_summed_out(model):
    y, terms = SUMS[model]
    mean = A.T * NEW
    parts = [torch.as_tensor(w, dtype=torch.float64).log() + family(mean).log_prob(y) for w, family in terms]
    truth = torch.stack(parts).logsumexp(0).logsumexp(0) - math.log(50)
    fit = by_hand(model, torch.zeros(30).double())
    for seed in (0, 1):
        found = pb.predict(fit, NEW, seed=seed)
        torch.testing.assert_close(found.distribution.log_prob(y), truth, rtol=1e-8, atol=1e-8)
    assert found.by_draw.batch_shape == (50, 6)


def test_a_discrete_latent_that_rows_share_is_refused():
    def model(x, y=None):
        z = pyro.sample("z", dist.Bernoulli(0.5 * ONE))
        a = slope()
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(a * x + z, ONE), obs=y)

    with pytest.raises(ValueError, match=r"\['z'\], whose value depends on other observations"):
        pb.predict(by_hand(model, normal(30, seed=3)), NEW)


PAIR = torch.ones(2).double()
FAMILIES = {
    "zero-inflated Poisson": lambda m: dist.ZeroInflatedPoisson(m.exp(), gate=0.4 * ONE),
    "zero-inflated negative binomial": lambda m: dist.ZeroInflatedNegativeBinomial(3 * ONE, logits=m, gate=0.4 * ONE),
    "zero-inflated geometric": lambda m: dist.ZeroInflatedDistribution(dist.Geometric(logits=m), gate_logits=0.4 * ONE),
    "mixture": lambda m: dist.MixtureSameFamily(dist.Categorical(PAIR), dist.Normal(m[..., None] * PAIR, PAIR)),
    "masked": lambda m: dist.Normal(m, ONE).mask(torch.tensor(True)),
    "transformed": lambda m: dist.TransformedDistribution(
        dist.Normal(m, ONE), [dist.transforms.AffineTransform(1 * ONE, 2 * ONE), dist.transforms.ExpTransform()]
    ),
    "skew logistic": lambda m: dist.SkewLogistic(m, ONE, 1.5 * ONE),
    "folded": lambda m: dist.FoldedDistribution(dist.Normal(m, ONE)),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_averaged_over_the_draws(name):
    def model(x, y=None):
        a = slope()
        with pyro.plate("rows", len(x)):
            pyro.sample("y", FAMILIES[name](a * x), obs=y)

    y = torch.tensor([0.0, 1, 2, 1, 3, 1]).double() + (name in ("transformed", "folded")) * 0.5
    found = pb.predict(by_hand(model, y.repeat(5)), NEW)
    each = FAMILIES[name](A.T * NEW).log_prob(y)
    torch.testing.assert_close(found.distribution.log_prob(y), each.logsumexp(0) - math.log(50), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.by_draw.log_prob(y), each, rtol=1e-6, atol=1e-6)
    assert torch.isfinite(found.action).all() and torch.isfinite(found.aleatoric).all()
    assert str(found._repr_html_())


def test_moments_without_a_closed_form_are_those_of_many_draws():
    logistic = dist.SkewLogistic(2 * ONE, 0.5 * ONE, ONE)  # Logistic(2, 1/2) of variance π² / 12.
    mixture = DrawMixture(
        [logistic, dist.SkewLogistic(0 * ONE, 0.5 * ONE, ONE)], torch.tensor([0.75, 0.25]).double().log()
    )
    sd = math.pi / math.sqrt(12)
    assert float(moments(logistic)[0]) == pytest.approx(2, abs=4 * sd / math.sqrt(4_000))
    assert float(moments(mixture)[0]) == pytest.approx(1.5, abs=4 * sd / math.sqrt(400))
    assert float(moments(mixture)[1]) == pytest.approx(sd**2 + 0.75, rel=0.3)
    with isolated(seed=0):
        draws = mixture.sample((4_000,))
    assert float(draws.mean()) == pytest.approx(1.5, abs=4 * math.sqrt((sd**2 + 0.75) / 4_000))


def test_factors_alone_predict_nothing():
    def model(x, y):
        a = slope()
        pyro.factor("likelihood", dist.Normal(a * x, ONE).log_prob(y).sum())

    with pytest.raises(ValueError, match=r"factors \['likelihood'\] alone"):
        pb.predict(by_hand(model, normal(30, seed=3)), Dataset((NEW,), {"y": NEW}))


def test_a_model_that_counts_its_observations_predicts_without_reading_them():
    def model(y, error):
        a = slope()
        with pyro.plate("studies", len(y)):
            pyro.sample("y", dist.Normal(a, error), obs=y)

    fit = Posterior(model, Dataset((X, X.abs() + 1), {}, 30), {"a": A}, {})
    error = NEW.abs() + 1
    one, other = (pb.predict(fit, values, error).distribution for values in (NEW, NEW + 100))
    torch.testing.assert_close(one.mean, A.mean().expand(6))
    torch.testing.assert_close(one.log_prob(NEW), other.log_prob(NEW))
