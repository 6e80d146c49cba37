"""Models of posteriordb have the density of its Stan programs, and inference finds the means of its reference draws."""

import math
import os
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from problems import posteriordb_models as models
from scipy import integrate, stats
from scipy.special import logsumexp

import probmodel as pb
from probmodel.data.locate import VARIABLE, locate
from probmodel.draws.diagnostics import mcse_mean
from probmodel.protocols.posterior import Posterior, Target

pytestmark = pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no folder with posteriordb/")

INFERENCES = {"ChEES": pb.ChEES(progress=False), "NUTS": pb.NUTS(progress=False)}
"""Name → inference that has to find every posterior outside `SLOW[name]`."""
SLOW = {
    "ChEES": frozenset({"hmm_drive_0", "hmm_example", "diamonds", "lotka_volterra", "one_comp_mm_elim_abs"}),
    "NUTS": frozenset(models.NAMES),
}
"""Name of an inference → posteriors that take it too long for a test."""
HEAVY_TAILED = {"one_comp_mm_elim_abs": ("K_m", "V_m")}
"""Parameters whose posterior has no variance: a mean of draws has no standard error, so quantiles are compared."""
LEVELS = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
DRAWS = {
    "arK": "arK-arK_draws_thin5.npz",
    "eight_schools_noncentered": "eight_schools_noncentered_draws.npz",
    "lotka_volterra": "hudson_lynx_hare-lotka_volterra_draws_thin5.npz",
}
"""Posteriors of which reference draws are at hand."""
LIMIT = 4.0
"""Standard errors."""

each_posterior = pytest.mark.parametrize("name", models.NAMES)


@lru_cache(maxsize=len(models.NAMES))
def loaded(name: str) -> tuple[models.Case, Target]:
    case = models.posterior(name)
    return case, pb.target(case.model, case.data)


def center(name: str) -> torch.Tensor:
    """The reference means as a point of the target, (1, D); medians of what is heavy-tailed."""
    case, target = loaded(name)
    heavy = HEAVY_TAILED.get(name, ())
    values = {key: each["q50" if key in heavy else "mean"] for key, each in case.reference.summary.items()}
    return target.unconstrain(case.sites({key: tensor([value]) for key, value in values.items()}))


def tensor(values) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def slope(target: Target, theta: torch.Tensor) -> torch.Tensor:
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(target.log_joint(theta).sum(), theta)[0]


def standardized_errors(name: str, fit: Posterior) -> dict[str, float]:
    """Each parameter's mean against the reference's, in standard errors of both; quantiles of what is heavy-tailed.

    A quantile's error is that of the share of draws below the reference's quantile.
    """
    case, _ = loaded(name)
    draws = {key: value.numpy(force=True) for key, value in case.named(fit.draws).items()}
    errors = {}
    for key, reference in case.reference.summary.items():
        if key in HEAVY_TAILED.get(name, ()):
            for label, level in LEVELS.items():
                below = (draws[key] < reference[label]).astype(float)
                width = math.sqrt(level * (1 - level))
                errors[f"{key}, {label}"] = _standardized(below, level, width / math.sqrt(case.reference.ess))
        else:
            stderr = reference["sd"] / math.sqrt(case.reference.ess)
            errors[key] = _standardized(draws[key], reference["mean"], stderr)
    return errors


def _standardized(draws: np.ndarray, expected: float, stderr: float) -> float:
    return float((draws.mean() - expected) / math.hypot(float(mcse_mean({"x": draws})["x"]), stderr))


@each_posterior
@pytest.mark.parametrize("inference", INFERENCES)
def test_posterior_means_agree_with_reference(name, inference):
    if name in SLOW.get(inference, ()):
        pytest.skip(f"{inference} takes too long for {name}")
    case, _ = loaded(name)
    errors = standardized_errors(name, INFERENCES[inference](case.model, case.data, seed=0))
    worst = max(errors, key=lambda key: abs(errors[key]))
    assert abs(errors[worst]) < LIMIT, f"{worst} is off by {errors[worst]:.1f} standard errors"


