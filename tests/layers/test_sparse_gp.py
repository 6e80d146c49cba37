"""Sparse Gaussian-process codes against the exact process, Titsias' bound and GPyTorch's conventions."""

import inspect
import math
from functools import partial

import gpytorch
import pyro
import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from gpytorch.likelihoods import BernoulliLikelihood, FixedNoiseGaussianLikelihood, GaussianLikelihood
from gpytorch.means import ConstantMean, ZeroMean
from gpytorch.priors import GammaPrior, NormalPrior
from pyro import poutine
from torch import nn

from probmodel.data import digits
from probmodel.families.gaussian_processes.conditional import condition, conditional
from probmodel.families.gaussian_processes.exact import gp_log_marginal
from probmodel.families.gaussian_processes.natural_gradients import natural_step
from probmodel.families.gaussian_processes.sparse import interpolation, optimal_q, svgp_elbo
from probmodel.inference import SVI
from probmodel.inference.objectives.elbo import elbo
from probmodel.layers.decisions import Classify, Regress
from probmodel.layers.features import CNN, Identity
from probmodel.layers.pipeline import Pipeline
from probmodel.layers.representations import SparseGP
from probmodel.prediction.predictive import predict
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.programs.gradients import Gradient
from probmodel.tracing.randomness import isolated

N, D, M = 30, 2, 6
NOISE = 0.2
EXACT = partial(gpytorch.settings.variational_cholesky_jitter, double_value=1e-11)
"""Jitter as small as these well-spread rows allow, since it would be visible against an exact answer."""


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows():
    x = noise(0, N, D)
    return x, torch.sin(2.0 * x[:, 0]) + 0.4 * noise(1, N)


def parts():
    """A mean, a kernel and a likelihood, none of whose parameters is 0 or 1."""
    mean, kernel, likelihood = ConstantMean(), ScaleKernel(MaternKernel(nu=1.5, ard_num_dims=D)), GaussianLikelihood()
    for module in (mean, kernel, likelihood):
        module.double()
    mean.initialize(constant=0.3)
    kernel.initialize(outputscale=1.7)
    kernel.base_kernel.initialize(lengthscale=torch.tensor([0.8, 1.4]).double())
    likelihood.initialize(noise=NOISE)
    return mean, kernel, likelihood


def any_q(seed=5):
    return noise(seed, M), (0.3 * noise(seed + 1, M, M)).tril(-1) + torch.diag(0.2 + noise(seed + 2, M).abs())


def with_q(sparse, loc, scale_tril):
    """The representation with this q for each output."""
    with torch.no_grad():
        sparse.q_loc.copy_(loc.expand_as(sparse.q_loc))
        raw = scale_tril.tril(-1) + torch.diag(scale_tril.diagonal().log())
        sparse.q_raw_scale.copy_(raw.expand_as(sparse.q_raw_scale))
    return sparse


def sparse(out_features, inducing):
    mean, kernel, _ = parts()
    with isolated(seed=0):
        return SparseGP(D, out_features, inducing=inducing, kernel=kernel, mean=mean).double()


def codes(piece, h):
    """Moments of z under the guide: its conditional at the mean of q(u), and the contribution of the variance of q(u)."""
    with torch.no_grad(), isolated(seed=0):
        run = poutine.trace(poutine.condition(piece.guide, {"u": piece.q.loc})).get_trace(h, pyro.plate("rows", len(h)))
        weights = interpolation(piece.kernel, piece.inducing, h).weights
        z = run.nodes["z"]["fn"].base_dist
        return z.loc, z.variance + (piece.q.scale_tril.mT @ weights).square().sum(1).mT


# ------------------------------------------------------------------------------------------ q(u) in closed form


def collapsed(mean, kernel, variances, inducing, x, y):
    """Titsias (2009), eq. (9), with the jitter that svgp_elbo states; written with dense matrices."""
    with torch.no_grad():
        jitter = gpytorch.settings.variational_cholesky_jitter.value(torch.float64)
        kuu = kernel(inducing).to_dense() + jitter * torch.eye(len(inducing))
        kux = kernel(inducing, x).to_dense()
        q = kux.mT @ torch.linalg.solve(kuu, kux)
        spread = kernel(x, diag=True) + jitter - q.diagonal()
        normal = torch.distributions.MultivariateNormal(mean(x), q + torch.diag(variances))
        return normal.log_prob(y) - 0.5 * (spread / variances).sum()


