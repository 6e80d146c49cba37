"""Two-sided bounds on a process's evidence: they hold, they meet, and their ends are Titsias' and the exact one."""

import math

import gpytorch
import pytest
import torch
from gpytorch.kernels import MaternKernel, PeriodicKernel, RBFKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.priors import GammaPrior
from torch import nn
from torch.distributions import MultivariateNormal

import probmodel as pb
from probmodel import evidence
from probmodel.families.gaussian_processes.covariances import covariance
from probmodel.families.gaussian_processes.nystrom import bounds, greedy_factor
from probmodel.families.gaussian_processes.sparse import optimal_q, svgp_elbo
from probmodel.tracing.randomness import isolated

N = 150
KERNELS = {
    "RBF": lambda: ScaleKernel(RBFKernel(ard_num_dims=2)),
    "Matern-1/2": lambda: ScaleKernel(MaternKernel(nu=0.5, ard_num_dims=2)),
    "Matern-3/2 without a scale": lambda: MaternKernel(nu=1.5),
    "another": lambda: ScaleKernel(PeriodicKernel()) + RBFKernel(),
}


def problem(n=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.rand(n, 2, generator=generator, dtype=torch.float64)
    y = torch.sin(2 * x[:, 0]) * x[:, 1] + 0.3 * torch.randn(n, generator=generator, dtype=torch.float64)
    return x, y


def fitted(kernel):
    x, y = problem()
    likelihood = GaussianLikelihood()
    likelihood.noise = 0.1
    mean = gpytorch.means.ConstantMean()
    mean.initialize(constant=0.3)
    model = pb.GaussianProcess(kernel, mean=mean, likelihood=likelihood).double()
    return pb.Posterior(model, pb.Dataset((x,), {"y": y}), {}, {})


def unfitted(inducing, *, noise=0.3, outputs=1, prior=None):
    with isolated(0):
        code = pb.SparseGP(2, 3, inducing=inducing, kernel=RBFKernel(lengthscale_prior=prior))
        return pb.Pipeline(pb.Identity(), code, pb.Regress(3, outputs, noise=noise)).double()


def sparse_data():
    x, y = problem()
    return pb.Dataset((x,), {"y": y}, N)


def pipeline(inducing, **settings):
    return pb.Posterior(unfitted(inducing, **settings), sparse_data(), {}, {})


def by_linear_noise():
    with isolated(0):
        return pipeline(4, noise=nn.Linear(3, 1))


def log_density(fit):
    """Log density of all observations at once, in nats."""
    observed = fit.model.process(fit.data)
    with torch.no_grad():
        k = observed.covariance(observed.inputs, observed.inputs) + torch.diag(observed.noise)
        return float(MultivariateNormal(observed.mean, k).log_prob(observed.y))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("num_inducing", [1, 10, 60])
@pytest.mark.parametrize("num_steps", [0, 3, 100])
def test_the_bounds_hold_the_exact_evidence(name, num_inducing, num_steps):
    fit = fitted(KERNELS[name]())
    found = evidence.inducing_bounds(fit, inducing=num_inducing, num_steps=num_steps)
    assert found.lower - 1e-8 < log_density(fit) < found.upper + 1e-8


def test_they_can_be_compared_with_the_exact_evidence():
    fit = fitted(KERNELS["RBF"]())
    exact, found = evidence.exact(fit), evidence.inducing_bounds(fit, inducing=20)
    assert log_density(fit) == pytest.approx(exact.log_z, abs=1e-8)
    assert found.digest == exact.digest
    assert set(found.given) == set(exact.given)
    assert (found.level, exact.level) == (1.0, 1.0)


@pytest.mark.parametrize("name", ["RBF", "Matern-3/2 without a scale", "another"])
def test_the_bounds_meet_at_all_rows(name):
    fit = fitted(KERNELS[name]())
    found = evidence.inducing_bounds(fit, inducing=N, num_steps=0)
    assert found.upper - found.lower < 1e-5
    assert found.log_z == pytest.approx(log_density(fit), abs=1e-5)


def test_more_inducing_inputs_and_more_steps_never_widen_them():
    fit = fitted(KERNELS["Matern-1/2"]())
    by_count = [evidence.inducing_bounds(fit, inducing=count, num_steps=0) for count in (5, 20, 80)]
    by_steps = [evidence.inducing_bounds(fit, inducing=20, num_steps=steps, tolerance=1e-9) for steps in (0, 4, 50)]
    for found in (by_count, by_steps):
        assert found[0].lower < found[1].lower < found[2].lower
        assert found[0].upper > found[1].upper > found[2].upper


def test_without_steps_the_lower_side_is_above_titsias_bound_by_its_better_trace_term_alone():
    """Titsias (2009) subtracts t / 2 where n log(1 + t / n) / 2 is enough."""
    fit = fitted(KERNELS["RBF"]())
    (x,), y, model = fit.data.args, fit.data.kwargs["y"], fit.model
    inducing = x[:12]
    with gpytorch.settings.variational_cholesky_jitter(double_value=1e-10), torch.no_grad():
        q = optimal_q(model.mean, model.kernel, model.likelihood, inducing, x, y)
        titsias = float(svgp_elbo(model.mean, model.kernel, model.likelihood, inducing, *q, x, y, N))
    found = evidence.inducing_bounds(fit, inducing=inducing, num_steps=0)
    trace = found.info["trace"]
    assert trace > 1
    assert found.lower == pytest.approx(titsias + 0.5 * (trace - N * math.log1p(trace / N)), abs=1e-4)


def test_without_steps_the_upper_side_is_titsias_formula():
    """Titsias (2014): the determinant of Q + Σ, the quadratic form with (K − Q)'s trace on the diagonal."""
    fit = fitted(KERNELS["RBF"]())
    (x,), y, model = fit.data.args, fit.data.kwargs["y"], fit.model
    with torch.no_grad():
        z = x[:12]
        kuf, noise = covariance(model.kernel, z, x), model.likelihood.noise
        q = kuf.mT @ torch.linalg.solve(covariance(model.kernel, z), kuf)
        trace = covariance(model.kernel, x).trace() - q.trace()
        r = y - model.mean(x)
        wide = q + (noise + trace) * torch.eye(N)
        quadratic = r @ torch.linalg.solve(wide, r)
        log_det = torch.logdet(q + noise * torch.eye(N))
        expected = -0.5 * float(quadratic + log_det + N * math.log(2 * math.pi))
    assert evidence.inducing_bounds(fit, inducing=z, num_steps=0).upper == pytest.approx(expected, abs=1e-5)


def test_each_row_may_have_its_own_noise():
    observed = fitted(KERNELS["RBF"]()).model.process(fitted(KERNELS["RBF"]()).data)
    with torch.no_grad():
        observed = observed._replace(noise=torch.linspace(0.05, 0.5, N, dtype=torch.float64))
        k = observed.covariance(observed.inputs, observed.inputs) + torch.diag(observed.noise)
        exact = float(MultivariateNormal(observed.mean, k).log_prob(observed.y))
        found = bounds(observed, greedy_factor(observed, 40), num_steps=20, tolerance=1e-3)
    assert found.lower < exact < found.upper
    assert found.upper - found.lower < 1


def test_a_sparse_code_is_bounded_as_the_process_it_approximates():
    x, y = problem()
    fit = pb.SVI(num_steps=1, compile=False, progress=False, num_samples=5)(
        unfitted(x[:20].clone()), sparse_data(), seed=0
    )
    kernel, (weight, bias, noise) = fit.model.representation.kernel, fit.model.decision.affine()
    with torch.no_grad():
        k = weight.square().sum() * covariance(kernel, x) + noise * torch.eye(N)
        exact = float(MultivariateNormal(bias.expand(N), k).log_prob(y))
    found = evidence.inducing_bounds(fit, inducing=80)
    assert found.lower - 1e-8 < exact < found.upper + 1e-8
    assert found.upper - found.lower < 0.1
    assert not any("q_" in name or "inducing" in name for name in found.given)
    assert found.lower > evidence.elbo(fit).log_z


def test_blocks_of_rows_change_nothing():
    fit = fitted(KERNELS["Matern-1/2"]())
    whole = evidence.inducing_bounds(fit, inducing=10, num_steps=5)
    with pb.memory_budget(10 * N * 8 * 4):
        blocks = evidence.inducing_bounds(fit, inducing=10, num_steps=5)
    assert whole.info["num_products"] > 1
    assert (blocks.lower, blocks.upper) == pytest.approx((whole.lower, whole.upper), abs=1e-9)


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (lambda: pipeline(4, outputs=2), "one response per row"),
        (lambda: pipeline(4, prior=GammaPrior(2.0, 2.0)), "point estimates"),
        (by_linear_noise, "one noise for all rows"),
        (lambda: fitted(RBFKernel(lengthscale_prior=GammaPrior(2.0, 2.0))), "use evidence.sandwich"),
    ],
)
def test_what_is_no_single_process_is_refused(fit, message):
    with pytest.raises(ValueError, match=message):
        evidence.inducing_bounds(fit())