@each_posterior
def test_each_model_is_traced_in_double_precision_under_the_names_of_the_reference(name):
    case, target = loaded(name)
    assert target.fallback is None
    assert target.dtype == torch.float64
    named = case.named(target.constrain(center(name)))
    assert set(named) == set(case.reference.summary)
    for key, reference in case.reference.summary.items():
        expected = reference["q50" if key in HEAVY_TAILED.get(name, ()) else "mean"]
        assert abs(named[key].item() - expected) < 1e-6 * reference["sd"]


@each_posterior
def test_log_joint_is_finite_with_the_right_gradient_at_the_reference_means(name):
    _, target = loaded(name)
    theta, width = center(name), 1e-5
    steps = width * torch.eye(target.dim, dtype=torch.float64)
    upper, lower = target.log_joint(theta + steps), target.log_joint(theta - steps)
    assert torch.isfinite(target.log_joint(theta)).all()
    gradient = slope(target, theta)[0]
    curvature = (upper + lower - 2 * target.log_joint(theta)).abs() / width**2
    # Third derivatives spoil central differences by about curvature · width²; rounding by log joint · 1e-16 / width.
    tolerance = 1e-6 * (1 + gradient.abs() + curvature.sqrt())
    assert ((upper - lower) / (2 * width) - gradient).abs().le(tolerance).all()


@each_posterior
def test_chains_can_start_from_what_stands_for_prior_draws(name):
    _, target = loaded(name)
    starts = target.sample_prior(20, 0)
    assert torch.isfinite(target.log_joint(starts)).all()
    assert torch.isfinite(slope(target, starts)).all()


@pytest.mark.parametrize("name", DRAWS)
def test_reference_draws_satisfy_steins_identity(name):
    """E[∇ log p] = 0 and E[theta_j ∂_i log p] = -[i = j] hold under p and under no other density of finite moments."""
    case, target = loaded(name)
    file = np.load(locate(f"posteriordb/{DRAWS[name]}"))
    values = dict(zip(file["names"].tolist(), tensor(file["draws"]).T, strict=True))
    theta = target.unconstrain(case.sites(values))
    score = torch.cat([slope(target, part) for part in theta.split(500)])
    first = torch.cat([torch.ones_like(theta[:, :1]), (theta - theta.mean(0)) / theta.std(0)], -1)
    terms = first[:, :, None] * (score * theta.std(0))[:, None, :]
    expected = -torch.eye(target.dim + 1, dtype=torch.float64)[:, 1:]
    errors = (terms.mean(0) - expected) / terms.std(0) * math.sqrt(len(theta))
    assert errors.abs().max() < LIMIT


# ---------------------------------------------------------------------------------------------- by another route


def differences(name: str, log_density) -> tuple[float, float]:
    """Between the center and a point beside it: of the target, without its Jacobian, and of a density written anew."""
    case, target = loaded(name)
    points = torch.cat([center(name), center(name) + 0.05])
    found = target.log_joint(points) - target.log_jacobian(points)
    named = {key: value.numpy() for key, value in case.named(target.constrain(points)).items()}
    expected = [log_density({key: value[i] for key, value in named.items()}, case.data) for i in range(2)]
    return float(found[1] - found[0]), expected[1] - expected[0]


def arma11(values, data) -> float:
    y = data.args[0].numpy()
    mu, phi, theta, sigma = (values[key] for key in ("mu", "phi", "theta", "sigma"))
    errors = [y[0] - mu - phi * mu]
    for before, now in pairwise(y):
        errors.append(now - mu - phi * before - theta * errors[-1])
    prior = stats.norm.logpdf([mu, phi, theta], 0, [10, 2, 2]).sum() + stats.cauchy.logpdf(sigma, 0, 2.5)
    return prior + stats.norm.logpdf(errors, 0, sigma).sum()


def forward(values, emissions) -> float:
    """The forward recursion; `emissions` are log-probabilities by time and state."""
    transition = np.log([[values[f"theta{i}[{j}]"] for j in (1, 2)] for i in (1, 2)])
    state = emissions[0]
    for emission in emissions[1:]:
        state = logsumexp(state[:, None] + transition, axis=0) + emission
    return float(logsumexp(state))


