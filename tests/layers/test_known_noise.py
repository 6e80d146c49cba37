"""Known errors of measurement against the dense normal, refits without each row, and predictions by hand."""

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood
from gpytorch.priors import LogNormalPrior
from scipy.stats import multivariate_normal

import probmodel as pb

N = 40


def measured(offset=40.0):
    """Rows whose errors differ tenfold, with the variances of these errors."""
    random = np.random.default_rng(0)
    x = random.uniform(0, 10, (N, 1))
    noise = random.uniform(0.02, 0.3, N)
    y = offset + np.sin(x[:, 0]) + np.sqrt(noise) * random.normal(size=N)
    return torch.as_tensor(x), torch.as_tensor(y), torch.as_tensor(noise)


def process(noise, **settings):
    return pb.GaussianProcess(
        ScaleKernel(RBFKernel()), likelihood=FixedNoiseGaussianLikelihood(noise, **settings)
    ).double()


@pytest.fixture(scope="module")
def fit():
    x, y, noise = measured()
    return pb.MaximumLikelihood()(process(noise), pb.Dataset((x,), {"y": y}), seed=0)


def joint(fit, x):
    """Mean and covariance of f at rows, under the fitted hyperparameters."""
    with torch.no_grad():
        return float(fit.model.mean.constant), fit.model.kernel(torch.as_tensor(x)).to_dense().numpy()


def test_the_evidence_is_the_dense_normals_by_every_door(fit):
    x, y, noise = measured()
    constant, k = joint(fit, x)
    expected = multivariate_normal(np.full(N, constant), k + np.diag(noise)).logpdf(y)
    assert pb.evidence.exact(fit).log_z == pytest.approx(expected, abs=1e-8)
    assert pb.evidence.exact(pb.target(fit.model, fit.data)).log_z == pytest.approx(expected, abs=1e-8)
    bounds = pb.evidence.inducing_bounds(fit, inducing=N)
    assert bounds.lower <= expected <= bounds.upper
    assert bounds.upper - bounds.lower < 1e-6
    by_name = pb.Dataset(fit.data.args, {**fit.data.kwargs, "noise": noise})
    assert pb.evidence.exact(pb.target(fit.model, by_name)).log_z == pytest.approx(expected, abs=1e-8)


def test_errors_that_are_known_are_not_fitted(fit):
    assert sum(leaf.numel() for leaf in fit.model.parameters()) == 3
    more = pb.MaximumLikelihood()(process(measured()[2], learn_additional_noise=True), fit.data, seed=0)
    assert sum(leaf.numel() for leaf in more.model.parameters()) == 4
    assert more.info["log_likelihood"] <= fit.info["log_likelihood"] + 1e-2
    assert more.model.likelihood.second_noise.item() < 0.05


def test_new_rows_have_the_noise_that_comes_with_them(fit):
    x, y, noise = measured()
    new, theirs = torch.tensor([[2.0], [5.5], [30.0]]).double(), torch.tensor([0.1, 0.0, 4.0]).double()
    constant, k = joint(fit, torch.cat([x, new]))
    weights = np.linalg.solve(k[:N, :N] + np.diag(noise), k[:N, N:])
    mean = constant + weights.T @ (y.numpy() - constant)
    variance = np.diag(k[N:, N:] - k[N:, :N] @ weights)
    found = pb.predict(fit, pb.Dataset((new,), {"noise": theirs}))
    assert found.action.numpy() == pytest.approx(mean, abs=1e-8)
    assert found.epistemic.numpy() == pytest.approx(variance, abs=1e-8)
    assert found.aleatoric.tolist() == pytest.approx(theirs.tolist())


def test_new_rows_without_their_noise_are_refused_also_where_they_are_as_many(fit):
    x, y, noise = measured()
    for rows in (x[:3], x):
        with pytest.raises(ValueError, match=r"noise variances of the \d+ new rows, got none.*\{'noise': variances\}"):
            pb.predict(fit, rows)
    named = pb.Posterior(fit.model, pb.Dataset((x,), {"y": y, "noise": noise}), {}, {})
    with pytest.raises(ValueError, match="new rows, got none"):
        pb.predict(named, x)


