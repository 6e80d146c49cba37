"""The elbo and its importance-weighted kin bound the evidence, scaled right, with closed-form divergences."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.pyro_models import CASES, ONE, ZERO, mixture, noise, regression, row_codes, tensor
from pyro.infer.autoguide import AutoNormal
from torch.distributions import MultivariateNormal
from torch.func import vmap

from probmodel.inference.objectives.elbo import elbo
from probmodel.inference.objectives.iwae import iwae
from probmodel.protocols.dataset import Dataset
from probmodel.tracing.guided_runs import log_weights
from probmodel.tracing.programs.program import trace
from probmodel.tracing.randomness import isolated

X, Y = noise(6, 2), noise(6, seed=1)
DATA = Dataset((X, Y), {}, 6)
HALVES = [torch.tensor(index) for index in ([0, 1, 2], [3, 4, 5])]
SCALE = torch.tensor([0.3, 0.4], dtype=torch.float64)


# Posterior of the regression's weights and its log evidence in nats.
COVARIANCE = (X.T @ X / 0.25 + torch.eye(2).double()).inverse()
EXACT = MultivariateNormal(COVARIANCE @ X.T @ Y / 0.25, COVARIANCE)
LOG_Z = MultivariateNormal(torch.zeros(6).double(), X @ X.T + 0.25 * torch.eye(6).double()).log_prob(Y)


def mean_field(x, y):
    pyro.sample("w", dist.Normal(EXACT.mean, SCALE).to_event(1))


def exact_guide(x, y):
    pyro.sample("w", dist.MultivariateNormal(EXACT.mean, scale_tril=EXACT.scale_tril))


def narrow(x, y):
    """All mass at one point, so that the elbo has no noise in the likelihood."""
    pyro.sample("w", dist.Normal(torch.ones(2).double(), 1e-9).to_event(1))


def draws(objective, model, guide, data, count, seed=0):
    """Independent losses."""
    run = trace(lambda _: objective(model, guide, data), torch.zeros(()).double()).run
    with isolated(seed), torch.no_grad():
        return vmap(run, randomness="different")(torch.zeros(count).double())


def stderr(losses):
    return float(losses.std()) / math.sqrt(len(losses))


def test_the_elbo_is_below_the_evidence_by_the_divergence():
    gap = torch.distributions.kl_divergence(MultivariateNormal(EXACT.mean, torch.diag(SCALE**2)), EXACT)
    losses = draws(elbo, regression, mean_field, DATA, 4_000)
    assert abs(-losses.mean() - (LOG_Z - gap)) < 4 * stderr(losses)
    assert gap > 4 * stderr(losses)


@pytest.mark.parametrize("objective", [iwae(1), iwae(4)])
def test_every_weight_of_the_exact_posterior_is_the_evidence(objective):
    losses = draws(objective, regression, exact_guide, DATA, 20)
    torch.testing.assert_close(-losses, LOG_Z.expand(20), rtol=1e-10, atol=1e-10)


def test_the_closed_form_divergence_equals_monte_carlo():
    """The elbo (closed form) and iwae(1) (log-probabilities) have one expectation."""
    closed, sampled = (draws(objective, regression, mean_field, DATA, 8_000) for objective in (elbo, iwae(1)))
    assert abs(closed.mean() - sampled.mean()) < 4 * math.hypot(stderr(closed), stderr(sampled))
    assert not torch.allclose(closed, sampled)


def test_the_divergence_alone_is_closed_form():
    def model(x, y):
        pyro.sample("w", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))

    losses = draws(elbo, model, mean_field, DATA, 3)
    expected = 0.5 * (SCALE**2 + EXACT.mean**2 - 1 - 2 * SCALE.log()).sum()
    torch.testing.assert_close(losses, expected.expand(3), rtol=1e-12, atol=1e-12)


def test_a_divergence_without_closed_form_is_left_to_log_probabilities():
    def model(y):
        s = pyro.sample("s", dist.HalfCauchy(ONE))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(ZERO, s), obs=y)

    def guide(y):
        pyro.sample("s", dist.LogNormal(ZERO, 0.4 * ONE))

    data = Dataset((Y,), {}, 6)
    s = torch.linspace(0.001, 200, 400_001, dtype=torch.float64)[:, None]
    q = dist.LogNormal(ZERO, 0.4 * ONE).log_prob(s[:, 0])
    log_joint = dist.HalfCauchy(ONE).log_prob(s[:, 0]) + dist.Normal(ZERO, s).log_prob(Y).sum(-1)
    exact = torch.trapezoid(q.exp() * (q - log_joint), s[:, 0])
    losses = draws(elbo, model, guide, data, 4_000)
    assert abs(losses.mean() - exact) < 4 * stderr(losses)


def codes_guide(y):
    with pyro.plate("rows", len(y)):
        pyro.sample("z", dist.Normal(torch.stack([y, y], -1) / 3, 0.7).to_event(1))
        pyro.sample("s", dist.LogNormal(ZERO, 0.7 * ONE))


CODES = CASES["row_codes"].data


def test_more_particles_are_tighter_and_one_is_the_elbo():
    bounds = {k: draws(iwae(k), row_codes, codes_guide, CODES, 3_000, seed=k) for k in (1, 2, 5)}
    plain = draws(elbo, row_codes, codes_guide, CODES, 3_000)
    assert abs(plain.mean() - bounds[1].mean()) < 4 * math.hypot(stderr(plain), stderr(bounds[1]))
    for few, many in ((1, 2), (2, 5)):
        assert bounds[few].mean() - bounds[many].mean() > 4 * math.hypot(stderr(bounds[few]), stderr(bounds[many]))


def test_weights_by_row_are_tighter_than_one_weight_for_all():
    whole = Dataset(CODES.args, {}, None)
    by_row = draws(iwae(3), row_codes, codes_guide, CODES, 3_000)
    jointly = draws(iwae(3), row_codes, codes_guide, whole, 3_000)
    assert jointly.mean() - by_row.mean() > 4 * math.hypot(stderr(by_row), stderr(jointly))


@pytest.mark.parametrize("objective", [elbo, iwae(1)])
def test_the_mean_over_minibatches_is_the_full_loss(objective):
    with isolated(seed=0):
        full = objective(regression, narrow, DATA)
    parts = []
    for index in HALVES:
        with isolated(seed=0):
            parts.append(objective(regression, narrow, DATA.rows(index)))
    torch.testing.assert_close(sum(parts) / 2, full, rtol=1e-9, atol=1e-9)
    assert abs(parts[0] - full) > 0.1  # A part alone is not the whole.


@pytest.mark.parametrize("objective", [elbo, iwae(2)])
def test_the_mean_over_minibatches_of_codes_is_the_full_loss(objective):
    """One code per row: prior, guide and likelihood are all scaled; the guide is nearly a point."""

    def points(y):
        with pyro.plate("rows", len(y)):
            pyro.sample("z", dist.Normal(torch.stack([y, y], -1), 1e-9).to_event(1))
            pyro.sample("s", dist.LogNormal(y, 1e-9))

    data = Dataset((Y,), {}, 6)
    full = draws(objective, row_codes, points, data, 4_000)
    halves = [draws(objective, row_codes, points, data.rows(index), 4_000, seed=i) for i, index in enumerate(HALVES)]
    mean = sum(halves) / 2
    assert abs(mean.mean() - full.mean()) < 4 * math.hypot(stderr(mean), stderr(full)) + 1e-9
    assert abs(halves[0].mean() - full.mean()) > 0.1


def test_the_mean_over_minibatches_of_a_mixture_is_the_full_loss():
    """The scale multiplies the sum over the discrete latent, not its terms."""

    def guide(y):
        pyro.sample("weights", dist.Delta(tensor(0.2, 0.3, 0.5), event_dim=1))
        with pyro.plate("components", 3):
            pyro.sample("loc", dist.Delta(tensor(-1.0, 0.0, 1.0)))

    data = Dataset((Y,), {}, 6)
    with isolated(seed=0):
        full = elbo(mixture, guide, data)
        parts = [elbo(mixture, guide, data.rows(index)) for index in HALVES]
    torch.testing.assert_close(sum(parts) / 2, full, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("objective", [elbo, iwae(1), iwae(3)])
def test_a_minibatch_of_everything_is_the_full_loss_bit_for_bit(objective):
    losses = []
    for data in (DATA, DATA.rows(torch.arange(6))):
        with isolated(seed=0):
            losses.append(objective(regression, mean_field, data))
    assert torch.equal(*losses)


def test_a_minibatch_for_several_particles_of_shared_latents_is_refused():
    with isolated(seed=0), pytest.raises(ValueError, match="expected all 6 rows, got a minibatch of 3"):
        iwae(2)(regression, mean_field, DATA.rows(HALVES[0]))


@pytest.mark.parametrize("objective", [elbo, iwae(1)])
def test_a_minibatch_for_a_model_without_a_plate_over_rows_is_refused(objective):
    def model(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x @ w, 0.5).to_event(1), obs=y)

    with isolated(seed=0), pytest.raises(ValueError, match="expected a plate over the 3 rows"):
        objective(model, mean_field, DATA.rows(HALVES[0]))


@pytest.mark.parametrize("num_particles", [0, -1, 2.0, True, "2", None])
def test_a_number_of_particles_that_is_not_an_integer_from_one_is_refused(num_particles):
    expected = rf"expected num_particles to be an integer, 1 or more, got {num_particles!r}; "
    with pytest.raises(ValueError, match=expected):
        iwae.__wrapped__(num_particles)  # Past the check of annotations, which runs in tests only.


def test_a_number_of_particles_may_be_an_integer_of_numpy():
    with isolated(seed=0):
        expected = iwae(2)(regression, mean_field, DATA)
    with isolated(seed=0):
        assert torch.equal(iwae.__wrapped__(np.int64(2))(regression, mean_field, DATA), expected)


def test_the_order_of_sites_and_rows_changes_nothing():
    def forwards(y):
        a = pyro.sample("a", dist.Normal(ZERO, ONE))
        b = pyro.sample("b", dist.Normal(ZERO, ONE))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(a - 2 * b, 1.0), obs=y)

    def backwards(y):
        b = pyro.sample("b", dist.Normal(ZERO, ONE))
        a = pyro.sample("a", dist.Normal(ZERO, ONE))
        with pyro.plate("other", len(y)):
            pyro.sample("outcome", dist.Normal(a - 2 * b, 1.0), obs=y)

    def guide(y):
        pyro.sample("b", dist.Normal(ONE, 0.2 * ONE))
        pyro.sample("a", dist.Normal(ZERO, 0.3 * ONE))

    losses = []
    for model, y in ((forwards, Y), (backwards, Y.flip(0))):
        with isolated(seed=0):
            losses.append(elbo(model, guide, Dataset((y,), {}, 6)))
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)


@pytest.mark.parametrize("objective", [elbo, iwae(1), iwae(3)])
def test_the_loss_keeps_the_datas_dtype_and_reaches_the_parameters(objective):
    loc = tensor(0.0, 0.0).requires_grad_()

    def guide(x, y):
        pyro.sample("w", dist.Normal(loc, 1.0).to_event(1))

    with isolated(seed=0):
        loss = objective(regression, guide, DATA)
    assert loss.dtype == torch.float64
    assert loss.shape == ()
    (slope,) = torch.autograd.grad(loss, loc)
    assert (slope != 0).all()


def test_elbo_of_an_automatic_guide_keeps_the_jacobian_of_constrained_latents() -> None:
    """Gamma prior, Poisson data: the ELBO of any guide stays below the closed-form log evidence, and equals log weights."""
    counts = torch.tensor([2.0, 4.0, 3.0], dtype=torch.float64)

    def model(y: torch.Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0, dtype=torch.float64), 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Poisson(rate), obs=y)

    data = Dataset((counts,), {}, 3)
    with isolated(0):
        guide = AutoNormal(model)
        with torch.no_grad():
            guide(counts)
            losses = torch.stack([elbo(model, guide, data) for _ in range(300)])
            weights = torch.stack([log_weights(model, guide, data).values.sum() for _ in range(300)])
    a, b, n, total = 2.0, 1.0, 3, 9.0
    log_z = math.lgamma(a + total) - math.lgamma(a) + a * math.log(b) - (a + total) * math.log(b + n)
    log_z -= sum(math.lgamma(float(c) + 1) for c in counts)
    stderr = float((losses.var() / 300 + weights.var() / 300).sqrt())
    assert abs(float(losses.mean() + weights.mean())) < 4 * stderr
    assert -float(losses.mean()) < log_z
