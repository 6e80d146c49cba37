"""A pipeline of any features, representation and decision is a Pyro model with its guide."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.pyro_models import noise
from pyro import poutine
from torch import nn

from probmodel.inference.objectives.elbo import elbo
from probmodel.inference.svi import SVI
from probmodel.layers.decisions import Classify, Regress
from probmodel.layers.features import CNN, MLP, Identity
from probmodel.layers.pipeline import Pipeline
from probmodel.layers.representations import DNN, VAE, StandardNormal
from probmodel.prediction.predictive import predict
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.layers import Decision, HasDecision, Representation
from probmodel.protocols.model import ChecksData, Guided
from probmodel.tracing.conjugate import conjugate
from probmodel.tracing.ownership import parameters
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target

X, Y = noise(8, 3), noise(8, 2, seed=1)
LABELS = torch.tensor([0, 1, 2, 1, 0, 2, 1, 0])
CLASSES = Dataset((X,), {"y": LABELS}, 8)
QUICK = SVI(num_steps=40, num_samples=50, progress=False, compile=False)


def pipeline(*pieces):
    return Pipeline(*pieces).double()


def vae_classifier():
    with isolated(seed=0):
        return pipeline(MLP(3, 4, hidden=(5,)), VAE(4, 2), Classify(2, 3))


def dnn_classifier():
    with isolated(seed=0):
        return pipeline(MLP(3, 4, hidden=(5,)), DNN(4, 2), Classify(2, 3))


def test_the_pieces_fit_their_protocols():
    model = vae_classifier()
    assert isinstance(model, Guided)
    assert isinstance(model, ChecksData)
    assert isinstance(model, HasDecision)
    assert isinstance(model.representation, Representation)
    assert isinstance(model.decision, Decision)


def test_a_deterministic_pipeline_is_a_network_and_a_likelihood():
    model = dnn_classifier()
    logits = model.decision.logits(model.representation.network(model.features(X)))
    expected = torch.distributions.Categorical(logits=logits).log_prob(LABELS)
    density = target(model, CLASSES)
    theta = torch.zeros(1, 0, dtype=torch.float64)
    assert density.dim == 0
    torch.testing.assert_close(density.log_likelihood_by_row(theta)[0], expected.detach())
    with isolated(seed=0):
        torch.testing.assert_close(elbo(model, model.guide, CLASSES), -expected.sum())


def test_the_code_of_a_vae_is_local_to_a_row():
    density = target(vae_classifier(), CLASSES)
    assert density.by_row.shape == (8, 2)
    theta = noise(3, density.dim)
    torch.testing.assert_close(density.log_joint_by_row(theta).sum(-1), density.log_joint(theta))


def test_a_linear_vae_is_probabilistic_pca():
    """z ~ N(0, I), y ~ N(W z + b, σ²): y ~ N(b, W Wᵀ + σ²) for each row."""
    with isolated(seed=0):
        model = pipeline(Identity(), VAE(3, 2, prior=StandardNormal(2)), Regress(2, 3, noise=0.7))
    data = Dataset((X,), {"y": X}, 8)
    weight, bias = model.decision.mean.weight.detach(), model.decision.mean.bias.detach()
    covariance = weight @ weight.T + 0.49 * torch.eye(3, dtype=X.dtype)
    exact = dist.MultivariateNormal(bias, covariance).log_prob(X).sum()
    assert abs(conjugate(model, data).log_z - float(exact)) < 1e-6


def test_model_and_guide_name_the_same_rows_and_codes():
    model = vae_classifier()
    with isolated(seed=0):
        drawn = poutine.trace(model.guide).get_trace(X, y=LABELS)
        run = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(X, y=LABELS)
    assert [frame.name for frame in run.nodes["z"]["cond_indep_stack"]] == ["rows"]
    assert [frame.name for frame in run.nodes["y"]["cond_indep_stack"]] == ["rows"]
    assert torch.equal(run.nodes["z"]["value"], drawn.nodes["z"]["value"])


def test_one_hot_labels_are_class_numbers():
    model = vae_classifier()
    hot = torch.nn.functional.one_hot(LABELS, 3)
    theta = noise(2, 16)
    numbered, one_hot = (target(model, Dataset((X,), {"y": y}, 8)).log_joint(theta) for y in (LABELS, hot))
    assert torch.equal(numbered, one_hot)


def test_renaming_the_classes_and_their_weights_changes_nothing():
    model, renamed = vae_classifier(), vae_classifier()
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        renamed.decision.logits.weight[order] = model.decision.logits.weight
        renamed.decision.logits.bias[order] = model.decision.logits.bias
    theta = noise(2, 16)
    left = target(model, CLASSES).log_joint(theta)
    right = target(renamed, Dataset((X,), {"y": order[LABELS]}, 8)).log_joint(theta)
    torch.testing.assert_close(left, right)


def test_the_order_of_rows_changes_nothing():
    model, order = vae_classifier(), torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    theta = noise(2, 8, 2)
    left = target(model, CLASSES).log_joint(theta.flatten(1))
    right = target(model, CLASSES.rows(order)).log_joint(theta[:, order].flatten(1))
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize("make", [vae_classifier, dnn_classifier], ids=["vae", "dnn"])
def test_minibatches_average_to_the_full_log_joint(make):
    model = make()
    full = target(model, CLASSES)
    theta = noise(3, 8, full.dim // 8)
    parts = []
    for index in (torch.tensor([0, 3, 5, 6]), torch.tensor([1, 2, 4, 7])):
        parts.append(target(model, CLASSES.rows(index)).log_joint(theta[:, index].flatten(1)))
    torch.testing.assert_close(sum(parts) / 2, full.log_joint(theta.flatten(1)), rtol=1e-10, atol=1e-10)


def test_as_many_features_as_rows_change_nothing():
    square = noise(8, 8)
    with isolated(seed=0):
        model = pipeline(Identity(), VAE(8, 8), Classify(8, 3))
    density = target(model, Dataset((square,), {"y": LABELS}, 8))
    assert density.by_row.shape == (8, 8)
    theta = noise(2, 64)
    torch.testing.assert_close(density.log_joint_by_row(theta).sum(-1), density.log_joint(theta))


@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_fit_is_float64_repeats_under_its_seed_and_leaves_the_model_alone(batch_size):
    model = vae_classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = SVI(num_steps=40, num_samples=50, progress=False, compile=False, batch_size=batch_size)
    first, again = (settings(model, CLASSES, seed=1) for _ in range(2))
    assert torch.equal(first.draws["z"], again.draws["z"])
    assert first.draws["z"].shape == (1, 50, 8, 2)
    assert first.draws["z"].dtype == torch.float64
    assert first.info["losses"] == again.info["losses"]
    assert first.info["fallback"] is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    fitted = parameters(first.model)
    assert all(not torch.equal(before[name.removeprefix("model.")], value) for name, value in fitted.items())


def test_fitting_a_separable_problem_lowers_the_loss_to_a_confident_answer():
    x = torch.cat([noise(20, 3) * 0.2 + 2, noise(20, 3, seed=1) * 0.2 - 2])
    y = torch.arange(2).repeat_interleave(20)
    with isolated(seed=0):
        model = pipeline(Identity(), DNN(3, 4, hidden=()), Classify(4, 2))
    fit = SVI(num_steps=600, num_samples=1, progress=False, compile=False)(model, Dataset((x,), {"y": y}, 40), seed=0)
    assert fit.info["losses"][0] > 10
    assert fit.info["losses"][-1] < 40 * 0.2
    assert fit.info["num_parameters"] == model.num_parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_signals_images_and_volumes_run_through_the_same_pipeline(dims):
    with isolated(seed=0):
        model = pipeline(CNN(1, 4, channels=(2,), dims=dims, grid=1), VAE(4, 2), Classify(2, 3))
    density = target(model, Dataset((noise(8, 1, *(4,) * dims),), {"y": LABELS}, 8))
    assert density.fallback is None
    assert torch.isfinite(density.log_joint(noise(2, density.dim))).all()


def test_the_divergence_of_a_codes_guide_from_its_prior_is_in_closed_form():
    with isolated(seed=0):
        model = pipeline(Identity(), VAE(3, 2, encoder=nn.Linear(3, 4), prior=StandardNormal(2)), Classify(2, 3))
    with torch.no_grad():
        model.decision.logits.weight.zero_()
        model.decision.logits.bias.zero_()
        loc, log_scale = model.representation.encoder(X).chunk(2, -1)
    divergence = 0.5 * (loc**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum()
    with isolated(seed=0):
        loss = elbo(model, model.guide, CLASSES)
    torch.testing.assert_close(loss.detach(), divergence + 8 * math.log(3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Dataset((X,), {"y": LABELS}), "expected size, the number of rows, got None"),
        (Dataset((X,), {"y": LABELS[:5]}, 8), "expected y of 8 rows, as many as x, got 5"),
        (Dataset((X,), {"y": LABELS + 1}, 8), "expected labels in 0 … 2, got 1 … 3"),
        (Dataset((X,), {"y": LABELS - 1}, 8), "expected labels in 0 … 2, got -1 … 1"),
        (Dataset((X,), {"y": LABELS.double()}, 8), "expected integer class numbers in y"),
        (Dataset((X,), {"z": LABELS}, 8), r"expected a Pipeline to be called with x and y, got \['x', 'z'\]"),
        (Dataset((X[:1],), {"y": LABELS[:1]}, 1), "expected at least 2 rows, got 1"),
        (Dataset((X[:0],), {"y": LABELS[:0]}, 0), "expected at least one row"),
        (Dataset((X / 0,), {"y": LABELS}, 8), "expected finite numbers"),
    ],
)
@pytest.mark.parametrize("run", [target, lambda model, data: QUICK(model, data, seed=0)], ids=["target", "svi"])
def test_bad_data_are_refused(run, data, message):
    with pytest.raises(ValueError, match=message):
        run(vae_classifier(), data)


def test_a_wrong_width_of_the_encoder_is_named():
    with isolated(seed=0):
        model = pipeline(Identity(), VAE(3, 2, encoder=nn.Linear(3, 5)), Classify(2, 3))
    with pytest.raises(ValueError, match=r"with 4 outputs \(means, log scales\), got 5; change"):
        QUICK(model, CLASSES, seed=0)


def test_regression_takes_a_vector_or_a_matrix():
    with isolated(seed=0):
        model = pipeline(Identity(), DNN(3, 2), Regress(2, 1, noise=0.5))
    theta = torch.zeros(1, 0, dtype=torch.float64)
    vector, matrix = (
        target(model, Dataset((X,), {"y": y}, 8)).log_likelihood_by_row(theta) for y in (Y[:, 0], Y[:, :1])
    )
    assert torch.equal(vector, matrix)
    assert vector.shape == (1, 8)


def test_settings_build_the_same_pipeline_again():
    model = vae_classifier()
    twin = Pipeline(**model.constructor_arguments())
    assert repr(twin) == repr(model)


def test_a_pipeline_without_labels_draws_them():
    with isolated(seed=0):
        y = vae_classifier()(X)
    assert y.shape == (8,)
    assert set(y.tolist()) <= {0, 1, 2}
    assert not list(pyro.get_param_store().keys())


def test_a_model_follows_the_dtype_of_its_data_and_the_callers_stays() -> None:
    """float64 data and a float32 pipeline: the fit, its losses' parameters and its predictions are float64."""
    with isolated(0):
        model = Pipeline(Identity(), VAE(3, 2), Classify(2, 2))
        x, y = torch.randn(20, 3, dtype=torch.float64), torch.arange(20) % 2
    fit = SVI(num_steps=3, num_samples=4, progress=False)(model, Dataset((x,), {"y": y}, 20), seed=0)
    assert {value.dtype for value in fit.model.parameters()} == {torch.float64}
    assert fit.draws["z"].dtype == torch.float64
    assert predict(fit, x).distribution.probs.dtype == torch.float64
    assert {value.dtype for value in model.parameters()} == {torch.float32}