def test_leave_one_out_is_that_of_refits_without_each_row(fit):
    x, y, noise = measured()
    with torch.no_grad():
        found = fit.model.log_leave_one_out(fit.data)
    for row in (0, 7, N - 1):
        others = torch.arange(N) != row
        kept = pb.Posterior(fit.model, pb.Dataset((x[others],), {"y": y[others], "noise": noise[others]}), {}, {})
        one = pb.predict(kept, pb.Dataset((x[row : row + 1],), {"noise": noise[row : row + 1]}))
        expected = one.distribution.log_prob(y[row : row + 1])
        assert float(found[row]) == pytest.approx(float(expected), abs=1e-8)


def test_diagnoses_score_rows_with_their_own_noise(fit):
    x, y, noise = measured()
    assert pb.diagnose(fit).verdict == "fits"
    others = torch.linspace(0.1, 9.9, 30).double()[:, None]
    new = 40 + torch.sin(others[:, 0]) + 0.05 * torch.randn(30, generator=torch.Generator().manual_seed(0)).double()
    held = pb.Dataset((others,), {"y": new, "noise": torch.full((30,), 0.0025).double()})
    verdict = pb.diagnose(fit, held)
    assert verdict.verdict == "fits"
    many = ScaleKernel(RBFKernel(ard_num_dims=12))
    inputs = torch.cat([x, torch.randn(N, 11, generator=torch.Generator().manual_seed(0)).double()], 1)
    model = pb.GaussianProcess(many, likelihood=FixedNoiseGaussianLikelihood(noise))
    wide = pb.MaximumLikelihood()(model, pb.Dataset((inputs,), {"y": y}), seed=0)
    assert {"refitting", "permuted"} <= {each.name for each in pb.diagnose(wide).findings}


def test_known_errors_are_stored(fit, tmp_path):
    pb.save(fit, tmp_path / "fit")
    again = pb.load(tmp_path / "fit")
    assert again.model.likelihood.noise.tolist() == fit.model.likelihood.noise.tolist()
    assert pb.evidence.exact(again).log_z == pytest.approx(pb.evidence.exact(fit).log_z, abs=1e-9)


def test_hyperparameters_are_integrated_beside_known_errors():
    x, y, noise = measured(0.0)
    kernel = ScaleKernel(RBFKernel(lengthscale_prior=LogNormalPrior(0.0, 1.0)))
    kernel.raw_outputscale.requires_grad_(False)
    likelihood = FixedNoiseGaussianLikelihood(noise)
    model = pb.GaussianProcess(kernel, mean=gpytorch.means.ZeroMean(), likelihood=likelihood).double()
    target = pb.target(model, pb.Dataset((x,), {"y": y}))
    assert target.fallback is None
    grid = torch.linspace(-4, 4, 801).double()[:, None]
    exact = float(target.log_joint(grid).logsumexp(0) + np.log(0.01))
    found = pb.evidence.importance(target, proposal=pb.evidence.from_mode, num_samples=1_000)
    assert abs(found.log_z - exact) < 4 * found.stderr + 1e-4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, y, v: pb.gp.GPProduct(RBFKernel(), likelihood=FixedNoiseGaussianLikelihood(v), shards=2),
            "GPProduct",
        ),
        (lambda x, y, v: pb.gp.GPMixture([process(v)], pb.gp.DirichletGate(1)), "for a GPMixture"),
        (
            lambda x, y, v: pb.target(
                pb.GaussianProcess(RBFKernel(), likelihood=GaussianLikelihood()),
                pb.Dataset((x,), {"y": y, "noise": v}),
            ),
            "pass likelihood=FixedNoiseGaussianLikelihood",
        ),
        (
            lambda x, y, v: pb.MaximumLikelihood()(process(v[:7]), pb.Dataset((x,), {"y": y}), seed=0),
            "noise of shape .7",
        ),
        (lambda x, y, v: pb.target(process(v), pb.Dataset((x,), {"y": y, "noise": -v})), "noise variance of 0 or more"),
    ],
    ids=["product", "mixture", "learned noise", "other rows", "negative"],
)
def test_what_known_errors_do_not_suit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(*measured())