@pytest.mark.parametrize("by_row", [False, True])
def test_the_bound_at_the_optimal_q_is_titsias_collapsed_bound(by_row):
    (x, y), (mean, kernel, likelihood) = rows(), parts()
    variances = torch.linspace(0.1, 0.7, N).double() if by_row else torch.full((N,), NOISE).double()
    if by_row:
        likelihood = FixedNoiseGaussianLikelihood(variances)
    q = optimal_q(mean, kernel, likelihood, x[:M], x, y)
    bound = svgp_elbo(mean, kernel, likelihood, x[:M], *q, x, y, N)
    assert abs(bound - collapsed(mean, kernel, variances, x[:M], x, y)) < 1e-9
    assert bound < gp_log_marginal(mean, kernel, likelihood, x, y)


def test_the_optimal_q_is_where_the_bound_has_no_slope():
    (x, y), modules = rows(), parts()
    q = [part.detach().requires_grad_() for part in optimal_q(*modules, x[:M], x, y)]
    in_loc, in_scale = torch.autograd.grad(svgp_elbo(*modules, x[:M], *q, x, y, N), q)
    assert in_loc.abs().max() < 1e-9
    assert in_scale.tril().abs().max() < 1e-9


def test_the_optimal_q_needs_gaussian_noise():
    (x, y), (mean, kernel, _) = rows(), parts()
    with pytest.raises(TypeError, match="got BernoulliLikelihood; for any other likelihood repeat natural_step"):
        inspect.unwrap(optimal_q)(mean, kernel, BernoulliLikelihood(), x[:M], x, y)


def test_the_optimal_q_at_all_rows_reaches_the_log_marginal():
    (x, y), modules = rows(), parts()
    with EXACT():
        bound = svgp_elbo(*modules, x, *optimal_q(*modules, x, x, y), x, y, N)
    assert abs(bound - gp_log_marginal(*modules, x, y)) < 1e-6


# ------------------------------------------------------------------------------------------ natural gradients