def hmm_example(values, data) -> float:
    mu = np.array([values["mu[1]"], values["mu[2]"]])
    emissions = stats.norm.logpdf(data.args[0].numpy()[:, None], mu)
    return stats.norm.logpdf(mu, [3, 10]).sum() + forward(values, emissions)


def hmm_drive_0(values, data) -> float:
    uv, alpha = (each.numpy() for each in data.args)
    phi, rate = (np.array([values[f"{name}[{k}]"] for k in (1, 2)]) for name in ("phi", "lambda"))
    emissions = stats.expon.logpdf(uv[:, :1], scale=1 / phi) + stats.expon.logpdf(uv[:, 1:], scale=1 / rate)
    prior = stats.norm.logpdf(phi, [0, 3]).sum() + stats.norm.logpdf(rate, [0, 3]).sum()
    rows = [[values[f"theta{i}[1]"], values[f"theta{i}[2]"]] for i in (1, 2)]
    prior += sum(stats.dirichlet.logpdf(row, each) for row, each in zip(rows, alpha, strict=True))
    return prior + forward(values, emissions)


def gp_regr(values, data) -> float:
    x, y = data.args[0].numpy(), data.kwargs["y"].numpy()
    rho, alpha, sigma = (values[key] for key in ("rho", "alpha", "sigma"))
    covariance = alpha**2 * np.exp(-((x[:, None] - x) ** 2) / (2 * rho**2)) + sigma * np.eye(len(x))
    prior = stats.gamma.logpdf(rho, 25, scale=1 / 4) + stats.norm.logpdf(alpha, 0, 2) + stats.norm.logpdf(sigma)
    return prior + stats.multivariate_normal.logpdf(y, np.zeros(len(x)), covariance)


def solved(slopes, start, times) -> np.ndarray:
    return integrate.solve_ivp(slopes, (0, times[-1]), start, t_eval=times, rtol=1e-10, atol=1e-12, method="LSODA").y.T


def lotka_volterra(values, data) -> float:
    y = data.args[0].numpy()
    alpha, beta, gamma, delta = theta = [values[f"theta[{k}]"] for k in range(1, 5)]
    start, sigma = ([values[f"{name}[{k}]"] for k in (1, 2)] for name in ("z_init", "sigma"))
    z = solved(lambda _, z: [(alpha - beta * z[1]) * z[0], (delta * z[0] - gamma) * z[1]], start, np.arange(1, len(y)))
    prior = stats.norm.logpdf(theta, [1, 0.05, 1, 0.05], [0.5, 0.05, 0.5, 0.05]).sum()
    prior += stats.lognorm.logpdf(sigma, 1, scale=np.exp(-1)).sum() + stats.lognorm.logpdf(start, 1, scale=10).sum()
    return prior + stats.lognorm.logpdf(y, sigma, scale=np.vstack([start, z])).sum()


def one_comp_mm_elim_abs(values, data) -> float:
    times, (dose, volume) = data.args[0].numpy(), data.args[1].numpy()
    k_a, k_m, v_m, sigma = (values[key] for key in ("k_a", "K_m", "V_m", "sigma"))

    def slopes(t, c):
        return np.exp(-k_a * t) * dose * k_a / volume - v_m / volume * c / (k_m + c)

    c = solved(slopes, [0.0], times)[:, 0]
    prior = stats.cauchy.logpdf([k_a, k_m, v_m, sigma]).sum()
    return prior + stats.lognorm.logpdf(data.kwargs["c_hat"].numpy(), sigma, scale=c).sum()


@pytest.mark.parametrize("log_density", [arma11, hmm_example, hmm_drive_0, gp_regr])
def test_log_joint_agrees_with_a_plain_recursion(log_density):
    found, expected = differences(log_density.__name__, log_density)
    assert abs(found - expected) < 1e-8 * (1 + abs(expected))


@pytest.mark.parametrize("log_density", [lotka_volterra, one_comp_mm_elim_abs])
def test_log_joint_agrees_with_an_adaptive_solver(log_density):
    found, expected = differences(log_density.__name__, log_density)
    assert abs(found - expected) < 2e-3 * abs(expected)
