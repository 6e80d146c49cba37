"""The log evidence of each problem agrees with a calculation that shares no code with its model."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import gammaln, logsumexp

import probmodel.data.problems.logistic as logistic
from probmodel.data import problems
from probmodel.data.problems import Problem
from probmodel.protocols.posterior import Target
from probmodel.tracing.target import target

BESIDE = Path(__file__).parents[3] / "shared" / "data"
"""Where the data lie when the repository has a neighbor that holds them."""
REASON = "neither PROBMODEL_DATA nor a folder shared/data beside the repository holds evidence/"


@pytest.fixture
def evidence(monkeypatch):
    """Folder with the files of the problems; PROBMODEL_DATA names its parent."""
    for folder in (os.environ.get("PROBMODEL_DATA"), BESIDE):
        if folder and (Path(folder) / "evidence").is_dir():
            monkeypatch.setenv("PROBMODEL_DATA", str(folder))
            return Path(folder) / "evidence"
    pytest.skip(REASON)


def tensor(values) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def integrate_positive(log_density) -> float:
    """Log of the integral over (0, ∞) of exp(log_density), which must be below one."""

    def on_unit_interval(s: float) -> float:
        # t = s / (1 - s) maps the half line to the unit interval.
        return math.exp(log_density(s / (1 - s)) - 2 * math.log1p(-s))

    value, _ = integrate.quad(on_unit_interval, 0, 1, epsabs=0, epsrel=1e-11, limit=400)
    return math.log(value)


def log_joint_in_model_space(problem: Problem, values: dict) -> float:
    """Density at a point of the latents' own space, without the log Jacobian that the target includes."""
    density = target(problem.model, problem.data)
    theta = density.unconstrain({name: tensor(value)[None] for name, value in values.items()})
    jacobian = torch.autograd.functional.jacobian(
        lambda t: torch.cat(
            [v.reshape(-1)[:-1] if n == "weights" else v.reshape(-1) for n, v in density.constrain(t[None]).items()]
        ),
        theta[0],
    )
    return float(density.log_joint(theta)[0] - torch.linalg.slogdet(jacobian)[1])


def importance(density: Target, start: torch.Tensor, inside, num_samples: int = 40_000) -> tuple[float, float]:
    """Log integral over a region around a mode, and its standard error: Student draws about the mode."""
    mode = start
    for _ in range(20):
        hessian = torch.func.hessian(density.log_joint_at)(mode)
        mode = mode - torch.linalg.solve(hessian, torch.func.grad(density.log_joint_at)(mode))
    proposal = stats.multivariate_t(mode.numpy(), -1.2 * np.linalg.inv(hessian.numpy()), df=5, seed=0)
    draws = proposal.rvs(num_samples)
    log_weights = density.log_joint(tensor(draws)).numpy() - proposal.logpdf(draws)
    log_weights[~inside(tensor(draws)).numpy()] = -np.inf
    log_z = logsumexp(log_weights) - math.log(num_samples)
    return log_z, float(np.exp(log_weights - log_z).std() / math.sqrt(num_samples))


# ------------------------------------------------------------------------------------------ linear and logistic


@pytest.mark.parametrize(("make", "column"), [(problems.radiata_pine_m1, 2), (problems.radiata_pine_m2, 3)])
def test_radiata_pine_is_a_student_density(evidence, make, column):
    table = np.loadtxt(evidence / "radiata_pine.csv")
    x, y = table[:, column] - table[:, column].mean(), table[:, 1]
    scale = (np.eye(42) + 1 / 0.06 + np.outer(x, x) / 6) * 2 * 300**2 / 3
    assert abs(make().log_z - stats.multivariate_t(3000 + 185 * x, scale, df=6).logpdf(y)) < 1e-8


def test_radiata_pine_scores_the_line_that_its_docstring_states(evidence):
    table = np.loadtxt(evidence / "radiata_pine.csv")
    x, y = table[:, 2] - table[:, 2].mean(), table[:, 1]
    tau, a, b = 1.1e-5, 2950.0, 190.0
    scaled = {"a_scaled": (a - 3000) * math.sqrt(0.06 * tau), "b_scaled": (b - 185) * math.sqrt(6 * tau)}
    log_joint = (
        stats.gamma(3, scale=1 / (2 * 300**2)).logpdf(tau)
        + stats.norm(3000, 1 / math.sqrt(0.06 * tau)).logpdf(a)
        + stats.norm(185, 1 / math.sqrt(6 * tau)).logpdf(b)
        + stats.norm(a + b * x, 1 / math.sqrt(tau)).logpdf(y).sum()
    )
    # From densities of a and b to those of their scaled forms.
    log_joint -= 0.5 * math.log(0.06 * tau) + 0.5 * math.log(6 * tau)
    ours = log_joint_in_model_space(problems.radiata_pine_m1(), {"tau": tau, **scaled})
    assert abs(ours - log_joint) < 1e-7