def test_other_fits_are_refused():
    fit = fitted(KERNELS["RBF"]())
    with pytest.raises(ValueError, match="got a target"):
        evidence.inducing_bounds(pb.target(fit.model, fit.data))
    with pytest.raises(ValueError, match="expected a SparseGP and a Regress, got DNN and Regress"):
        x, y = problem()
        with isolated(0):
            model = pb.Pipeline(pb.Identity(), pb.DNN(2, 2), pb.Regress(2, 1)).double()
        evidence.inducing_bounds(pb.Posterior(model, pb.Dataset((x,), {"y": y}, N), {}, {}))


def test_a_factor_that_does_not_fit_is_refused_before_it_is_made():
    fit = fitted(KERNELS["RBF"]())
    with pb.memory_budget(10_000), pytest.raises(MemoryError, match="take fewer inducing inputs"):
        evidence.inducing_bounds(fit, inducing=100)


@pytest.mark.parametrize("noise", [1e-4, 0.1])
def test_float32_is_bounded_in_float64(noise):
    fit = fitted(ScaleKernel(RBFKernel(ard_num_dims=2)))
    fit.model.likelihood.noise = noise
    single = pb.Posterior(fit.model.float(), fit.data.to(torch.float32), {}, {})
    double = pb.Posterior(fit.model.double(), single.data.to(torch.float64), {}, {})
    found = evidence.inducing_bounds(single, inducing=N)
    assert found.lower <= log_density(double) <= found.upper
    assert found.upper - found.lower < 0.05


