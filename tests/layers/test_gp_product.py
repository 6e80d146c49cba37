"""Experts on shards: one is the exact process, several are independent, and the number of processes changes no result."""

import inspect
import math
import warnings

import gpytorch
import joblib
import pytest
import torch
from gpytorch.kernels import LinearKernel, MaternKernel, RBFKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.priors import GammaPrior
from gpytorch.utils.warnings import NumericalWarning
from jaxtyping import TypeCheckError
from problems.refusals import refused
from pyro import poutine

import probmodel as pb
from probmodel.families.gaussian_processes.experts.aggregation import bcm, generalized_robust_bcm, gpoe, poe, robust_bcm
from probmodel.families.gaussian_processes.experts.shards import kmeans_shards, random_shards, rows_of
from probmodel.tracing.randomness import isolated

N, D = 60, 3
AGGREGATIONS = {"poe": poe, "gpoe": gpoe, "bcm": bcm, "robust bcm": robust_bcm, "generalized": generalized_robust_bcm}
each_aggregation = pytest.mark.parametrize("aggregation", AGGREGATIONS.values(), ids=AGGREGATIONS)


def problem(n=N, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=generator, dtype=torch.float64)
    y = torch.sin(2.0 * x[:, 0]) + 0.3 * torch.randn(n, generator=generator, dtype=torch.float64) + 1.0
    return x.to(dtype), y.to(dtype)


def kernel(**settings):
    found = ScaleKernel(MaternKernel(nu=1.5, ard_num_dims=D)).double()
    found.base_kernel.lengthscale = torch.tensor([[0.7, 1.3, 2.1]])
    found.outputscale = 1.7
    return found


def noise(value=0.2):
    found = GaussianLikelihood(noise_constraint=gpytorch.constraints.GreaterThan(1e-9)).double()
    found.noise = value
    return found


def product(shards, make=kernel, **settings):
    mean = gpytorch.means.ConstantMean().double()
    mean.initialize(constant=0.4)
    return pb.gp.GPProduct(make(), mean=mean, likelihood=noise(), shards=shards, **settings)


def exact():
    made = product(1)
    return pb.GaussianProcess(made.expert.kernel, mean=made.expert.mean, likelihood=made.expert.likelihood)


def dataset(x, y):
    return pb.Dataset((x,), {"y": y})


def log_marginal(model, x, y):
    """Value and gradient with respect to every parameter."""
    with isolated(seed=0):
        value = poutine.trace(model).get_trace(x, y).log_prob_sum()
    return value.detach(), *torch.autograd.grad(value, list(model.parameters()))


def predicted(model, x, y, new):
    with isolated(seed=0), torch.no_grad():
        return poutine.trace(model.given(dataset(x, y))).get_trace(new).nodes["y"]["fn"]


def assert_close(found, expected, tolerance=1e-8):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------------------------------------- aggregations


def joint(seed=0, experts=4, rows=5):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(experts, rows, generator=generator, dtype=torch.float64)
    prior = 1.0 + torch.rand(rows, generator=generator, dtype=torch.float64)
    return mean, prior * (0.05 + 0.9 * torch.rand(experts, rows, generator=generator, dtype=torch.float64)), prior


def test_bcm_is_exact_for_experts_that_are_independent_given_f():
    """Expert k observes f + e_k: its posterior is known, and so is that of all experts together."""
    generator = torch.Generator().manual_seed(0)
    prior, errors = torch.tensor([1.5, 0.4]).double(), torch.rand(6, 2, generator=generator).double() + 0.1
    seen = torch.randn(6, 2, generator=generator).double()
    variance = 1.0 / (1.0 / prior + 1.0 / errors)
    found = bcm(variance * seen / errors, variance, prior)
    everything = 1.0 / (1.0 / prior + (1.0 / errors).sum(0))
    assert_close(found, (everything * (seen / errors).sum(0), everything), 1e-12)


def test_product_of_experts_is_the_normalized_product_of_their_densities():
    mean, variance, prior = joint(experts=3, rows=1)
    f = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    density = (-0.5 * (f - mean).square() / variance).sum(0).exp()
    first = (f * density).sum() / density.sum()
    second = ((f - first).square() * density).sum() / density.sum()
    assert_close(poe(mean, variance, prior), (first[None], second[None]), 1e-10)


