"""Natural gradients of a sparse process against the collapsed bound, and expectations by row against closed forms."""

import math
from functools import partial

import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ZeroMean
from gpytorch.priors import GammaPrior
from torch import Tensor, nn

import probmodel as pb
from probmodel.families.gaussian_processes.exact import gp_log_marginal
from probmodel.families.gaussian_processes.sparse import optimal_q, svgp_elbo
from probmodel.inference.objectives.elbo import elbo
from probmodel.inference.objectives.expected_log_likelihood import expected_log_likelihood

DOUBLE = torch.float64
N, NOISE = 40, 0.3
still = partial(torch.optim.SGD, lr=0.0)
pytestmark = pytest.mark.filterwarnings("ignore:covariance not positive definite")


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def rows() -> pb.Dataset:
    x = noise(0, N, 2)
    return pb.Dataset((x,), {"y": torch.sin(1.5 * x[:, 0]) + NOISE * noise(1, N)}, N)


def kernel() -> ScaleKernel:
    found = ScaleKernel(MaternKernel(nu=1.5)).double()
    found.base_kernel.lengthscale = torch.tensor(1.2, dtype=DOUBLE)
    found.outputscale = torch.tensor(0.8, dtype=DOUBLE)
    return found


def pipeline(decision=None, outputs: int = 1, inducing: Tensor | None = None, features=None, used=None) -> pb.Pipeline:
    inputs = rows().args[0][:12].clone() if inducing is None else inducing
    with pb.isolated(0):
        made = pb.Regress(1, 1, noise=NOISE) if decision is None else decision()
        code = pb.SparseGP(2, outputs, inducing=inputs, kernel=kernel() if used is None else used)
        model = pb.Pipeline(pb.Identity() if features is None else features(), code, made).double()
    if decision is None:
        with torch.no_grad():
            made.mean.weight.fill_(1.0)
            made.mean.bias.fill_(0.0)
    return model


def parts(model) -> tuple:
    likelihood = GaussianLikelihood().double()
    likelihood.noise = torch.tensor(NOISE**2, dtype=DOUBLE)
    return ZeroMean(), model.representation.kernel, likelihood, model.representation.inducing


# ------------------------------------------------------------------------------------------ expectations by row


def moments(outputs: int) -> tuple[Tensor, Tensor]:
    return noise(2, 6, outputs), noise(3, 6, outputs).square() + 0.1


def test_one_code_is_integrated_exactly_under_gaussian_noise():
    decision = pipeline().decision
    (loc, variance), y = moments(1), noise(4, 6)
    found = expected_log_likelihood(decision, loc, variance, y, num_particles=1)
    expected = torch.distributions.Normal(loc[:, 0], NOISE).log_prob(y) - 0.5 * variance[:, 0] / NOISE**2
    assert torch.allclose(found, expected, atol=1e-10)


def test_one_code_of_two_classes_is_the_integral():
    with pb.isolated(1):
        decision = pb.Classify(1, 2).double()
    (loc, variance), y = moments(1), torch.tensor([0, 1, 1, 0, 1, 0])
    found = expected_log_likelihood(decision, loc, variance, y, num_particles=1)
    grid = torch.linspace(-9, 9, 20_001, dtype=DOUBLE)
    z = loc[:, 0] + variance[:, 0].sqrt() * grid[:, None]
    density = torch.exp(-0.5 * grid.square()) / math.sqrt(2 * math.pi)
    log_p = decision.likelihood(z[..., None]).log_prob(y)
    assert torch.allclose(found, torch.trapezoid(log_p.mT * density, grid), atol=1e-6)


@pytest.mark.parametrize("outputs", [1, 3])
def test_slopes_are_those_of_the_expectation(outputs):
    """Price's theorem against finite differences of the quadrature, or of an average over many draws."""
    with pb.isolated(1):
        decision = pb.Classify(outputs, 3).double()
    (loc, variance), y = moments(outputs), torch.tensor([0, 1, 2, 0, 1, 2])
    loc, variance = loc.requires_grad_(), variance.requires_grad_()
    with pb.isolated(2):
        value = expected_log_likelihood(decision, loc, variance, y, num_particles=60_000)
    grads = torch.autograd.grad(value.sum(), (loc, variance))

    def at(moved: Tensor, spread: Tensor) -> Tensor:
        with pb.isolated(2):
            return expected_log_likelihood(decision, moved, spread, y, num_particles=60_000).detach()

    for which, grad in enumerate(grads):
        step = torch.zeros(6, outputs, dtype=DOUBLE)
        step[:, 0] = 1e-3
        pairs = [(loc.detach() + s * step, variance.detach()) for s in (1, -1)]
        if which == 1:
            pairs = [(loc.detach(), variance.detach() + s * step) for s in (1, -1)]
        difference = (at(*pairs[0]) - at(*pairs[1])) / 2e-3
        assert torch.allclose(grad[:, 0], difference, atol=0.01 if outputs > 1 else 1e-5)


