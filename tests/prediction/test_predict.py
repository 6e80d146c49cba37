"""Prediction against closed forms and brute force, and what it must not read."""

import math
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.exact_answers import diabetes_regression, dirichlet_multinomial, linear_model
from torch.distributions import Bernoulli, Categorical

import probmodel as pb
from probmodel.prediction.predictive import predict_rows
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.randomness import isolated

ROWS = 7


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@lru_cache
def regression():
    problem = diabetes_regression()
    return pb.Exact(num_samples=4_000)(problem.model, problem.data, seed=0)


# ------------------------------------------------------------------------------------------ closed forms


def test_the_predictive_of_a_conjugate_regression_is_its_closed_form():
    """y ~ N(x m, x V xᵀ + 1/2) with V = (I + 2 XᵀX)⁻¹ and m = 2 V Xᵀ y."""
    fit, new = regression(), 3 * normal(ROWS, 11, seed=1)
    x, y = fit.data.args[0].numpy(), fit.data.kwargs["y"].numpy()
    covariance = np.linalg.inv(np.eye(11) + x.T @ x / 0.5)
    mean = new.numpy() @ (covariance @ x.T @ y / 0.5)
    epistemic = np.einsum("np,pq,nq->n", new.numpy(), covariance, new.numpy())
    found = pb.predict(fit, new, num_samples=4_000)
    assert found.distribution.batch_shape == (ROWS,)
    assert found.by_draw.batch_shape == (4_000, ROWS)
    assert (np.abs(found.distribution.mean.numpy() - mean) < 4 * np.sqrt(epistemic / 4_000)).all()
    # A sample variance of S normal draws has standard error σ² √(2 / S).
    assert (np.abs(found.epistemic.numpy() - epistemic) < 4 * epistemic * math.sqrt(2 / 4_000)).all()
    torch.testing.assert_close(found.aleatoric, torch.full((ROWS,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(found.distribution.variance, found.aleatoric + found.epistemic)
    torch.testing.assert_close(found.action, found.distribution.mean)
    exact = torch.distributions.Normal(torch.from_numpy(mean), torch.from_numpy(np.sqrt(epistemic + 0.5)))
    torch.testing.assert_close(found.distribution.log_prob(exact.mean), exact.log_prob(exact.mean), atol=0.05, rtol=0.0)


def coins(x, y=None):
    p = pyro.sample("p", dist.Beta(x.new_tensor(2.0), x.new_tensor(3.0)))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Bernoulli(p.expand(len(x))), obs=y)


def test_the_predictive_of_a_coin_is_the_posterior_mean():
    y = torch.tensor([1.0, 1, 0, 1, 1, 1, 0, 1], dtype=torch.float64)
    p = torch.distributions.Beta(torch.tensor(8.0).double(), torch.tensor(5.0).double())
    with isolated(seed=0):
        draws = p.sample((1, 4_000))
    fit = Posterior(coins, Dataset((torch.zeros(8, 1).double(),), {"y": y}, 8), {"p": draws}, {})
    found = pb.predict(fit, torch.zeros(3, 1).double(), num_samples=4_000)
    assert isinstance(found.distribution, Bernoulli)
    assert (found.distribution.probs - 8 / 13).abs().max() < 4 * float(p.stddev) / math.sqrt(4_000)
    torch.testing.assert_close(found.distribution.probs, draws.mean().expand(3))
    entropy = Bernoulli(draws[0]).entropy().mean()
    torch.testing.assert_close(found.aleatoric, entropy.expand(3))
    torch.testing.assert_close(found.epistemic, (Bernoulli(draws.mean()).entropy() - entropy).expand(3))
    assert (found.epistemic > 0).all()


def test_a_multinomial_keeps_its_number_of_trials():
    problem = dirichlet_multinomial()
    fit = pb.Exact(num_samples=400)(problem.model, problem.data, seed=0)
    found = pb.predict(fit, *problem.data.args, num_samples=400)
    concentration = problem.data.args[0] + problem.data.kwargs["y"]
    expected = 17 * concentration / concentration.sum()
    stderr = 17 * torch.distributions.Dirichlet(concentration).variance.sqrt() / math.sqrt(400)
    assert ((found.distribution.mean - expected).abs() < 4 * stderr).all()
    assert abs(float(found.distribution.mean.sum()) - 17) < 1e-9


# ------------------------------------------------------------------------------------------ networks


def pipeline(representation, decision):
    with isolated(seed=3):
        model = pb.Pipeline(pb.MLP(3, 4, hidden=(5,)), representation(), decision()).double()
        if isinstance(model.representation, pb.VAE):
            with torch.no_grad():
                model.representation.prior.bias[-model.representation.out_features :] = (
                    0.5  # Codes wide enough to matter.
                )
                model.decision.get_parameter("logits.weight").mul_(4)
        return model


def untrained(model, y, x=None):
    x = normal(len(y), 3) if x is None else x
    data = Dataset((x,), {"y": y}, len(y))
    draws = {"z": normal(1, 40, len(y), 1, seed=5)} if isinstance(model.representation, pb.VAE) else {}
    return Posterior(model, data, draws, {}, model.guide)


def vae_fit():
    return untrained(pipeline(partial(pb.VAE, 4, 1), partial(pb.Classify, 1, 3)), torch.arange(12) % 3)


def dnn_fit():
    return untrained(pipeline(partial(pb.DNN, 4, 4), partial(pb.Classify, 4, 3)), torch.arange(12) % 3)


def test_the_predictive_of_a_vae_integrates_its_codes():
    """One code per row: Gauss–Hermite quadrature over it is exact."""
    fit, new = vae_fit(), normal(ROWS, 3, seed=1)
    model = fit.model
    with torch.no_grad():
        loc, log_scale = model.representation.prior(model.features(new)).chunk(2, -1)
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        z = loc + log_scale.exp() * torch.from_numpy(nodes)
        probs = torch.softmax(model.decision.logits(z[..., None]), -1)
        exact = torch.einsum("nsk,s->nk", probs, torch.from_numpy(weights / weights.sum()))
        plugged = torch.softmax(model.decision.logits(loc), -1)
    found = pb.predict(fit, new, num_samples=4_000)
    stderr = found.by_draw.probs.std(0) / math.sqrt(len(found.by_draw.probs))
    assert found.by_draw.probs.shape == (4_000, ROWS, 3) or len(found.by_draw.probs) == 40
    assert ((found.distribution.probs - exact).abs() < 4.5 * stderr).all()
    # The code's mean alone is another answer: the test above would tell.
    assert ((plugged - exact).abs() > 4.5 * stderr).any()
    assert torch.equal(found.action, found.distribution.probs.argmax(-1))


def test_codes_of_the_training_rows_do_not_matter_for_new_rows():
    fit, new = vae_fit(), normal(ROWS, 3, seed=1)
    other = replace(fit, draws={"z": 5 + fit.draws["z"]})
    assert torch.equal(pb.predict(fit, new).distribution.probs, pb.predict(other, new).distribution.probs)


def test_a_deterministic_network_needs_one_draw():
    fit, new = dnn_fit(), normal(ROWS, 3, seed=1)
    model = fit.model
    found = pb.predict(fit, new)
    with torch.no_grad():
        expected = torch.softmax(model.decision.logits(model.representation.network(model.features(new))), -1)
    assert found.by_draw.batch_shape == (1, ROWS)
    torch.testing.assert_close(found.distribution.probs, expected)
    assert isinstance(found.distribution, Categorical)
    torch.testing.assert_close(found.epistemic, torch.zeros(ROWS).double(), atol=1e-12, rtol=0.0)


def test_the_action_follows_the_losses_of_the_decision():
    fit, new = dnn_fit(), normal(ROWS, 3, seed=1)
    with isolated(seed=0):
        careful = pb.Classify(4, 3, loss=torch.tensor([[0.0, 1, 1], [1, 0, 1], [0.01, 0.01, 0.01]])).double()
    careful.load_state_dict(fit.model.decision.state_dict())
    fit.model.decision = careful
    assert (pb.predict(fit, new).action == 2).all()


def test_regression_by_a_network_predicts_its_mean_and_noise():
    model = pipeline(partial(pb.DNN, 4, 4), partial(pb.Regress, 4, 2, noise=0.3))
    new = normal(ROWS, 3, seed=1)
    found = pb.predict(untrained(model, normal(12, 2, seed=2)), new)
    with torch.no_grad():
        expected = model.decision.mean(model.representation.network(model.features(new)))
    torch.testing.assert_close(found.action, expected)
    torch.testing.assert_close(found.aleatoric, torch.full((ROWS, 2), 0.09).double(), rtol=1e-6, atol=0.0)
    assert float(found.epistemic.abs().max()) < 1e-12


# ------------------------------------------------------------------------------------------ seeds, draws, rows


def test_the_same_seed_gives_the_same_prediction_and_another_seed_other_codes():
    fit, new = vae_fit(), normal(ROWS, 3, seed=1)
    first, again, other = (pb.predict(fit, new, seed=seed).distribution.probs for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_num_draws_is_what_is_averaged():
    new = normal(ROWS, 11, seed=1)
    assert pb.predict(regression(), new, num_samples=30).by_draw.batch_shape == (30, ROWS)
    assert pb.predict(regression(), new, num_samples=9_000).by_draw.batch_shape == (4_000, ROWS)


def test_draws_are_taken_from_all_chains():
    problem = diabetes_regression()
    chains = torch.stack([torch.zeros(100, 11), torch.ones(100, 11)]).double()
    fit = Posterior(linear_model, problem.data, {"b": chains}, {})
    found = pb.predict(fit, torch.ones(1, 11).double(), num_samples=20)
    torch.testing.assert_close(found.distribution.mean, torch.tensor([5.5]).double())


def test_rows_are_predicted_each_for_itself():
    new = normal(ROWS, 11, seed=1)
    together = pb.predict(regression(), new).distribution.mean
    alone = torch.cat([pb.predict(regression(), row[None]).distribution.mean for row in new[:2]])
    torch.testing.assert_close(together[:2], alone)


# ------------------------------------------------------------------------------------------ observations


def test_an_observation_by_keyword_is_never_read():
    fit, new = regression(), normal(ROWS, 11, seed=1)
    without = pb.predict(fit, new).distribution.mean
    for y in (normal(ROWS, seed=2), 1e6 + normal(ROWS, seed=3)):
        data = Dataset((new,), {"y": y}, ROWS)
        assert torch.equal(predict_rows(fit, data).distribution.mean, without)


def test_an_observation_by_position_is_never_read():
    fit, new = regression(), normal(ROWS, 11, seed=1)
    placed = replace(fit, data=Dataset((fit.data.args[0], fit.data.kwargs["y"]), {}, fit.data.size))
    without = pb.predict(fit, new).distribution.mean
    assert torch.equal(pb.predict(placed, new).distribution.mean, without)
    assert torch.equal(pb.predict(placed, new, 1e6 + normal(ROWS, seed=3)).distribution.mean, without)


def echo(x, y=None):
    """A model that tells whether it was given an observation."""
    b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(b + x[:, 0] + (0.0 if y is None else 100.0), 1.0), obs=y)


@pytest.mark.parametrize("by_position", [True, False])
def test_the_model_is_called_without_its_observation(by_position):
    x, y = normal(12, 2), normal(12, seed=1)
    data = Dataset((x, y), {}, 12) if by_position else Dataset((x,), {"y": y}, 12)
    fit = Posterior(echo, data, {"b": torch.zeros(1, 5).double()}, {})
    new, seen = normal(ROWS, 2, seed=2), normal(ROWS, seed=3)
    rows = Dataset((new, seen), {}, ROWS) if by_position else Dataset((new,), {"y": seen}, ROWS)
    torch.testing.assert_close(predict_rows(fit, rows).distribution.mean, new[:, 0])
    torch.testing.assert_close(predict_rows(fit, fit.data).distribution.mean, x[:, 0])
    torch.testing.assert_close(pb.predict(fit, new).distribution.mean, new[:, 0])


def test_labels_of_the_rows_to_predict_are_never_read():
    fit, new = vae_fit(), normal(ROWS, 3, seed=1)
    labels = [torch.zeros(ROWS).long(), 2 + torch.zeros(ROWS).long()]
    first, second = (predict_rows(fit, Dataset((new,), {"y": y}, ROWS)).distribution.probs for y in labels)
    assert torch.equal(first, second)
    assert torch.equal(first, pb.predict(fit, new).distribution.probs)


# ------------------------------------------------------------------------------------------ bad rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((normal(ROWS, 10),), "columns"),
        ((normal(ROWS, 12),), "columns"),
        ((normal(11),), "columns"),
        ((normal(ROWS, 11) * math.nan,), "finite"),
        ((normal(ROWS, 11) / 0,), "finite"),
        ((normal(0, 11),), "at least one new row"),
        ((), "got none"),
    ],
)
def test_new_rows_that_do_not_fit_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        pb.predict(regression(), *rows)


def test_two_observed_sites_are_refused():
    def model(x, y=None, w=None):
        b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(b + x[:, 0], 1.0), obs=y)
            pyro.sample("w", dist.Normal(b - x[:, 0], 1.0), obs=w)

    x = normal(12, 2)
    data = Dataset((x,), {"y": normal(12, seed=1), "w": normal(12, seed=2)}, 12)
    with pytest.raises(ValueError, match="one observed site"):
        pb.predict(Posterior(model, data, {"b": normal(1, 5)}, {}), x)