def test_generalized_product_weighs_by_the_entropy_taken_from_the_prior():
    mean, variance, prior = joint()
    for row in range(len(prior)):
        taken = [0.5 * math.log(prior[row] / v) for v in variance[:, row]]
        precision = sum(b / sum(taken) / v for b, v in zip(taken, variance[:, row], strict=True))
        weighted = sum(b / sum(taken) * m / v for b, m, v in zip(taken, mean[:, row], variance[:, row], strict=True))
        found = gpoe(mean, variance, prior)
        assert found.variance[row] == pytest.approx(float(1 / precision), rel=1e-12)
        assert found.mean[row] == pytest.approx(float(weighted / precision), rel=1e-12)


@pytest.mark.parametrize("first", [0, 1], ids=["robust", "generalized"])
def test_robust_machines_follow_their_papers_sums(first):
    """Aggregation expert by expert, as written by Deisenroth & Ng (2015) and Liu et al. (2018)."""
    mean, variance, prior = joint()
    found = (robust_bcm, generalized_robust_bcm)[first](mean, variance, prior)
    for row in range(len(prior)):
        base, center = (variance[0, row], mean[0, row]) if first else (prior[row], torch.zeros(()))
        pairs = list(zip(mean[first:, row], variance[first:, row], strict=True))
        # An entropy that rounding, or here chance, would make negative counts as 0.
        weights = [max(0.0, 0.5 * math.log(base / v)) for _, v in pairs]
        weights = [1.0, *weights[1:]] if first else weights
        precision = sum(b / v for b, (_, v) in zip(weights, pairs, strict=True)) + (1 - sum(weights)) / base
        total = sum(b * m / v for b, (m, v) in zip(weights, pairs, strict=True)) + (1 - sum(weights)) * center / base
        assert found.variance[row] == pytest.approx(float(1 / precision), rel=1e-12)
        assert found.mean[row] == pytest.approx(float(total / precision), rel=1e-10)


def test_far_from_all_data_only_the_plain_product_is_surer_than_the_prior():
    prior = torch.tensor([2.0]).double()
    nothing = torch.zeros(5, 1).double(), prior.expand(5, 1), prior
    for aggregation in (gpoe, bcm, robust_bcm, generalized_robust_bcm):
        assert_close(aggregation(*nothing), (torch.zeros(1).double(), prior), 1e-12)
    assert_close(poe(*nothing), (torch.zeros(1).double(), prior / 5), 1e-12)


# ---------------------------------------------------------------------------------------------- the model


@each_aggregation
def test_one_expert_is_the_exact_process(aggregation):
    (x, y), (new, _) = problem(), problem(7, seed=1)
    one, all_rows = product(1, aggregation=aggregation), exact()
    assert_close(log_marginal(one, x, y), log_marginal(all_rows, x, y))
    found, expected = predicted(one, x, y, new), predicted(all_rows, x, y, new)
    assert_close((found.mean, found.variance), (expected.mean, expected.variance))


def test_two_experts_of_which_one_communicates_are_the_exact_process():
    (x, y), (new, _) = problem(), problem(7, seed=1)
    found = predicted(product(2, aggregation=generalized_robust_bcm), x, y, new)
    expected = predicted(exact(), x, y, new)
    assert_close((found.mean, found.variance), (expected.mean, expected.variance))


def test_experts_are_independent_with_shared_hyperparameters():
    x, y = problem()
    assignment = random_shards(N, 4, seed=3)
    parts = [log_marginal(exact(), x[rows], y[rows]) for rows in rows_of(assignment)]
    expected = [torch.stack(each).sum(0) for each in zip(*parts, strict=True)]
    assert_close(log_marginal(product(assignment), x, y), expected, 1e-10)


def test_gradients_reach_the_inputs_of_every_shard():
    x, y = problem()
    shards = random_shards(N, 4)

    def grads(function):
        given = x.clone().requires_grad_(), y.clone().requires_grad_()
        with isolated(seed=0):
            return torch.autograd.grad(function(*given), given)

    def one_by_one(x, y):
        runs = (poutine.trace(exact()).get_trace(x[rows], y[rows]) for rows in rows_of(shards))
        return sum(run.log_prob_sum() for run in runs)

    found = grads(lambda x, y: poutine.trace(product(shards)).get_trace(x, y).log_prob_sum())
    assert_close(found, grads(one_by_one), 1e-10)


