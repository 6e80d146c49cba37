"""A lifted module integrates what it lifts, keeps the rest as point estimates, and leaves the original alone."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.pyro_models import noise
from pyro import poutine
from torch import nn

from probmodel.inference.svi import SVI
from probmodel.layers.decisions import Classify, Regress
from probmodel.layers.features import CNN, MLP, Identity
from probmodel.layers.lift import lift, scaled_normal
from probmodel.layers.pipeline import Pipeline
from probmodel.layers.representations import DNN, VAE
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Guided
from probmodel.tracing.conjugate import conjugate
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target

X, Y = noise(6, 3), noise(6, 2, seed=1)
LABELS = torch.tensor([0, 1, 0, 2, 1, 0])
DATA = Dataset((X,), {"y": Y}, 6)


class Linear(nn.Module):
    """y ~ N(x W, 1/4), W the parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2, bias=False)
        self.shift = nn.Parameter(torch.zeros(2))

    def forward(self, x, y=None):
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(self.linear(x) + self.shift, 0.5).to_event(1), obs=y)


def built(make):
    with isolated(seed=0):
        return make().double()


def classifier():
    return Pipeline(MLP(3, 4, hidden=()), DNN(4, 4, hidden=()), Classify(4, 3))


def test_the_evidence_of_a_lifted_linear_model_is_that_of_bayesian_regression():
    """N(0, 2 / fan-in) on the weights: y ~ N(0, 2/3 x xᵀ + I/4) for each column."""
    lifted = lift(built(Linear), where=lambda name: name.startswith("linear"))
    covariance = 2 / 3 * X @ X.T + 0.25 * torch.eye(6, dtype=X.dtype)
    marginal = dist.MultivariateNormal(torch.zeros(6, dtype=X.dtype), covariance)
    assert abs(conjugate(lifted, DATA).log_z - float(marginal.log_prob(Y.T).sum())) < 1e-6


def test_the_model_is_the_module_at_the_sampled_parameters():
    module = built(Linear)
    lifted = lift(module)
    values = {"linear.weight": noise(2, 3, seed=5), "shift": noise(2, seed=6)}
    with isolated(seed=0):
        run = poutine.trace(poutine.condition(lifted, values)).get_trace(X)
    torch.testing.assert_close(run.nodes["y"]["fn"].base_dist.loc, X @ values["linear.weight"].T + values["shift"])


def test_the_original_is_unchanged_and_not_shared():
    module = built(classifier)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    lifted = lift(module)
    SVI(num_steps=30, num_samples=5, progress=False, compile=False)(lifted, Dataset((X,), {"y": LABELS}, 6), seed=0)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(value.requires_grad and value.grad is None for value in module.parameters())
    assert not {value.data_ptr() for value in module.parameters()} & {value.data_ptr() for value in lifted.parameters()}


def test_lifting_everything_leaves_nothing_given():
    density = target(lift(built(classifier)), Dataset((X,), {"y": LABELS}, 6))
    assert density.given == ()
    assert density.dim == sum(value.numel() for value in built(classifier).parameters())


def test_given_names_exactly_what_was_not_lifted():
    lifted = lift(built(classifier), where=lambda name: name.startswith("decision"))
    density = target(lifted, Dataset((X,), {"y": LABELS}, 6))
    rest = {
        f"model.module.{name}" for name, _ in built(classifier).named_parameters() if not name.startswith("decision")
    }
    assert set(density.given) == rest
    assert density.dim == 3 * 4 + 3


def test_without_lifting_every_parameter_is_given():
    density = target(built(classifier), Dataset((X,), {"y": LABELS}, 6))
    assert set(density.given) == {f"model.{name}" for name, _ in built(classifier).named_parameters()}


def test_the_guide_starts_narrow_around_the_parameters():
    module = built(Linear)
    lifted = lift(module, spread=0.05)
    with isolated(seed=0):
        run = poutine.trace(lifted.guide).get_trace(X, y=Y)
    q = run.nodes["linear.weight"]["fn"].base_dist
    assert torch.equal(q.loc, module.linear.weight)
    torch.testing.assert_close(q.scale, torch.full_like(q.scale, 0.05))
    assert isinstance(lifted, Guided)


def test_a_fitted_mean_field_guide_has_the_exact_means():
    lifted = lift(built(Linear), where=lambda name: name.startswith("linear"))
    fit = SVI(num_steps=1_500, num_samples=2_000, progress=False, compile=False)(lifted, DATA, seed=0)
    exact = conjugate(fit.model, DATA).gaussian
    draws = fit.draws["linear.weight"][0].flatten(1)
    sd = exact.precision[0].inverse().diagonal().sqrt()
    assert ((draws.mean(0) - exact.loc).abs() < 0.35 * sd).all()
    assert draws.dtype == torch.float64


def test_lifting_a_pipeline_keeps_its_code_and_guide():
    def make():
        return Pipeline(Identity(), VAE(3, 2, encoder=nn.Linear(3, 4), prior=nn.Linear(3, 4)), Regress(2, 2))

    lifted = lift(built(make))
    with isolated(seed=0):
        drawn = poutine.trace(lifted.guide).get_trace(X, y=Y)
        run = poutine.trace(poutine.replay(lifted, trace=drawn)).get_trace(X, y=Y)
    latents = {n for n, node in run.nodes.items() if node["type"] == "sample" and not node["is_observed"]} - {"rows"}
    assert latents == {n for n, node in drawn.nodes.items() if node["type"] == "sample"} - {"rows"}
    assert "z" in latents
    # The encoder belongs to the guide: a prior on it would be no part of the model.
    assert not any("encoder" in name for name in latents)
    assert any("prior" in name for name in latents)
    assert lifted.decision is lifted.module.decision


def test_a_cnn_becomes_a_bayesian_cnn():
    def make():
        return Pipeline(CNN(1, 4, channels=(2,), grid=1), DNN(4, 4, hidden=()), Classify(4, 3))

    density = target(lift(built(make)), Dataset((noise(6, 1, 4, 4),), {"y": LABELS}, 6))
    theta = density.sample_prior(3, 0)
    assert density.fallback is None
    assert density.given == ()
    assert density.log_joint(theta).dtype == torch.float64
    torch.testing.assert_close(
        density.log_prior(theta) + density.log_likelihood_by_row(theta).sum(-1), density.log_joint(theta)
    )


def test_the_prior_scales_with_the_fan_in():
    weight, bias = torch.zeros(5, 8), torch.zeros(5)
    assert math.isclose(float(scaled_normal("w", weight).base_dist.scale[0, 0]), 0.5)
    assert math.isclose(float(scaled_normal("b", bias).base_dist.scale[0]), 1.0)
    assert math.isclose(float(scaled_normal("c", torch.zeros(4, 2, 2, 2)).base_dist.scale.max()), 0.5)
    assert scaled_normal("w", weight).event_shape == (5, 8)


def test_lifting_nothing_is_refused():
    with pytest.raises(ValueError, match=r"expected parameters to lift, got none of .+; pass a `where`"):
        lift(built(Linear), where=lambda name: False)


def test_bad_data_are_refused_as_by_the_module():
    lifted = lift(built(classifier))
    with pytest.raises(ValueError, match="expected labels in 0"):
        target(lifted, Dataset((X,), {"y": LABELS + 1}, 6))