@pytest.mark.parametrize("make", [problems.diabetes_regression, problems.linear_cnn])
def test_laplace_is_exact_where_the_posterior_is_normal(make):
    problem = make()
    density = target(problem.model, problem.data)
    origin = torch.zeros(density.dim, dtype=torch.float64)
    gradient, hessian = torch.func.grad(density.log_joint_at)(origin), torch.func.hessian(density.log_joint_at)(origin)
    mode = -torch.linalg.solve(hessian, gradient)
    laplace = density.log_joint_at(mode) + 0.5 * (density.dim * math.log(2 * math.pi) - torch.logdet(-hessian))
    assert abs(laplace - problem.log_z) < 1e-8


@pytest.mark.parametrize(
    ("make", "columns", "scale"),
    [(problems.pima_m1, (1, 2, 5, 6), 10), (problems.pima_m2, (1, 2, 5, 6, 7), 10), (problems.sonar, None, 1)],
)
def test_logistic_regression_scores_the_formula_in_numpy(evidence, make, columns, scale):
    if columns is None:
        table = np.loadtxt(evidence / "sonar_std.csv", delimiter=",")
        x, y = table[:, 1:], table[:, 0]
    else:
        table = np.loadtxt(evidence / "pima_indian.csv")
        x, y = np.column_stack([np.ones(532), table[:, columns]]), table[:, 0]
    theta = np.random.default_rng(0).normal(size=x.shape[1])
    log_likelihood = -np.logaddexp(0, (1 - 2 * y) * (x @ theta)).sum()
    log_joint = log_likelihood + stats.norm(0, scale).logpdf(theta).sum()
    assert abs(log_joint_in_model_space(make(), {"theta": theta}) - log_joint) < 1e-9


@pytest.mark.parametrize("make", [problems.pima_m1, problems.pima_m2])
def test_importance_sampling_from_laplace_finds_the_evidence_of_pima(evidence, make):
    problem = make()
    density = target(problem.model, problem.data)
    log_z, stderr = importance(
        density, torch.zeros(density.dim, dtype=torch.float64), lambda theta: theta.isfinite().all(1)
    )
    assert stderr < 0.005 and abs(log_z - problem.log_z) < 4 * math.hypot(stderr, problem.uncertainty)


def test_sonar_is_the_same_from_open_ml(evidence, monkeypatch):
    read = problems.sonar()
    bands, labels = 3 + 2 * read.data.args[0][:, 1:].numpy(), np.where(read.data.kwargs["y"] == 1, "Mine", "Rock")
    monkeypatch.delenv("PROBMODEL_DATA")
    monkeypatch.setattr(logistic, "fetch_openml", lambda *_, **__: (bands, labels))
    fetched = problems.sonar()
    torch.testing.assert_close(fetched.data.args[0], read.data.args[0], rtol=0, atol=1e-7)
    assert torch.equal(fetched.data.kwargs["y"], read.data.kwargs["y"])


