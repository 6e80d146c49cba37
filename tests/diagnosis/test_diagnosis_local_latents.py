"""Rows are left out of models with latents of their own by integrating these latents; what cannot be checked is said."""

import re
from functools import lru_cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.exact_answers import eight_schools

import probmodel as pb
from probmodel.diagnosis.densities import some
from probmodel.diagnosis.findings import CAUTION, Verdict
from probmodel.diagnosis.leave_one_out import leave_one_out, row_draws
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
    [(moving, r"latents local to a row \(step\)"), (joint, "one joint term"), (own, r"latents local to a row \(z\)")],
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
