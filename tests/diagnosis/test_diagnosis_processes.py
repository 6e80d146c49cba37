"""Overfitting of Gaussian processes by their hyperparameters: planted in a network, absent in a kernel that is true."""

import math

import numpy as np
import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.priors import GammaPrior
from sklearn.datasets import load_digits
from torch.distributions import MultivariateNormal

import probmodel as pb
from probmodel.diagnosis.findings import Verdict
from probmodel.diagnosis.overfitting import overfitting
from probmodel.tracing.randomness import isolated

NUM_DIGITS = 100


def digits(seed=0):
    """Images 8 × 8, even +1 and odd −1: 100 to fit, 500 to score."""
    found = load_digits()
    order = np.random.default_rng(seed).permutation(len(found.target))
    x = torch.tensor(found.images / 16.0)[:, None]
    y = torch.tensor(np.where(found.target % 2 == 0, 1.0, -1.0))
    train, test = order[:NUM_DIGITS], order[NUM_DIGITS : NUM_DIGITS + 500]
    return pb.Dataset((x[train],), {"y": y[train]}), pb.Dataset((x[test],), {"y": y[test]})


def process(features, lengthscale, columns=None):
    kernel = ScaleKernel(RBFKernel(ard_num_dims=columns))
    kernel.base_kernel.lengthscale = lengthscale
    likelihood = GaussianLikelihood()
    likelihood.noise = 0.1
    return pb.GaussianProcess(kernel, likelihood=likelihood, features=features).double()


def deep_fit(train, max_steps=60):
    with isolated(1):
        model = process(pb.CNN(1, 8), 2.0)
    with pytest.warns(UserWarning, match="MaximumLikelihood: stopped"):
        return pb.MaximumLikelihood(max_steps=max_steps)(model, train, seed=0)


def log_score(fit, data):
    return float(pb.predict(fit, *data.args).distribution.log_prob(data.kwargs["y"]).mean())


def regression(seed, columns=8, n=80):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, columns, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    return pb.Dataset((x,), {"y": torch.sin(1.5 * x[:, 0]) + 0.7 * x[:, 1] + 0.3 * noise})


@pytest.mark.filterwarnings("ignore:MaximumLikelihood", "ignore:covariance not positive definite")
def test_a_deep_kernel_that_has_learnt_its_hundred_digits_overfits_though_evidence_and_leave_one_out_rise():
    train, test = digits()
    shallow = pb.MaximumLikelihood()(process(pb.Identity(), 8.0), train, seed=0)
    deep = deep_fit(train)
    plain, planted = pb.diagnose(shallow), pb.diagnose(deep)
    assert deep.info["log_likelihood"] > shallow.info["log_likelihood"] + 100
    assert planted["elpd_loo"].value > plain["elpd_loo"].value + 100
    assert log_score(deep, test) < log_score(shallow, test) - 1
    assert plain.verdict == Verdict.FITS
    assert planted.verdict == Verdict.OVERFITS
    assert planted["permuted"].flag == Verdict.OVERFITS
    assert planted["permuted"].value > 1


@pytest.mark.filterwarnings("ignore:MaximumLikelihood", "ignore:covariance not positive definite")
def test_held_out_digits_say_the_same():
    train, test = digits()
    found = pb.diagnose(deep_fit(train, max_steps=25), test)
    assert found.verdict == Verdict.OVERFITS
    assert found["gap"].flag == Verdict.OVERFITS


@pytest.mark.filterwarnings("ignore:MaximumLikelihood")
def test_a_lengthscale_for_each_of_64_pixels_overfits_a_hundred_digits():
    """A network is not needed: refits without a fold of the rows score it far worse."""
    train, test = digits(seed=3)
    one = pb.MaximumLikelihood()(process(pb.Identity(), 8.0), train, seed=0)
    many = pb.MaximumLikelihood()(process(pb.Identity(), 8.0, columns=64), train, seed=0)
    assert many.info["log_likelihood"] > one.info["log_likelihood"]
    assert log_score(many, test) < log_score(one, test)
    loss = pb.diagnose(many)["refitting"]
    assert loss.value > 2 * loss.stderr
    assert loss.flag != ""