def test_sonar_without_a_file_or_a_connection_says_what_to_set(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.delenv("PROBMODEL_DATA", raising=False)
    monkeypatch.setattr(logistic, "fetch_openml", offline)
    with pytest.raises(FileNotFoundError, match="no route to host; set PROBMODEL_DATA"):
        problems.sonar()


# ------------------------------------------------------------------------------------------ hierarchies and mixtures


@pytest.mark.parametrize(
    ("make", "variance_of_mu"), [(problems.hierarchical_normal_h0, 0.0), (problems.hierarchical_normal_h1, 1.0)]
)
def test_hierarchical_normal_is_an_integral_over_tau2(evidence, make, variance_of_mu):
    y = np.loadtxt(evidence / "bridgesampling_hiernormal_y.csv")

    def log_density(tau2: float) -> float:
        covariance = (1 + tau2) * np.eye(20) + variance_of_mu
        return stats.multivariate_normal(np.zeros(20), covariance).logpdf(y) + stats.invgamma(1).logpdf(tau2)

    assert abs(make().log_z - integrate_positive(log_density)) < 1e-8


def test_hierarchical_normal_scores_the_means_that_its_docstring_states(evidence):
    y = np.loadtxt(evidence / "bridgesampling_hiernormal_y.csv")
    mu, tau2, theta = 0.3, 0.7, np.random.default_rng(0).normal(size=20)
    log_joint = (
        stats.norm(0, 1).logpdf(mu)
        + stats.invgamma(1).logpdf(tau2)
        + stats.norm(mu, math.sqrt(tau2)).logpdf(theta).sum()
        + stats.norm(theta, 1).logpdf(y).sum()
    )
    values = {"mu": mu, "tau2": tau2, "eta": (theta - mu) / math.sqrt(tau2)}
    # From the density of theta to that of eta.
    log_joint += 10 * math.log(tau2)
    assert abs(log_joint_in_model_space(problems.hierarchical_normal_h1(), values) - log_joint) < 1e-9
    under_h0 = log_joint_in_model_space(problems.hierarchical_normal_h0(), {"tau2": tau2, "eta": theta})
    log_joint_h0 = (
        stats.invgamma(1).logpdf(tau2)
        + stats.norm(0, 1).logpdf(theta).sum()
        + stats.norm(math.sqrt(tau2) * theta, 1).logpdf(y).sum()
    )
    assert abs(under_h0 - log_joint_h0) < 1e-9


def test_eight_schools_is_an_integral_over_tau():
    problem = problems.eight_schools()
    sigma, y = problem.data.args[0].numpy(), problem.data.kwargs["y"].numpy()

    def log_density(tau: float) -> float:
        covariance = np.diag(sigma**2 + tau**2) + 25
        return stats.multivariate_normal(np.zeros(8), covariance).logpdf(y) + stats.halfcauchy(scale=5).logpdf(tau)

    assert abs(problem.log_z - integrate_positive(log_density)) < 1e-8


def test_eight_schools_scores_the_effects_that_its_docstring_states():
    problem = problems.eight_schools()
    sigma, y = problem.data.args[0].numpy(), problem.data.kwargs["y"].numpy()
    mu, tau, eta = 3.0, 4.0, np.linspace(-1, 2, 8)
    log_joint = (
        stats.norm(0, 5).logpdf(mu)
        + stats.halfcauchy(scale=5).logpdf(tau)
        + stats.norm(0, 1).logpdf(eta).sum()
        + stats.norm(mu + tau * eta, sigma).logpdf(y).sum()
    )
    assert abs(log_joint_in_model_space(problem, {"mu": mu, "tau": tau, "eta": eta}) - log_joint) < 1e-9


@pytest.mark.parametrize("num_components", [2, 3])
def test_galaxy_scores_the_formula_in_numpy(evidence, num_components):
    y = np.loadtxt(evidence / "galaxies.csv", delimiter=",", skiprows=1)[:, 1] / 1000
    assert y[77] == 26.690
    y[77] = 26.960
    mu, weights = np.array([21.0, 10.0, 33.0])[:num_components], np.array([0.6, 0.3, 0.1])[:num_components]
    weights, sigma2 = weights / weights.sum(), 4.0
    log_joint = (
        stats.norm(20, 10).logpdf(mu).sum()
        + stats.invgamma(3, scale=20).logpdf(sigma2)
        + gammaln(num_components)
        + logsumexp(np.log(weights) + stats.norm(mu, 2).logpdf(y[:, None]), axis=1).sum()
    )
    values = {"mu": mu, "sigma2": sigma2, "weights": weights}
    assert abs(log_joint_in_model_space(problems.galaxy(num_components), values) - log_joint) < 1e-9


@pytest.mark.parametrize(
    ("means", "weights", "sigma2"), [((10.1, 21.9), (0.1, 0.9), 9.4), ((9.8, 21.4, 32.6), (0.1, 0.84, 0.06), 4.7)]
)
def test_galaxy_counts_every_labeling(evidence, means, weights, sigma2):
    problem, labelings = problems.galaxy(len(means)), math.factorial(len(means))
    density = target(problem.model, problem.data)
    values = {"mu": tensor([means]), "sigma2": tensor([sigma2]), "weights": tensor([weights])}
    start = density.unconstrain(values)[0]
    of_one, stderr = importance(density, start, lambda theta: (density.constrain(theta)["mu"].diff() > 0).all(1))
    assert stderr < 0.02 and abs(of_one + math.log(labelings) - problem.log_z) < 4 * math.hypot(
        stderr, problem.uncertainty
    )


def test_the_evidence_of_an_unknown_galaxy_is_refused():
    with pytest.raises(ValueError, match="expected num_components in"):
        problems.galaxy(4)


# ------------------------------------------------------------------------------------------ toys on a box


def log_integral(problem: Problem, low: float, high: float, num_points: int) -> float:
    """Log evidence of a problem on a square: midpoint rule over its own log likelihood."""
    density = target(problem.model, problem.data)
    axis = low + (torch.arange(num_points, dtype=torch.float64) + 0.5) / num_points * (high - low)
    theta = density.unconstrain({"theta": torch.cartesian_prod(axis, axis)})
    # The normalized density of the box, without the log Jacobian of the unconstrained coordinates.
    return float(torch.logsumexp(density.log_likelihood(theta), 0) - 2 * math.log(num_points))


@pytest.mark.parametrize(
    ("make", "low", "high"),
    [
        (problems.gaussian_shells, -6, 6),
        (problems.eggbox, 0, 10 * math.pi),
        (problems.rosenbrock, -5, 5),
        (problems.rastrigin, -5.12, 5.12),
    ],
)
def test_a_toys_own_likelihood_integrates_to_its_evidence(make, low, high):
    assert abs(log_integral(make(), low, high, 700) - make().log_z) < 1e-4


@pytest.mark.parametrize("make", [problems.gaussian_shells, problems.rosenbrock, problems.rastrigin])
def test_a_toys_prior_is_uniform_on_its_box(make):
    density = target(make(3).model, make(3).data)
    theta = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda t: density.constrain(t[None])["theta"][0], theta[0])
    high = make(3).data.args[1][0]
    log_prior = density.log_prior(theta)[0] - torch.linalg.slogdet(jacobian)[1]
    assert abs(log_prior + 3 * torch.log(2 * high)) < 1e-12