def test_a_natural_step_of_rate_1_reaches_the_optimal_q_from_anywhere():
    (x, y), modules = rows(), parts()

    def bound(loc, scale_tril):
        return svgp_elbo(*modules, x[:M], loc, scale_tril, x, y, N)

    found = natural_step(bound, *any_q(), rate=1.0)
    for ours, best in zip(found, optimal_q(*modules, x[:M], x, y), strict=True):
        assert torch.allclose(ours, best, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_a_natural_step_goes_its_share_of_the_way_in_the_natural_parameters(rate):
    (x, y), modules = rows(), parts()

    def natural(loc, scale_tril):
        precision = torch.cholesky_inverse(scale_tril)
        return torch.cat([precision @ loc[:, None], precision], 1).detach()

    start, best = any_q(), optimal_q(*modules, x[:M], x, y)
    found = natural_step(lambda *q: svgp_elbo(*modules, x[:M], *q, x, y, N), *start, rate=rate)
    assert torch.allclose(natural(*found), (1 - rate) * natural(*start) + rate * natural(*best), rtol=1e-8)
    assert torch.equal(found[1], found[1].tril())


def test_natural_steps_of_several_outputs_are_those_of_each():
    (x, y), modules = rows(), parts()
    starts = [any_q(5), any_q(9)]
    targets = [y, 2.0 * y.flip(0)]

    def bound(of):
        return lambda loc, scale_tril: svgp_elbo(*modules, x[:M], loc, scale_tril, x, of, N)

    def both(loc, scale_tril):
        return sum(bound(of)(loc[k], scale_tril[k]) for k, of in enumerate(targets))

    loc, scale_tril = natural_step(both, *(torch.stack(each) for each in zip(*starts, strict=True)), rate=0.5)
    for k, (of, start) in enumerate(zip(targets, starts, strict=True)):
        alone = natural_step(bound(of), *start, rate=0.5)
        assert torch.allclose(loc[k], alone[0])
        assert torch.allclose(scale_tril[k], alone[1])


def test_natural_steps_settle_where_a_bernoulli_bound_has_no_slope():
    (x, y), (mean, kernel, _) = rows(), parts()
    labels = (y > 0).double()

    def bound(loc, scale_tril):
        return svgp_elbo(mean, kernel, BernoulliLikelihood(), x[:M], loc, scale_tril, x, labels, N)

    q, before = any_q(), -math.inf
    for _ in range(12):
        q = natural_step(bound, *q, rate=0.8)
        assert bound(*q) > before - 1e-9
        before = bound(*q)
    q = [part.requires_grad_() for part in q]
    in_loc, in_scale = torch.autograd.grad(bound(*q), q)
    assert in_loc.abs().max() < 1e-4
    assert in_scale.tril().abs().max() < 1e-4


@pytest.mark.parametrize("rate", [0.0, -0.5, 1.5, math.nan])
def test_a_natural_step_needs_a_rate_up_to_1(rate):
    with pytest.raises(ValueError, match="expected a rate above 0 and up to 1"):
        natural_step(lambda loc, scale_tril: loc.sum() + scale_tril.sum(), *any_q(), rate=rate)


def test_a_natural_step_that_leaves_the_normals_is_refused():
    loc, scale_tril = any_q()
    with pytest.raises(ValueError, match="lower the rate"):
        natural_step(lambda m, t: 9.0 * t.square().sum() + m.sum(), loc, scale_tril + torch.eye(M), rate=1.0)


# ------------------------------------------------------------------------------------------ the representation


def test_inducing_inputs_at_all_rows_give_the_exact_process():
    (x, y), modules, new = rows(), parts(), noise(3, 9, D)
    with EXACT():
        piece = with_q(sparse(2, x), *optimal_q(*modules, x, x, y))
        loc, variance = codes(piece, new)
    with torch.no_grad():
        exact = conditional(modules[0], modules[1], condition(*modules, x, y), x, new)
    for k in range(2):
        assert torch.allclose(loc[:, k], exact.mean, rtol=0, atol=1e-6)
        assert torch.allclose(variance[:, k], exact.variance, rtol=0, atol=1e-6)


def test_codes_have_the_moments_of_the_sparse_bound():
    """E q = m(h) + Aᵀ loc and Var q = k − Σ A² + Σ (Tᵀ A)², with the jitter of GPyTorch's strategy."""
    (x, _), (mean, kernel, _) = rows(), parts()
    q = any_q()
    loc, variance = codes(with_q(sparse(1, x[:M]), *q), x)

    class Theirs(gpytorch.models.ApproximateGP):
        def __init__(self):
            family = gpytorch.variational.CholeskyVariationalDistribution(M, mean_init_std=0.0)
            super().__init__(gpytorch.variational.VariationalStrategy(self, x[:M], family))
            self.mean, self.kernel = mean, kernel
            family.variational_mean.data, family.chol_variational_covar.data = q

        def forward(self, h):
            return gpytorch.distributions.MultivariateNormal(self.mean(h), self.kernel(h))

    theirs = Theirs().double()
    theirs.variational_strategy.variational_params_initialized.fill_(1)
    with torch.no_grad():
        f = theirs.train()(x)
        assert torch.allclose(loc[:, 0], f.mean, atol=1e-9)
        assert torch.allclose(variance[:, 0], f.variance, atol=1e-9)


def regression(batch=slice(None)):
    """y ~ N(z, NOISE) on a code of one process: the pipeline whose ELBO is the sparse bound."""
    x, y = rows()
    with isolated(seed=0):
        decision = Regress(1, noise=math.sqrt(NOISE)).double()
    with torch.no_grad():
        decision.mean.weight.fill_(1.0), decision.mean.bias.zero_()
    model = Pipeline(Identity(), with_q(sparse(1, x[:M]), *any_q()), decision)
    return model, Dataset((x,), {"y": y[:, None]}, N).rows(torch.arange(N)[batch])


@pytest.mark.parametrize("batch", [slice(None), slice(4, 14)], ids=["all rows", "a minibatch"])
def test_the_elbo_of_the_pipeline_is_the_sparse_bound(batch):
    model, data = regression(batch)
    x, y = data.args[0], data.kwargs["y"][:, 0]
    exact = svgp_elbo(*parts(), model.representation.inducing, *any_q(), x, y, N)
    with isolated(seed=1), torch.no_grad():
        found = -torch.stack([elbo(model, model.guide, data) for _ in range(300)])
    stderr = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - exact) < 4 * stderr
    # Small against the divergence of q(u) from the prior and against the scale N / rows, either of which might be lost.
    assert stderr < 0.04 * abs(exact)