def test_a_log_concave_likelihood_has_no_positive_slope_in_a_variance():
    with pb.isolated(1):
        decision = pb.Classify(4, 5).double()
    loc, variance = moments(4)
    variance.requires_grad_()
    with pb.isolated(3):
        value = expected_log_likelihood(decision, loc, variance, torch.tensor([0, 1, 2, 3, 4, 0]), num_particles=1)
    (grad,) = torch.autograd.grad(value.sum(), variance)
    assert (grad < 0).all()


# ------------------------------------------------------------------------------------------ the descent


def test_one_full_step_reaches_the_collapsed_bound():
    """Rate 1 on all rows, after the steps over which it rises; nothing else moves."""
    model, data = pipeline(), rows()
    fit = pb.NaturalGradients(25, None, rate=1.0, optimizer=still, num_samples=2, progress=False)(model, data, seed=0)
    x, y = data.args[0], data.kwargs["y"]
    m, t = optimal_q(*parts(model), x, y)
    found = fit.model.representation.q
    assert torch.allclose(found.loc[0], m, atol=1e-6)
    assert torch.allclose(found.scale_tril[0] @ found.scale_tril[0].mT, t @ t.mT, atol=1e-8)
    exact = float(svgp_elbo(*parts(model), m, t, x, y, N).detach())
    assert abs(-fit.info["losses"][-1] - exact) < 1e-5  # The jitter is added to different variances.


def test_q_alone_is_fitted_where_everything_else_is_frozen():
    model, data = pipeline(), rows()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("q_" in name)
    fit = pb.NaturalGradients(25, None, rate=1.0, num_samples=2, progress=False)(model, data, seed=0)
    m, _ = optimal_q(*parts(model), data.args[0], data.kwargs["y"])
    assert torch.allclose(fit.model.representation.q.loc[0], m.detach(), atol=1e-6)


def test_at_all_rows_the_bound_is_the_exact_processs():
    data = rows()
    model = pipeline(inducing=data.args[0].clone())
    fit = pb.NaturalGradients(25, None, rate=1.0, optimizer=still, num_samples=2, progress=False)(model, data, seed=0)
    mean, used, likelihood, _ = parts(model)
    exact = float(gp_log_marginal(mean, used, likelihood, data.args[0], data.kwargs["y"]).detach())
    assert abs(-fit.info["losses"][-1] - exact) < 2e-3  # The jitter's share.


def test_losses_of_minibatches_average_to_that_of_all_rows():
    """A wrong scale size / rows shows at once."""
    data = rows()
    settings = partial(pb.NaturalGradients, rate=1e-9, optimizer=still, num_samples=2, progress=False)
    whole = settings(4, None)(pipeline(), data, seed=0).info["losses"]
    # Forty rows in five batches of eight: an epoch sees each row once.
    parts_of = settings(5, 8)(pipeline(), data, seed=0).info["losses"]
    assert max(whole) - min(whole) < 1e-4
    assert abs(sum(parts_of) / 5 - whole[0]) < 1e-4
    assert max(parts_of) - min(parts_of) > 1.0


def test_the_loss_is_the_elbo_of_the_pipeline():
    model, data = pipeline(), rows()
    fit = pb.NaturalGradients(1, None, rate=1e-9, optimizer=still, num_samples=2, progress=False)(model, data, seed=0)
    with pb.isolated(0), torch.no_grad():
        draws = torch.stack([elbo(model, model.guide, data) for _ in range(300)])
    assert abs(fit.info["losses"][0] - float(draws.mean())) < 4 * float(draws.std()) / math.sqrt(300)


def test_kernel_and_noise_are_fitted_beside_q():
    data = rows()
    model = pipeline(inducing=data.args[0].clone())
    fit = pb.NaturalGradients(500, None, rate=0.5, num_samples=2, progress=False)(model, data, seed=0)
    best = pb.MaximumLikelihood()(pb.GaussianProcess(kernel(), mean=ZeroMean()), data._replace(size=None), seed=0).info[
        "log_likelihood"
    ]
    # The pipeline has a weight and a bias more than the process.
    assert -0.5 < -fit.info["losses"][-1] - best < 1.5


