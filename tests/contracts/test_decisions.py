"""One contract for every decision, and what `predict` guarantees for acting on it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import fingerprints
from problems import exact_answers as problems
from torch import Tensor, nn
from torch.distributions import Categorical

from probmodel.families.normal_mixture import NormalMixture
from probmodel.inference import Exact
from probmodel.layers import decisions
from probmodel.layers.decisions import Classify, ClassifyJoint, Regress
from probmodel.prediction.averages import average
from probmodel.prediction.predictive import predict
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.randomness import isolated

N, WIDE = 6, 3
DECISIONS: dict[str, Callable[[], Any]] = {
    "Classify": lambda: Classify(WIDE, 4),
    "ClassifyJoint": lambda: ClassifyJoint(WIDE),
    "Regress": lambda: Regress(WIDE, 2, noise=0.7),
    "Regress one number": lambda: Regress(WIDE),
    "Regress with noise of each row": lambda: Regress(WIDE, 2, noise=nn.Linear(WIDE, 2)),
}
each = pytest.mark.parametrize("name", DECISIONS)


def built(name: str) -> Any:
    with isolated(seed=2):
        return DECISIONS[name]().double()


def rebuilt(decision: Any) -> Any:
    with isolated(seed=3):
        return type(decision)(**decision.constructor_arguments()).double()


def two_classes(loss: Tensor | None = None) -> Classify:
    with isolated(seed=0):
        return Classify(3, 2, loss=loss)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def targets(name: str) -> Tensor:
    if name.startswith("Classify"):
        return torch.arange(N) % (4 if name == "Classify" else WIDE)
    return noise(1, N, 1 if name == "Regress one number" else 2)


def test_every_decision_is_under_contract():
    assert {name.split()[0] for name in DECISIONS} == set(decisions.__all__)


@each
def test_the_likelihood_has_one_distribution_a_row_over_any_leading_axes(name):
    decision, z, y = built(name), noise(0, 5, 2, N, WIDE), targets(name)
    with torch.no_grad():
        stacked = decision.likelihood(z)
        assert stacked.batch_shape == (5, 2, N)
        assert stacked.log_prob(y).shape == (5, 2, N)
        for s in range(5):
            assert torch.allclose(stacked.log_prob(y)[s, 1], decision.likelihood(z[s, 1]).log_prob(y))


@each
def test_the_likelihood_keeps_the_dtype(name):
    with torch.no_grad():
        for dtype in (torch.float32, torch.float64):
            decision, z = built(name).to(dtype), noise(0, N, WIDE).to(dtype)
            y = targets(name)
            assert decision.likelihood(z).log_prob(y.to(dtype) if y.is_floating_point() else y).dtype == dtype


@each
def test_gradients_reach_every_parameter_and_the_code(name):
    decision, z = built(name), noise(0, N, WIDE).requires_grad_()
    decision.likelihood(z).log_prob(targets(name)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decision.parameters())
    assert (z.grad.abs().sum(-1) > 0).all()


@each
def test_observing_twice_is_observing_once(name):
    decision, y = built(name), targets(name)
    assert torch.equal(decision.observed(decision.observed(y)), decision.observed(y))
    decision.check(y)
    decision.check(decision.observed(y))


@each
def test_acting_gives_one_action_a_row_and_follows_a_permutation(name):
    decision, z = built(name), noise(0, N, WIDE)
    backwards = torch.arange(N).flip(0)
    with torch.no_grad():
        actions = decision.act(decision.likelihood(z))
        assert len(actions) == N
        assert torch.equal(decision.act(decision.likelihood(z[backwards])), actions[backwards])


@each
def test_settings_build_the_same_decision_again(name):
    decision, z = built(name), noise(0, N, WIDE)
    copied = rebuilt(decision)
    copied.load_state_dict(decision.state_dict())
    with torch.no_grad():
        assert torch.equal(copied.likelihood(z).log_prob(targets(name)), decision.likelihood(z).log_prob(targets(name)))


def test_one_hot_rows_and_class_numbers_are_the_same_observation():
    decision, y = built("Classify"), targets("Classify")
    assert torch.equal(decision.observed(torch.nn.functional.one_hot(y, 4)), y)


BAD_LABELS = {
    "a negative label": (torch.tensor([0, -1, 2]), "expected labels in 0 … 3, got -1 … 2"),
    "a label too large": (torch.tensor([0, 4, 2]), "expected labels in 0 … 3, got 0 … 4"),
    "real labels": (torch.tensor([0.0, 1.0]), "expected integer class numbers in y"),
    "too few columns": (torch.eye(3).long(), "expected one-hot y with 4 columns, got 3; set num_classes=3"),
    "two ones in a row": (torch.tensor([[1, 1, 0, 0]]), "one-hot y with a single 1 in each row"),
    "three axes": (torch.zeros(2, 2, 4).long(), "expected y of shape"),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_classify_refuses_bad_labels(kind):
    y, message = BAD_LABELS[kind]
    with pytest.raises(ValueError, match=message):
        built("Classify").check(y)


BAD_NUMBERS = {
    "too many columns": (torch.zeros(5, 3), r"expected y of shape \(N, 2\), got \(5, 3\)"),
    "one axis": (torch.zeros(5), r"expected y of shape \(N, 2\), got \(5,\)"),
    "integers": (torch.zeros(5, 2).long(), "expected floating-point numbers in y"),
}


@pytest.mark.parametrize("kind", BAD_NUMBERS)
def test_regress_refuses_bad_numbers(kind):
    y, message = BAD_NUMBERS[kind]
    with pytest.raises(ValueError, match=message):
        built("Regress").check(y)


@pytest.mark.parametrize("noise_scale", [0.0, -1.0, math.nan])
def test_regress_refuses_a_noise_that_is_no_scale(noise_scale):
    with pytest.raises(
        ValueError, match=r"expected noise as a positive standard deviation, got .+; 1\.0 is the default"
    ):
        Regress(3, noise=noise_scale)


def test_noise_of_each_row_is_the_exponential_of_its_map_of_the_code():
    decision, z = built("Regress with noise of each row"), noise(0, N, WIDE)
    with torch.no_grad():
        likelihood = decision.likelihood(z)
        scale = torch.exp(z @ decision.log_noise.weight.mT + decision.log_noise.bias)
    assert torch.allclose(likelihood.base_dist.scale, scale)
    assert torch.allclose(likelihood.base_dist.loc, decision.mean(z))
    assert len(scale.unique()) == 2 * N


def test_one_noise_may_be_for_all_numbers_of_a_row():
    with isolated(seed=0):
        decision = Regress(WIDE, 2, noise=nn.Linear(WIDE, 1)).double()
    scale = decision.likelihood(noise(0, N, WIDE)).base_dist.scale
    assert torch.equal(scale[:, 0], scale[:, 1])
    assert len(scale[:, 0].unique()) == N


def test_regress_says_how_wide_its_noise_needs_to_be():
    with (
        isolated(seed=0),
        pytest.raises(ValueError, match=r"expected noise with 2 outputs \(log scales\), got 3; change"),
    ):
        Regress(WIDE, 2, noise=nn.Linear(WIDE, 3)).double().likelihood(noise(0, N, WIDE))


# ------------------------------------------------------------------------------------------ actions under a loss

PROBS = torch.tensor([[0.6, 0.4], [0.95, 0.05], [0.2, 0.8], [0.999, 0.001]], dtype=torch.float64)


def test_without_a_loss_the_likeliest_class_is_chosen():
    assert two_classes().act(Categorical(PROBS)).tolist() == [0, 0, 1, 0]


def test_a_zero_one_loss_changes_nothing():
    zero_one = 1 - torch.eye(2)
    assert two_classes(zero_one).act(Categorical(PROBS)).tolist() == [0, 0, 1, 0]


def test_a_missed_case_that_costs_more_moves_the_threshold():
    # Action 0 where class 1 is true costs 30: act 1 as soon as p(1) > 1 / 31 = 0.032.
    loss = torch.tensor([[0.0, 30.0], [1.0, 0.0]])
    assert two_classes(loss).act(Categorical(PROBS)).tolist() == [1, 1, 1, 0]
    # The transposed loss punishes the other mistake; rows are actions and columns classes.
    assert two_classes(loss.T).act(Categorical(PROBS)).tolist() == [0, 0, 0, 0]


def test_a_third_action_rejects_where_both_mistakes_are_likely():
    loss = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.1, 0.1]])
    assert two_classes(loss).act(Categorical(PROBS)).tolist() == [2, 0, 2, 0]


def test_a_loss_needs_one_column_a_class():
    with pytest.raises(
        ValueError, match=r"expected a loss of shape \(actions, 2\), got \(2, 3\); give one column per class"
    ):
        two_classes(torch.zeros(2, 3))


# ------------------------------------------------------------------------------------------ predictive distributions


def diabetes() -> tuple[Posterior, np.ndarray, np.ndarray]:
    problem = problems.diabetes_regression()
    x, y = problems.diabetes_arrays()
    covariance = np.linalg.inv(np.eye(11) + x.T @ x / 0.5)
    return Exact(num_samples=4_000)(problem.model, problem.data, seed=0), covariance @ x.T @ y / 0.5, covariance


def test_a_linear_regression_predicts_its_closed_form():
    posterior, loc, covariance = diabetes()
    # Far from the data the weights' uncertainty matters as much as the noise.
    new = np.concatenate([problems.diabetes_arrays()[0][:4], 6 * np.eye(11)[2:5]])
    prediction = predict(posterior, problems.tensor(new), num_samples=4_000)
    epistemic = np.einsum("ni,ij,nj->n", new, covariance, new)
    assert (abs(prediction.action.numpy() - new @ loc) < 4 * np.sqrt(epistemic / 4_000)).all()
    assert (abs(prediction.epistemic.numpy() / epistemic - 1) < 4 * math.sqrt(2 / 4_000)).all()
    assert torch.allclose(prediction.aleatoric, torch.full((7,), 0.5).double())
    # The density against the exact normal, at its mean and two standard deviations away.
    scale = np.sqrt(epistemic + 0.5)
    for shift in (-2, 0, 2):
        exact = -0.5 * shift**2 - np.log(scale * math.sqrt(2 * math.pi))
        found = prediction.distribution.log_prob(problems.tensor(new @ loc + shift * scale)).numpy()
        assert (abs(found - exact) < 0.15).all()


def test_total_variance_is_aleatoric_plus_epistemic():
    posterior, _, _ = diabetes()
    prediction = predict(posterior, posterior.data.args[0][:9])
    assert torch.allclose(prediction.distribution.variance, prediction.aleatoric + prediction.epistemic)
    assert (prediction.aleatoric > 0).all()
    assert (prediction.epistemic > 0).all()


def test_a_predictive_density_integrates_to_one():
    posterior, _, _ = diabetes()
    prediction = predict(posterior, posterior.data.args[0][:3])
    grid = torch.linspace(-12, 12, 20_001).double()
    density = prediction.distribution.log_prob(grid[:, None].expand(-1, 3)).exp()
    assert torch.allclose(torch.trapezoid(density, grid, dim=0), torch.ones(3).double(), atol=1e-9)


def _logistic(x, y=None):
    weight = pyro.sample("weight", dist.Normal(x.new_zeros(x.shape[1], 3), 1.0).to_event(2))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Categorical(logits=x @ weight), obs=y)


def logistic() -> tuple[Posterior, Tensor]:
    x = noise(0, 8, 2)
    draws = {"weight": 2 * noise(1, 2, 50, 2, 3)}
    return Posterior(_logistic, Dataset((x,), {"y": torch.arange(8) % 3}, 8), draws, {}), x


def test_class_probabilities_average_the_draws_and_not_the_logits():
    posterior, x = logistic()
    prediction = predict(posterior, x, num_samples=100)
    by_draw = torch.softmax(x @ posterior.draws["weight"].flatten(0, 1), -1)
    assert torch.allclose(prediction.by_draw.probs, by_draw)
    assert torch.allclose(prediction.distribution.probs, by_draw.mean(0))
    assert torch.allclose(prediction.distribution.probs.sum(-1), torch.ones(8).double())
    assert torch.equal(prediction.action, by_draw.mean(0).argmax(-1))


def test_total_entropy_is_aleatoric_plus_epistemic():
    posterior, x = logistic()
    prediction = predict(posterior, x, num_samples=100)
    total = -(prediction.distribution.probs * prediction.distribution.probs.log()).sum(-1)
    assert torch.allclose(prediction.aleatoric + prediction.epistemic, total)
    assert (prediction.epistemic > 0).all()
    # Draws that agree leave no epistemic uncertainty.
    same = {"weight": posterior.draws["weight"][:1, :1].expand(2, 50, 2, 3)}
    agreed = predict(Posterior(_logistic, posterior.data, same, {}), x)
    assert torch.allclose(agreed.epistemic, torch.zeros(8).double(), atol=1e-12)


def test_rows_are_predicted_alone_in_any_order():
    posterior, x = logistic()
    whole = predict(posterior, x).distribution.probs
    backwards = torch.arange(8).flip(0)
    assert torch.allclose(predict(posterior, x[backwards]).distribution.probs, whole[backwards])
    parts = [predict(posterior, part).distribution.probs for part in (x[:1], x[1:5], x[5:])]
    assert torch.allclose(torch.cat(parts), whole)


def test_renumbered_classes_renumber_the_prediction():
    posterior, x = logistic()
    order = torch.tensor([2, 0, 1])
    other = Posterior(_logistic, posterior.data, {"weight": posterior.draws["weight"][..., order]}, {})
    assert torch.allclose(predict(other, x).distribution.probs, predict(posterior, x).distribution.probs[:, order])


def test_the_training_labels_do_not_enter_but_through_the_draws():
    posterior, x = logistic()
    other = Posterior(_logistic, Dataset((x,), {"y": torch.zeros(8).long()}, 8), posterior.draws, {})
    assert torch.equal(predict(other, x).distribution.probs, predict(posterior, x).distribution.probs)


def test_more_draws_than_there_are_are_all_there_are():
    posterior, x = logistic()
    assert predict(posterior, x, num_samples=10_000).by_draw.batch_shape == (100, 8)
    assert predict(posterior, x, num_samples=7).by_draw.batch_shape == (7, 8)


def test_the_mixture_of_likelihoods_is_the_mean_of_their_densities():
    by_draw = dist.Independent(dist.Normal(noise(0, 5, 4, 2), 0.5), 1)
    y = noise(1, 4, 2)
    assert torch.allclose(average(by_draw).log_prob(y).exp(), by_draw.log_prob(y).exp().mean(0))


MIXED: dict[str, tuple[Callable[[], Any], Callable[[], Tensor]]] = {
    "classes": (lambda: dist.Categorical(logits=noise(0, 5, 4, 3)), lambda: torch.arange(4) % 3),
    "two classes": (lambda: dist.Bernoulli(logits=noise(0, 5, 4)), lambda: (torch.arange(4) % 2).double()),
    "normals": (lambda: dist.Normal(noise(0, 5, 4), 0.5), lambda: noise(1, 4)),
    "mixtures": (
        lambda: NormalMixture(noise(2, 5, 4, 2), noise(0, 5, 4, 2), noise(3, 5, 4, 2).exp()),
        lambda: noise(1, 4),
    ),
    "vectors": (lambda: dist.Normal(noise(0, 5, 4, 2), 0.5).to_event(1), lambda: noise(1, 4, 2)),
}


@pytest.mark.parametrize("kind", MIXED)
def test_weights_of_draws_mix_their_densities(kind):
    by_draw, y, log_weights = MIXED[kind][0](), MIXED[kind][1](), noise(4, 5, 4)
    expected = (by_draw.log_prob(y) + log_weights.log_softmax(0)).logsumexp(0)
    assert torch.allclose(average(by_draw, log_weights).log_prob(y), expected)
    assert not torch.allclose(average(by_draw).log_prob(y), expected, atol=1e-2)


def test_predict_changes_nothing_global():
    posterior, x = logistic()
    before = fingerprints()
    predict(posterior, x)
    assert fingerprints() == before


BAD_ROWS: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "expected the model's arguments": lambda _: (),
    r"columns of shape \(2,\) as in training, got \(1,\)": lambda x: (x[:, :1],),
    "expected finite numbers": lambda x: (x * math.nan,),
    "expected at least one new row": lambda x: (x[:0],),
}


@pytest.mark.parametrize("message", BAD_ROWS)
def test_predict_refuses_bad_rows(message):
    posterior, x = logistic()
    with pytest.raises(ValueError, match=message):
        predict(posterior, *BAD_ROWS[message](x))