def test_the_divergence_of_the_codes_cancels_draw_by_draw():
    model, data = regression()
    with isolated(seed=2), torch.no_grad():
        run = poutine.trace(model.guide).get_trace(*data.args, **data.kwargs)
        replayed = poutine.trace(poutine.replay(model, trace=run)).get_trace(*data.args, **data.kwargs)
        run.compute_log_prob(), replayed.compute_log_prob()
    assert torch.equal(run.nodes["z"]["log_prob"], replayed.nodes["z"]["log_prob"])
    assert not torch.equal(run.nodes["u"]["log_prob"], replayed.nodes["u"]["log_prob"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("doubled", [False, True])
def test_a_traced_step_has_the_eager_value_and_gradient(dtype, doubled):
    """Equal inducing inputs among them: the jitter is then chosen inside the graph."""
    model, data = regression()
    if doubled:
        inducing = torch.cat([data.args[0][:3], data.args[0][:3]])
        model.representation = with_q(sparse(1, nn.Parameter(inducing)), *any_q())
    model, data = model.to(dtype), data.to(dtype)
    leaves = list(model.parameters())

    def loss(x, y):
        return elbo(model, model.guide, Dataset((x,), {"y": y}, N))

    traced = Gradient(loss, leaves, *data.tensors())
    assert traced.program.reason is None
    with isolated(seed=3):
        value, grads = traced(*data.tensors())
    assert value.dtype == dtype
    assert value.isfinite()
    assert all(grad.isfinite().all() for grad in grads)


def test_near_equal_rows_leave_a_variance_of_the_jitter_at_least():
    x = noise(0, 4, D)
    near = torch.cat([x, x + 1e-9, 1e6 * x])
    for dtype, jitter in ((torch.float64, 1e-6), (torch.float32, 1e-4)):
        with torch.no_grad():
            at = interpolation(ScaleKernel(RBFKernel()).to(dtype), near.to(dtype), near.to(dtype))
        assert at.variance.dtype == dtype
        assert (at.variance >= jitter).all()
        assert (at.variance < 3 * jitter).all()


def test_a_fixed_tensor_of_inducing_inputs_is_no_parameter_and_a_parameter_is():
    inputs = noise(0, M, D)
    with isolated(seed=0):
        fixed, learnt, drawn = (SparseGP(D, 1, inducing=each) for each in (inputs, nn.Parameter(inputs), M))
    assert "inducing" not in dict(fixed.named_parameters())
    assert "inducing" in fixed.state_dict()
    assert "inducing" in dict(learnt.named_parameters())
    assert dict(drawn.named_parameters())["inducing"].shape == (M, D)


BAD = {
    r"expected inducing inputs \(M, 2\), got \(6, 3\)": lambda: SparseGP(D, 1, inducing=noise(0, 6, 3)),
    r"expected inducing inputs \(M, 2\), got \(0, 2\)": lambda: SparseGP(D, 1, inducing=noise(0, 0, 2)),
    "expected inducing to be an integer, 1 or more, got 0": lambda: SparseGP(D, 1, inducing=0),
    r"expected one kernel for all outputs, got a batch \(3,\)": lambda: SparseGP(
        D, 1, inducing=M, kernel=RBFKernel(batch_shape=torch.Size([3]))
    ),
    "expected 2 features, got 3; set in_features=3": lambda: SparseGP(D, 1, inducing=M).model(
        torch.zeros(4, 3), pyro.plate("rows", 4)
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_work_is_refused_with_expected_got_and_remedy(message):
    with isolated(seed=0), pytest.raises(ValueError, match=message):
        BAD[message]()


# ------------------------------------------------------------------------------------------ hyperparameters as latents


def with_priors():
    kernel = ScaleKernel(RBFKernel(ard_num_dims=D, lengthscale_prior=GammaPrior(3.0, 2.0)))
    kernel.base_kernel.initialize(lengthscale=torch.tensor([0.5, 2.0]))
    with isolated(seed=0):
        return SparseGP(
            D, 1, inducing=M, kernel=kernel, mean=ConstantMean(constant_prior=NormalPrior(0.0, 2.0))
        ).double()


def test_the_guide_of_a_hyperparameter_is_log_normal_around_gpytorchs_parameter():
    piece, x = with_priors(), rows()[0]
    with torch.no_grad():
        piece.log_scales[0].fill_(-1.0)
    with isolated(seed=0), torch.no_grad():
        run = poutine.trace(piece.guide).get_trace(x, pyro.plate("rows", N))
    site = run.nodes["kernel.base_kernel.lengthscale"]
    value = torch.tensor([[0.7, 1.3]]).double()
    expected = torch.distributions.LogNormal(torch.tensor([[0.5, 2.0]]).log(), math.exp(-1.0)).log_prob(value).sum()
    assert torch.allclose(site["fn"].log_prob(value), expected.double())
    # A prior on the whole line has a normal guide.
    assert run.nodes["mean.mean"]["fn"].support is torch.distributions.constraints.real


def test_the_hyperparameter_drawn_is_the_one_that_the_codes_are_drawn_with():
    piece, x = with_priors(), rows()[0]
    drawn = {"kernel.base_kernel.lengthscale": torch.tensor([[0.7, 1.3]]).double()}
    plain = ScaleKernel(RBFKernel(ard_num_dims=D)).double()
    plain.base_kernel.initialize(lengthscale=drawn["kernel.base_kernel.lengthscale"])
    at = interpolation(plain, piece.inducing, x)
    for way in (piece.model, piece.guide):
        with isolated(seed=0), torch.no_grad():
            run = poutine.trace(poutine.condition(way, drawn)).get_trace(x, pyro.plate("rows", N))
        found = run.nodes["z"]["fn"].base_dist.variance[:, 0]
        assert torch.allclose(found, at.variance)


def test_a_hyperparameter_with_a_prior_and_rows_that_say_nothing_keeps_the_prior():
    """Where y does not depend on z, the best guide of a log-normal prior is that prior."""
    prior = gpytorch.priors.LogNormalPrior(0.4, 0.5)
    kernel = RBFKernel(lengthscale_prior=prior)
    with isolated(seed=0):
        model = Pipeline(Identity(), SparseGP(D, 1, inducing=2, kernel=kernel), Regress(1)).double()
    model.decision.requires_grad_(False)
    with torch.no_grad():
        model.decision.mean.weight.zero_()
    x, y = rows()
    settings = SVI(
        num_steps=800, optimizer=partial(torch.optim.Adam, lr=0.02), num_samples=2, compile=False, progress=False
    )
    fitted = settings(model, Dataset((x,), {"y": y[:, None]}, N), seed=0).model.representation
    assert abs(fitted.kernel.lengthscale.log().item() - 0.4) < 0.1
    assert abs(fitted.log_scales[0].exp().item() - 0.5) < 0.1


# ------------------------------------------------------------------------------------------ fits


def decaying(leaves):
    optimizer = torch.optim.Adam(leaves, lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.997)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return optimizer


def test_a_fit_by_svi_comes_near_the_collapsed_bound():
    model, data = regression()
    (x, y), modules = rows(), parts()
    with torch.no_grad():
        best = collapsed(*modules[:2], torch.full((N,), NOISE).double(), x[:M], x, y)
    model.requires_grad_(False)
    model.representation.q_loc.requires_grad_(True), model.representation.q_raw_scale.requires_grad_(True)
    settings = SVI(num_steps=1_000, optimizer=decaying, patience=None, num_samples=2, compile=False, progress=False)
    fitted = settings(model, data, seed=0).model.representation
    loc, scale_tril = (part[0].detach() for part in fitted.q)
    bound = svgp_elbo(*modules, x[:M], loc, scale_tril, x, y, N)
    assert bound < best
    # The initial value is 110 nats lower.
    assert best - bound < 0.3


def test_predictions_average_over_inducing_values_and_codes():
    """Predictive distribution in closed form: y ~ N(m + Aᵀ loc, k − Σ A² + Σ (Tᵀ A)² + noise)."""
    model, data = regression()
    piece, new, count = model.representation, noise(7, 5, D), 4_000
    loc, scale_tril = (part[0].detach() for part in piece.q)
    u = (loc + noise(8, count, M) @ scale_tril.mT)[None, :, None, :]
    posterior = Posterior(model, data, {"u": u, "z": noise(9, 1, count, N, 1)}, {}, model.guide)
    prediction = predict(posterior, new, num_samples=count)
    mean, variance = codes(piece, new)
    assert (abs(prediction.action - mean) < 4 * (variance / count).sqrt()).all()
    assert (abs(prediction.epistemic / variance - 1) < 4 * math.sqrt(2 / count)).all()
    assert torch.allclose(prediction.aleatoric, torch.tensor(NOISE).double(), rtol=1e-6)


@pytest.mark.compiles
def test_a_deep_kernel_learns_digits():
    train, test = digits(seed=0)
    with isolated(seed=0):
        model = Pipeline(CNN(1, 32), SparseGP(32, 10, inducing=30), Classify(10, 10))
    posterior = SVI(num_steps=500, batch_size=128, num_samples=20, patience=None, progress=False)(model, train, seed=0)
    prediction = predict(posterior, *test.args)
    assert (prediction.action == test.kwargs["y"]).double().mean() > 0.95


def test_zero_is_the_mean_by_default_and_the_kernel_sees_standard_normal_features():
    with isolated(seed=0):
        piece = SparseGP(16, 1, inducing=M)
    assert isinstance(piece.mean, ZeroMean)
    h = noise(0, 200, 16).float()
    with torch.no_grad():
        k = (piece.kernel(h).to_dense() / piece.kernel.outputscale).flatten()
    assert 0.2 < k.median() < 0.7
