"""Rows are left out of models with latents of their own by integrating these latents; what cannot be checked is said."""

import math
import re
from functools import lru_cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.exact_answers import eight_schools

import probmodel as pb
from probmodel.diagnosis.densities import row_scores, some
from probmodel.diagnosis.findings import CAUTION, Verdict
from probmodel.diagnosis.leave_one_out import leave_one_out, row_draws
from probmodel.diagnosis.scored import NUM_SCORED_DRAWS, scored
from probmodel.draws.diagnostics import loo
from probmodel.evidence.weighing.weights import theta_draws
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.target import target_of


def centered(sigma, y=None):
    mu = pyro.sample("mu", dist.Normal(sigma.new_zeros(()), 5.0))
    tau = pyro.sample("tau", dist.LogNormal(sigma.new_zeros(()), 1.0))
    with pyro.plate("schools", len(sigma)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def noncentered(sigma, y=None):
    mu = pyro.sample("mu", dist.Normal(sigma.new_zeros(()), 5.0))
    tau = pyro.sample("tau", dist.LogNormal(sigma.new_zeros(()), 1.0))
    with pyro.plate("schools", len(sigma)):
        eta = pyro.sample("eta", dist.Normal(sigma.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)


@lru_cache
def schools(model, precision=1.0):
    """Exact draws: tau from the quantiles of its prior by their marginal likelihood, then mu and theta in closed form."""
    data = eight_schools().data
    sigma = (data.args[0] if data.args else data.kwargs["sigma"]).double() / precision
    y, generator = data.kwargs["y"].double(), torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    grid = dist.LogNormal(0.0, 1.0).icdf((torch.arange(4_000, dtype=torch.float64) + 0.5) / 4_000)
    variance = torch.diag_embed(grid[:, None] ** 2 + sigma**2)
    weights = dist.MultivariateNormal(torch.zeros(8, dtype=torch.float64), 25.0 + variance).log_prob(y).softmax(0)
    tau = grid[torch.multinomial(weights, 1_000, replacement=True, generator=generator)]
    known = 1 / (tau[:, None] ** 2 + sigma**2)
    mu = (known * y).sum(-1) / (known.sum(-1) + 1 / 25) + normal(1_000) / (known.sum(-1) + 1 / 25).sqrt()
    both = 1 / tau[:, None] ** 2 + 1 / sigma**2
    theta = (mu[:, None] / tau[:, None] ** 2 + y / sigma**2) / both + normal(1_000, 8) / both.sqrt()
    local = {"theta": theta} if model is centered else {"eta": (theta - mu[:, None]) / tau[:, None]}
    draws = {name: value.unflatten(0, (4, 250)) for name, value in {"mu": mu, "tau": tau, **local}.items()}
    return Posterior(model, pb.Dataset.of_rows(sigma, y=y), draws, {"method": "by hand"})


def exact_by_row(fit):
    """log N(y_i; mu, tau² + sigma_i²) at the draws, in closed form."""
    target = target_of(fit)
    draws = target.constrain(some(theta_draws(fit, target)))
    sigma, y = fit.data.args[0], fit.data.kwargs["y"]
    return dist.Normal(draws["mu"][:, None], (draws["tau"][:, None] ** 2 + sigma**2).sqrt()).log_prob(y)


@pytest.mark.parametrize("precision", [1.0, 20.0])
@pytest.mark.parametrize("model", [centered, noncentered])
def test_latents_of_a_row_are_integrated_to_the_closed_form(model, precision):
    fit = schools(model, precision)
    found, exact = row_draws(fit).log_likelihood, exact_by_row(fit)
    errors = found - exact
    assert found.shape == exact.shape
    assert float(errors.square().mean(0).sqrt().max()) < 0.15
    assert abs(float(errors.mean())) < 4 * float(errors.std()) / errors.numel() ** 0.5 + 0.002
    expected = loo(exact[None].numpy())
    assert abs(leave_one_out(fit).elpd - expected.elpd) < 0.1 * expected.se


def test_a_hierarchy_of_rows_is_diagnosed_without_held_out_rows():
    diagnosis = pb.diagnose(schools(noncentered))
    assert diagnosis.verdict == Verdict.FITS
    # Eight schools pool almost completely: about one effective parameter, not one a school.
    assert 0 < diagnosis["p_loo"].value < 2
    assert "R-hat" in diagnosis
    assert "new rows" not in diagnosis


def moving(x, y=None):
    """Observations that add up the latents of all rows before them."""
    scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 1.0))
    with pyro.plate("rows", len(x)):
        step = pyro.sample("step", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(scale * step.cumsum(-1), 0.5), obs=y)


def joint(x, y=None):
    scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 1.0))
    pyro.sample("y", dist.Normal(x, scale).to_event(1), obs=y)


def own(x, y=None):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "reason"),
    [(joint, "one joint term"), (own, r"latents local to a row \(z\)")],
)
def test_what_cannot_be_checked_is_said_and_the_rest_is_kept(model, reason):
    x = torch.linspace(-1, 1, 12, dtype=torch.float64)
    rows = pb.Dataset((x,), {"y": x.sin()}, 12)
    draws = _draws(model)
    diagnosis = pb.diagnose(Posterior(model, rows, draws, {"losses": [1000.0 - i for i in range(500)]}))
    found = diagnosis["new rows"]
    assert found.flag == CAUTION
    assert "point estimates" not in found.message
    assert re.search(reason, found.message)
    assert diagnosis["plateau"].flag == diagnosis.verdict == Verdict.FAILED