def test_draws_correlate_within_shards_and_not_between_them():
    x = problem(6)[0] * 0.1
    shards = torch.tensor([1, 0, 1, 0, 0, 1])
    with isolated(seed=0), torch.no_grad():
        draws = poutine.trace(product(shards)).get_trace(x).nodes["y"]["fn"].rsample(torch.Size([20_000]))
    with torch.no_grad():
        expected = (kernel()(x).to_dense() + 0.2 * torch.eye(6)) * (shards[:, None] == shards)
    # Standard error of a covariance: at most √2 · variance / √draws.
    assert (draws.T.cov() - expected).abs().max() < 4 * math.sqrt(2) * 1.9 / math.sqrt(20_000)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_numbers_do_not_depend_on_the_workers(backend):
    (x, y), (new, _) = problem(), problem(7, seed=1)

    def numbers():
        fit = pb.MaximumLikelihood(max_steps=5, tolerance=1e-9)(product(4), dataset(x, y), seed=0)
        at = predicted(product(4), x, y, new)
        return *log_marginal(product(4), x, y), *fit.model.parameters(), at.mean, at.variance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pb.errors.ConvergenceWarning)
        alone = numbers()
        with joblib.parallel_config(backend=backend, n_jobs=2):
            together = numbers()
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_workers_get_hyperparameters_that_are_drawn():
    x, y = problem()
    model = product(3, make=with_priors)

    def value():
        with isolated(seed=2):
            return poutine.trace(model).get_trace(x, y).nodes["y"]["fn"].log_prob(y)

    alone = value()
    with joblib.parallel_config(n_jobs=2):
        assert torch.equal(alone, value())


def test_a_workers_jitter_is_reported_and_its_error_raised():
    x, y = problem(8)
    x, y = x[:1].expand(8, D).clone(), y[:1].expand(8).clone()
    none = GaussianLikelihood(noise_constraint=gpytorch.constraints.Positive()).double()
    none.noise = 1e-25
    model = pb.gp.GPProduct(ScaleKernel(RBFKernel()).double(), likelihood=none, shards=2)
    with joblib.parallel_config(n_jobs=2):
        with pytest.warns(NumericalWarning, match=r"2 experts: .+jitter"):
            log_marginal(model, x, y)
        model.expert.kernel.raw_outputscale.data.fill_(math.nan)
        with pytest.raises(ValueError, match="positive definite"):
            log_marginal(model, x, y)


@each_aggregation
def test_prediction_is_the_same_in_chunks_that_fit_the_memory(aggregation):
    (x, y), (new, _) = problem(), problem(101, seed=1)
    whole = predicted(product(3, aggregation=aggregation), x, y, new)
    with pb.memory_budget(40_000):
        pieces = predicted(product(3, aggregation=aggregation), x, y, new)
    assert_close((pieces.mean, pieces.variance), (whole.mean, whole.variance), 1e-12)


def test_experts_that_do_not_fit_the_memory_are_refused():
    x, y = problem()
    with pb.memory_budget(7_000), pytest.raises(MemoryError, match=r"4 experts, which needs 7,200; take more shards"):
        product(4).given(dataset(x, y))


@each_aggregation
def test_float32_agrees_with_float64(aggregation):
    (x, y), (new, _) = problem(), problem(7, seed=1)
    expected = predicted(product(3, aggregation=aggregation), x, y, new)
    model = product(3, aggregation=aggregation).float()
    found = predicted(model, x.float(), y.float(), new.float())
    assert found.mean.dtype == torch.float32
    assert_close((found.mean.double(), found.variance.double()), (expected.mean, expected.variance), 1e-4)
    value = log_marginal(model, x.float(), y.float())[0]
    assert float(value) == pytest.approx(float(log_marginal(product(3), x, y)[0]), rel=1e-5)


def with_priors():
    found = ScaleKernel(
        RBFKernel(ard_num_dims=D, lengthscale_prior=GammaPrior(3.0, 2.0)), outputscale_prior=GammaPrior(2.0, 1.0)
    )
    return found.double()


def test_priors_become_latents_of_a_traced_density():
    x, y = problem(24)
    target = pb.target(product(3, make=with_priors), dataset(x, y))
    assert target.fallback is None
    assert target.dim == D + 1
    theta = torch.linspace(-0.4, 0.5, D + 1).double()[None]
    at = target.constrain(theta)
    assert set(at) == {"kernel.base_kernel.lengthscale", "kernel.outputscale"}
    made = ScaleKernel(RBFKernel(ard_num_dims=D)).double()
    made.outputscale = at["kernel.outputscale"][0]
    made.base_kernel.lengthscale = at["kernel.base_kernel.lengthscale"][0]
    plain = log_marginal(product(3, make=lambda: made), x, y)[0]
    assert float(target.log_likelihood(theta)) == pytest.approx(float(plain), rel=1e-9)