@pytest.mark.parametrize("noise", [1e-14, 1e-16, 1e-18])
def test_bounds_are_widened_by_what_rounding_may_change(noise):
    """Each of four rows twice: in closed form the pairs' differences are noise, and their means rows of half the noise."""
    x = torch.tensor([[0.0], [0.5], [1.1], [2.0]], dtype=torch.float64)
    y = torch.tensor([0.1, 0.5, -0.2, 0.3], dtype=torch.float64)
    likelihood = GaussianLikelihood(noise_constraint=gpytorch.constraints.GreaterThan(1e-20))
    model = pb.GaussianProcess(RBFKernel(), likelihood=likelihood, mean=gpytorch.means.ZeroMean()).double()
    likelihood.noise = noise
    fit = pb.Posterior(model, pb.Dataset((torch.cat([x, x]),), {"y": torch.cat([y, y])}), {}, {})
    k = covariance(model.kernel, x).detach()
    mean = float(MultivariateNormal(torch.zeros(4, dtype=torch.float64), k + noise / 2 * torch.eye(4)).log_prob(y))
    exact = mean + 4 * (-0.5 * math.log(4 * math.pi * noise)) + 0.0
    # (a, b) → (a + b) / 2 and a − b has unit determinant; each difference is 0, of variance 2 · noise.
    found = evidence.inducing_bounds(fit)
    assert found.lower <= exact <= found.upper


@pytest.mark.parametrize("inducing", [torch.zeros(3, 3), torch.full((3, 2), math.nan)])
def test_inducing_inputs_that_the_kernel_does_not_take_are_refused(inducing):
    with pytest.raises(ValueError, match=r"expected finite inducing inputs \(M, 2\)"):
        evidence.inducing_bounds(fitted(ScaleKernel(RBFKernel())), inducing=inducing)


def test_a_product_of_experts_is_refused_by_name():
    x, y = problem(20)
    fit = pb.Posterior(pb.gp.GPProduct(RBFKernel(), shards=2).double(), pb.Dataset((x,), {"y": y}), {}, {})
    with pytest.raises(ValueError, match="got a fit of GPProduct"):
        evidence.inducing_bounds(fit)