@pytest.mark.parametrize("num_dimensions", [2, 5, 10])
def test_shells_are_an_integral_over_the_radius(num_dimensions):
    d = num_dimensions
    moment, _ = integrate.quad(lambda r: r ** (d - 1) * stats.norm(2, 0.1).pdf(r), 0.5, 3.5, points=[2], epsrel=1e-12)
    log_ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    log_z = math.log(2) + math.log(d) + log_ball + math.log(moment) - d * math.log(12)
    assert abs(problems.gaussian_shells(d).log_z - log_z) < 1e-9


def test_a_rosenbrock_chain_of_three_is_a_cubature():
    density = target(problems.rosenbrock(3).model, problems.rosenbrock(3).data)
    x = np.linspace(-2.5, 2.5, 1001)
    # Given x_2, the first and the last coordinate are independent.
    first = np.exp(-((1 - x) ** 2)[:, None] - 100 * (x[None] - x[:, None] ** 2) ** 2).sum(0) * (x[1] - x[0])
    last = stats.norm(x**2, math.sqrt(1 / 200))
    last = math.sqrt(math.pi / 100) * (last.cdf(5) - last.cdf(-5))
    z = (first * np.exp(-((1 - x) ** 2)) * last).sum() * (x[1] - x[0]) / 1000
    assert abs(problems.rosenbrock(3).log_z - math.log(z)) < 1e-5
    point = torch.tensor([[0.5, -0.2, 0.4]], dtype=torch.float64)
    by_hand = -((0.5**2) + 100 * (0.45**2) + 1.2**2 + 100 * (0.36**2))
    assert abs(density.log_likelihood(density.unconstrain({"theta": point}))[0] - by_hand) < 1e-9


@pytest.mark.parametrize(
    ("make", "count"),
    [(problems.gaussian_shells, 1), (problems.gaussian_shells, 11), (problems.rosenbrock, 1), (problems.rastrigin, 0)],
)
def test_toys_refuse_dimensions_they_do_not_have(make, count):
    with pytest.raises(ValueError, match="expected num_dimensions"):
        make(count)