@pytest.mark.parametrize("seed", range(4))
def test_a_kernel_of_few_hyperparameters_fits(seed):
    data = regression(seed, columns=2, n=60)
    found = pb.diagnose(pb.MaximumLikelihood()(process(pb.Identity(), 1.0), data, seed=0))
    assert found["parameters"].value > 0.05 * 60
    assert found.verdict == Verdict.FITS
    assert found["refitting"].flag == found["permuted"].flag == ""


def test_few_hyperparameters_of_many_rows_are_not_refitted():
    found = pb.diagnose(pb.MaximumLikelihood()(process(pb.Identity(), 2.8), regression(0, n=100), seed=0))
    assert "elpd_loo" in found
    assert "refitting" not in found


def exact_leave_one_out(model, x, y):
    """Log p(y_i | others) as the difference of two joint densities."""
    with torch.no_grad():
        k = model.kernel(x).to_dense() + model.likelihood.noise * torch.eye(len(y))
        mean = model.mean(x)

        def density(kept):
            return MultivariateNormal(mean[kept], k[kept][:, kept]).log_prob(y[kept])

        every = torch.arange(len(y))
        return torch.stack([density(every) - density(every[every != i]) for i in every])


def test_leave_one_out_is_the_ratio_of_joint_densities():
    data = regression(0, n=30)
    fit = pb.Posterior(process(pb.Identity(), 2.8), data, {}, {})
    expected = exact_leave_one_out(fit.model, *data.args, data.kwargs["y"])
    found = next(each for each in overfitting(fit) if each.name == "elpd_loo")
    assert found.value == pytest.approx(float(expected.sum()), abs=1e-8)
    assert found.stderr == pytest.approx(float(expected.std() * math.sqrt(30)), abs=1e-8)


def test_latent_hyperparameters_are_averaged_over_with_their_weights():
    """With draws θ_s of the posterior, p(y_i | others) is the harmonic mean of p(y_i | others, θ_s)."""
    data = regression(0, n=40)
    kernel = RBFKernel(lengthscale_prior=GammaPrior(4.0, 2.0))
    model = pb.GaussianProcess(kernel).double()
    lengthscales = torch.linspace(1.5, 2.5, 50, dtype=torch.float64)
    fit = pb.Posterior(model, data, {"kernel.lengthscale": lengthscales[None, :, None, None]}, {})
    by_draw = []
    for value in lengthscales:
        plain = pb.GaussianProcess(RBFKernel()).double()
        plain.load_state_dict(model.state_dict(), strict=False)
        plain.kernel.lengthscale = value
        by_draw.append(exact_leave_one_out(plain, *data.args, data.kwargs["y"]))
    expected = math.log(50) - torch.logsumexp(-torch.stack(by_draw), 0)
    found = next(each for each in overfitting(fit) if each.name == "elpd_loo")
    # Pareto smoothing replaces the largest weights by their expectations.
    assert found.value == pytest.approx(float(expected.sum()), abs=0.05)


def test_a_product_of_experts_needs_held_out_rows():
    kernel = ScaleKernel(RBFKernel())
    fit = pb.Posterior(pb.gp.GPProduct(kernel, shards=2).double(), regression(0), {}, {})
    with pytest.raises(ValueError, match="expected held-out data"):
        pb.diagnose(fit)


def test_a_mixture_is_counted_and_its_own_predictions_are_widened():
    """Two distant modes per row: the mixture is calibrated, which a normal of its mean and variance would not be."""
    with isolated(0):
        x = torch.rand(90, 1, dtype=torch.float64) * 2 - 1
        side = torch.where(torch.rand(90) < 0.5, 1.0, -1.0).double()
        y = side * (1.5 + x[:, 0]) + 0.1 * torch.randn(90, dtype=torch.float64)
    data, test = (pb.Dataset((x[rows],), {"y": y[rows]}) for rows in (slice(60), slice(60, 90)))
    experts = [pb.GaussianProcess(ScaleKernel(RBFKernel())) for _ in range(2)]
    fit = pb.VariationalEM(num_restarts=4, num_finalists=1)(
        pb.gp.GPMixture(experts, pb.gp.DirichletGate(2)), data, seed=0
    )
    found = {each.name: each for each in pb.diagnose(fit, test).findings}
    assert found["parameters"].value == 8
    assert abs(found["overconfidence"].value) < 0.1
    assert not found["overconfidence"].flag