def test_draws_are_those_of_the_guide_and_predictions_follow():
    model, data = pipeline(), rows()
    fit = pb.NaturalGradients(25, None, rate=1.0, optimizer=still, num_samples=3_000, progress=False)(
        model, data, seed=0
    )
    u, z = fit.draws["u"][0], fit.draws["z"][0]
    assert u.shape == (3_000, 1, 12) and z.shape == (3_000, N, 1)
    q = fit.model.representation.q
    at = fit.model.representation.code_marginals(data.args[0], *q)
    assert ((u.mean(0) - q.loc).abs() < 4 * u.std(0) / math.sqrt(3_000)).all()
    assert ((z.mean(0) - at.loc).abs() < 4 * z.std(0) / math.sqrt(3_000)).all()
    assert ((z.var(0) / at.variance - 1).abs() < 0.15).all()
    new = noise(7, 5, 2)
    found = pb.predict(fit, new, num_samples=3_000).distribution
    expected = fit.model.representation.code_marginals(new, *q)
    error = (found.variance[:, 0] / 3_000).sqrt()
    assert ((found.mean[:, 0] - expected.loc[:, 0]).abs() < 4 * error).all()
    assert ((found.variance[:, 0] / (expected.variance[:, 0] + NOISE**2) - 1).abs() < 0.15).all()


def test_three_classes_are_learnt_through_trained_features():
    x = noise(0, 150, 2)
    y = (x[:, 0] + x[:, 1].square() > 0.7).long() + (x[:, 0] > 0.9).long()
    features = partial(pb.MLP, 2, 2, hidden=(8,))
    model = pipeline(partial(pb.Classify, 3, 3), 3, noise(6, 20, 2), features)
    fit = pb.NaturalGradients(200, 50, num_samples=50, progress=False)(model, pb.Dataset((x,), {"y": y}, 150), seed=0)
    assert float((pb.predict(fit, x).action == y).double().mean()) > 0.93
    before, after = dict(model.features.named_parameters()), dict(fit.model.features.named_parameters())
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_noise_that_depends_on_the_code_is_fitted():
    """Its likelihood is not log-concave: steps that would leave the normals are shortened."""
    x = torch.linspace(-2, 2, 120, dtype=DOUBLE)[:, None]
    y = torch.sin(2 * x[:, 0]) + (0.05 + 0.4 * (x[:, 0] > 0)) * noise(8, 120)
    inducing = torch.cat([x, x], 1)[::8].clone()

    def made() -> pb.Regress:
        return pb.Regress(2, 1, noise=nn.Linear(2, 1))

    model = pipeline(made, 2, inducing)
    data = pb.Dataset((torch.cat([x, x], 1),), {"y": y}, 120)
    fit = pb.NaturalGradients(400, None, rate=0.3, num_samples=100, progress=False)(model, data, seed=0)
    spread = pb.predict(fit, torch.cat([x, x], 1)).aleatoric[:, 0].sqrt()
    assert float(spread[x[:, 0] > 0.5].mean()) > 2 * float(spread[x[:, 0] < -0.5].mean())


def test_the_model_passed_in_stays_as_it_was():
    model = pipeline()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, again = (pb.NaturalGradients(10, 8, num_samples=5, progress=False)(model, rows(), seed=3) for _ in range(2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(first.draws["z"], again.draws["z"])
    assert first.info["losses"] == again.info["losses"]


@pytest.mark.parametrize(
    ("model", "settings", "match"),
    [
        (lambda: pb.GaussianProcess(RBFKernel()), {}, "expected a Pipeline with a SparseGP"),
        (lambda: pipeline(), {"rate": 1.5}, "rate above 0 and up to 1"),
        (lambda: pipeline(), {"num_steps": 0}, "num_steps"),
        (
            lambda: pipeline(used=RBFKernel(lengthscale_prior=GammaPrior(3.0, 3.0)).double()),
            {},
            "hyperparameters that are point estimates",
        ),
        (lambda: pipeline(inducing=1e6 + noise(1, 12, 2)), {}, "features and inducing inputs .* uncorrelated"),
    ],
)
def test_what_cannot_work_is_refused(model, settings, match):
    with pytest.raises(ValueError, match=match):
        pb.NaturalGradients(**{"num_steps": 2, "progress": False, **settings})(model(), rows(), seed=0)