def _draws(model):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(4, 150, *shape, generator=generator, dtype=torch.float64)

    return {
        moving: {"scale": normal().exp(), "step": normal(12)},
        joint: {"scale": normal().exp()},
        own: {"z": normal(12)},
    }[model]


def test_new_rows_are_scored_with_their_latents_integrated():
    fit = schools(noncentered)
    sigma = torch.tensor([5.0, 10.0, 15.0, 8.0], dtype=torch.float64)
    new = pb.Dataset.of_rows(sigma, y=torch.tensor([3.0, -60.0, 8.0, 90.0], dtype=torch.float64))
    target = target_of(fit)
    theta = theta_draws(fit, target)
    draws = target.constrain(theta[torch.linspace(0, len(theta) - 1, NUM_SCORED_DRAWS).long()])
    scale = (draws["tau"][:, None] ** 2 + sigma**2).sqrt()
    by_draw = dist.Normal(draws["mu"][:, None], scale).log_prob(new.kwargs["y"])
    found = scored(fit, new)
    assert found.doubt == ""
    torch.testing.assert_close(found.log_score, by_draw.logsumexp(0) - math.log(len(by_draw)), atol=0.2, rtol=0)


def scale_mixture(x, y=None):
    """Student-t errors with two degrees of freedom as normals whose precision is the row's own."""
    mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("rows", len(x)):
        precision = pyro.sample("precision", dist.Gamma(x.new_tensor(1.0), 1.0))
        pyro.sample("y", dist.Normal(mu, precision.rsqrt()), obs=y)


def test_an_outlier_among_new_rows_has_its_score_whatever_its_distance():
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(20, dtype=torch.float64)
    mu = 0.1 * torch.randn(4, 100, generator=generator, dtype=torch.float64)
    precision = torch.rand(4, 100, 20, generator=generator, dtype=torch.float64) + 0.5
    fit = Posterior(scale_mixture, pb.Dataset.of_rows(x, y=x), {"mu": mu, "precision": precision}, {})
    y = torch.tensor([0.0, 3.0, -20.0, 200.0], dtype=torch.float64)
    found = scored(fit, pb.Dataset.of_rows(x[:4], y=y))
    exact = dist.StudentT(2.0, mu.reshape(-1, 1), 1.0).log_prob(y)
    assert found.doubt == ""
    torch.testing.assert_close(found.log_score, exact.logsumexp(0) - math.log(len(exact)), atol=0.2, rtol=0)


def ridge(x, y=None):
    """Two latents of a row of which its observation fixes the product alone, closely."""
    scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 1.0))
    with pyro.plate("rows", len(x)):
        a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
        b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(a * b, 1e-4 * scale), obs=y)


def test_scores_whose_local_latents_cannot_be_integrated_are_marked():
    x = torch.linspace(-1, 1, 12, dtype=torch.float64)
    rows, noise = pb.Dataset((x,), {"y": x.sin()}, 12), _draws(moving)["step"]
    fit = Posterior(ridge, rows, {"scale": noise[..., 0].exp(), "a": noise, "b": noise.flip(-1)}, {})
    diagnosis = pb.diagnose(fit, rows)
    assert "importance sampling cannot integrate" in diagnosis["held-out log score"].doubt
    assert "†" in diagnosis["held-out log score"].number


def test_rows_that_read_the_latents_of_others_are_left_out_by_their_likelihood():
    x = torch.linspace(-1, 1, 12, dtype=torch.float64)
    fit = Posterior(moving, pb.Dataset((x,), {"y": x.sin()}, 12), _draws(moving), {})
    theta = theta_draws(fit, target_of(fit))
    assert torch.equal(row_draws(fit).log_likelihood, target_of(fit).log_likelihood_by_row(some(theta)))


def test_rows_of_several_sites_with_local_latents_have_a_density():
    x, loading = torch.zeros(6, dtype=torch.float64), 2.0

    def factor(x, a=None, b=None):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x, 1.0))
            pyro.sample("a", dist.Normal(z, 1.0), obs=a)
            pyro.sample("b", dist.Normal(loading * z, 1.0), obs=b)

    a, b = torch.linspace(-2, 2, 6, dtype=torch.float64), torch.linspace(3, -5, 6, dtype=torch.float64)
    draws = {"z": torch.randn(4, 50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)}
    found = row_scores(Posterior(factor, pb.Dataset.of_rows(x, a=a, b=b), draws, {}), pb.Dataset.of_rows(x, a=a, b=b))
    covariance = torch.tensor([[2.0, loading], [loading, 1 + loading**2]], dtype=torch.float64)
    exact = dist.MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance).log_prob(torch.stack([a, b], -1))
    torch.testing.assert_close(found, exact, atol=0.1, rtol=0)


def folded(x, y=None):
    """A latent of a row of which its observation fixes the size, not the sign."""
    with pyro.plate("rows", len(x)):
        a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(a.abs(), 0.3), obs=y)


def test_both_modes_of_a_latent_of_a_row_count():
    y = torch.linspace(0.2, 2.0, 12, dtype=torch.float64)
    data = pb.Dataset.of_rows(torch.zeros_like(y), y=y)
    draws = {"a": torch.randn(4, 50, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)}
    variance = 1 + 0.3**2
    inside = dist.Normal(0.0, 1.0).cdf(y / math.sqrt(variance) / 0.3)
    exact = math.log(2) + dist.Normal(0.0, math.sqrt(variance)).log_prob(y) + inside.log()
    torch.testing.assert_close(row_scores(Posterior(folded, data, draws, {}), data), exact, atol=0.06, rtol=0)