def test_draws_of_hyperparameters_are_averaged_over():
    (x, y), (new, _) = problem(24), problem(5, seed=1)
    fit = pb.Laplace(num_samples=8)(product(3, make=with_priors), dataset(x, y), seed=0)
    found = pb.predict(fit, new).by_draw
    values = {name: draws.flatten(0, 1)[2] for name, draws in fit.draws.items()}
    made = with_priors()
    made.outputscale, made.base_kernel.lengthscale = (
        values["kernel.outputscale"],
        values["kernel.base_kernel.lengthscale"],
    )
    plain = ScaleKernel(RBFKernel(ard_num_dims=D)).double()
    plain.load_state_dict({k: v for k, v in made.state_dict().items() if k in plain.state_dict()})
    owned = fit.model.expert
    at = predicted(pb.gp.GPProduct(plain, mean=owned.mean, likelihood=owned.likelihood, shards=3), x, y, new)
    assert_close((found.mean[2], found.variance[2]), (at.mean, at.variance))


def test_fitted_experts_predict_nearly_as_the_exact_process():
    (x, y), (new, seen) = problem(400), problem(200, seed=1)
    fit = pb.MaximumLikelihood()(product(4), dataset(x, y), seed=0)
    alone = pb.MaximumLikelihood()(exact(), dataset(x, y), seed=0)
    error = (pb.predict(fit, new).distribution.mean - seen).square().mean().sqrt()
    best = (pb.predict(alone, new).distribution.mean - seen).square().mean().sqrt()
    assert error < 1.1 * best < 0.45


def summed():
    return (ScaleKernel(RBFKernel()) + LinearKernel()).double()


def test_kernels_of_gpytorch_s_own_code_predict_too():
    (x, y), (new, _) = problem(), problem(7, seed=1)
    fit = pb.MaximumLikelihood()(product(2, make=summed, aggregation=generalized_robust_bcm), dataset(x, y), seed=0)
    process = fit.model.expert
    at = predicted(pb.GaussianProcess(process.kernel, mean=process.mean, likelihood=process.likelihood), x, y, new)
    found = predicted(fit.model, x, y, new)
    assert_close((found.mean, found.variance), (at.mean, at.variance))


# ---------------------------------------------------------------------------------------------- shards


def test_random_shards_are_even_and_of_their_seed_alone():
    found = random_shards(10, 4, seed=5)
    assert sorted(found.bincount().tolist()) == [2, 2, 3, 3]
    assert torch.equal(found, random_shards(10, 4, seed=5))
    assert not torch.equal(found, random_shards(10, 4, seed=6))


def test_kmeans_shards_find_rows_that_lie_together():
    x = torch.cat([torch.randn(9, 2, generator=torch.Generator().manual_seed(i)) + 20.0 * i for i in range(3)])
    found = kmeans_shards(x, 3, seed=1)
    assert all(len(set(group.tolist())) == 1 for group in found.split(9))
    assert found.unique().tolist() == [0, 1, 2]
    assert torch.equal(found, kmeans_shards(x, 3, seed=1))


def test_shards_that_cannot_be_are_refused():
    x, y = problem(6)
    with pytest.raises(ValueError, match=r"expected at most 6 shards, .+ got 7; take fewer"):
        product(7).check(dataset(x, y))
    with pytest.raises(ValueError, match=r"got none in \[1\]; number"):
        product(torch.tensor([0, 0, 2, 2, 2, 0]))
    with pytest.raises(ValueError, match=r"shards of 6 rows as the data have, got those of 5; assign"):
        product(torch.tensor([0, 1, 0, 1, 0])).check(dataset(x, y))
    for bad in (0, torch.tensor([0, -1]), torch.zeros(0).long()):
        with refused():
            product(bad)
    with refused():
        product(torch.tensor([0.0, 1.0]))
    with refused():
        kmeans_shards(torch.ones(5, 2), 2)


def test_minibatches_are_refused():
    x, y = problem(6)
    with pytest.raises(ValueError, match="size=None"):
        pb.MaximumLikelihood()(product(2), pb.Dataset((x,), {"y": y}, 6), seed=0)


@pytest.fixture(autouse=True, scope="module")
def _no_workers_left():
    yield
    joblib.externals.loky.get_reusable_executor().shutdown(wait=True)


def test_an_aggregation_by_its_name_is_refused():
    with pytest.raises((TypeError, TypeCheckError)):
        pb.gp.GPProduct(RBFKernel(), shards=2, aggregation="poe")
    bare = inspect.unwrap(pb.gp.GPProduct.__init__)
    with pytest.raises(TypeError, match=r"pass pb\.gp\.poe"):
        bare(pb.gp.GPProduct(RBFKernel(), shards=2), RBFKernel(), shards=2, aggregation="poe")
