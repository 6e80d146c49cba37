"""Log scores of whole rows: networks and Boltzmann machines beside held-out rows."""

from itertools import product

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import probmodel as pb
from probmodel.diagnosis.densities import ScoredRows, mixing_gain, row_scores, scored_rows
from probmodel.families import bayesian_networks as bn

STATES = torch.tensor(list(product([0.0, 1.0], repeat=4)), dtype=torch.float64)


def pairs(count: int, seed: int) -> Tensor:
    """Two binary columns, the second equal to the first in four rows of five."""
    rng = np.random.default_rng(seed)
    first = rng.integers(2, size=count)
    second = (first ^ (rng.random(count) < 0.2)).astype(int)
    return torch.tensor(np.stack([first, second], 1))


def rows(values: Tensor) -> pb.Dataset:
    return pb.Dataset((values,), {}, len(values))


def network(text: str, data: Tensor) -> pb.Posterior:
    model = pb.bn.CategoricalNetwork(bn.DAG.from_string(text), {"a": 2, "b": 2})
    return pb.Exact(num_samples=4_000)(model, rows(data), seed=0)


def machine(hidden: int, seed: int = 0, scale: float = 1.0) -> pb.RBM:
    with pb.isolated(seed=seed):
        rbm = pb.RBM(4, hidden).double()
        with torch.no_grad():
            for parameter in rbm.parameters():
                parameter.copy_(scale * torch.randn_like(parameter))
    return rbm


def test_rows_of_a_network_are_scored_by_its_posterior_means() -> None:
    train, test = pairs(300, 0), pairs(50, 1)
    fit = network("[a][b|a]", train)
    data = bn.CategoricalData({"a": ("0", "1"), "b": ("0", "1")}, train.numpy())
    fresh = bn.CategoricalData({"a": ("0", "1"), "b": ("0", "1")}, test.numpy())
    dag = bn.DAG.from_string("[a][b|a]")
    exact = bn.log_prob(bn.posterior_mean(dag, data, 1.0), fresh)
    found = row_scores(fit, rows(test)).numpy()
    # Means of 500 draws; the rarest row's probability has a posterior deviation of a fifth of itself.
    np.testing.assert_allclose(found, exact, rtol=0, atol=4 * 0.2 / 500**0.5)


def test_rows_of_a_machine_are_scored_by_its_normalized_density() -> None:
    rbm = machine(3)
    fit = pb.Posterior(rbm, rows(STATES), {}, {})
    exact = torch.log_softmax(-rbm.free_energy(STATES).detach(), 0)
    torch.testing.assert_close(row_scores(fit, rows(STATES)), exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(row_scores(fit, rows(STATES[5:7])), exact[5:7], rtol=0, atol=1e-10)


def test_base_rates_are_frequencies_of_the_training_columns() -> None:
    train, test = pairs(300, 0), pairs(50, 1)
    found = scored_rows(network("[a][b]", train), rows(test)).base_rate
    share = (train.double().sum(0) + 1) / 302
    expected = torch.where(test == 1, share.log(), (1 - share).log()).sum(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_network_of_the_right_edges_is_best_and_fits() -> None:
    train, test = pairs(500, 0), rows(pairs(400, 1))
    fits = {text: network(text, train) for text in ("[a][b]", "[a][b|a]")}
    table = pb.compare(fits, test)
    assert table.best == "[a][b|a]"
    assert set(table.frame["verdict"]) == {"fits"}
    gained = pb.diagnose(fits["[a][b|a]"], test)["gain over base rate"]
    expected = np.log(2) + 0.8 * np.log(0.8) + 0.2 * np.log(0.2)
    assert abs(gained.value - expected) < 4 * gained.stderr + 0.01


def test_a_machine_that_has_learnt_single_rows_overfits() -> None:
    with pb.isolated(seed=3):
        cause = (torch.rand(420, 1) < 0.5).double()
        every = (torch.rand(420, 12) < 0.1 + 0.6 * cause).double()
        large, small = pb.RBM(12, 10).double(), pb.RBM(12, 1).double()
    settings = pb.BoltzmannLearning(
        pb.boltzmann.Persistent(100),
        pb.boltzmann.GradientAscent(2_000, learning_rate=0.3),
        None,
        monitor=None,
        progress=False,
    )
    overfitted = pb.diagnose(settings(large, rows(every[:20]), seed=0), rows(every[20:]))
    assert str(overfitted.verdict) == "overfits"
    assert overfitted["overconfidence"].value > 4 * overfitted["overconfidence"].stderr
    fitted = pb.diagnose(settings(small, rows(every[20:320]), seed=0), rows(every[320:]))
    assert str(fitted.verdict) == "fits"
    assert fitted["gain over base rate"].value > 4 * fitted["gain over base rate"].stderr


def test_a_share_of_the_base_rate_gains_where_the_density_claims_too_much() -> None:
    with pb.isolated(seed=0):
        log_score = torch.where(torch.arange(400) % 10 < 2, -60.0, -9.0).double() + 0.1 * torch.randn(400).double()
    base = torch.full((400,), -10.0, dtype=torch.float64)
    best = max(
        float(torch.logaddexp(log_score + np.log1p(-share), base + np.log(share)).mean()) for share in (0.1, 0.3)
    )
    found = float(mixing_gain(ScoredRows(log_score, base)).mean())
    assert found == pytest.approx(best - float(log_score.mean()), abs=1e-6)
    assert float(mixing_gain(ScoredRows(base + 5, base)).abs().max()) == 0


def test_a_users_model_of_two_observed_sites_is_scored_jointly() -> None:
    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", len(x), dim=-1):
            pyro.sample("first", dist.Normal(mu, 1.0), obs=x[:, 0])
            pyro.sample("second", dist.Normal(-mu, 1.0), obs=x[:, 1])

    with pb.isolated(seed=0):
        x = torch.randn(200, 2, dtype=torch.float64) + torch.tensor([1.0, -1.0], dtype=torch.float64)
    fit = pb.Laplace(num_samples=2_000)(model, rows(x[:100]), seed=0)
    found = pb.diagnose(fit, rows(x[100:]))["held-out log score"].value
    # μ | data is N(m, 1/200.01), and its rows' predictive has that variance in the direction (1, −1).
    variance = 1 / (200 + 1 / 100)
    center = float((x[:100, 0] - x[:100, 1]).sum()) * variance
    cov = torch.eye(2).double() + variance * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    exact = dist.MultivariateNormal(torch.tensor([center, -center], dtype=torch.float64), cov).log_prob(x[100:]).mean()
    assert found == pytest.approx(float(exact), abs=0.002)


def test_what_is_observed_alone_is_predicted_as_a_density_of_rows() -> None:
    fit = pb.Posterior(machine(3), rows(STATES), {}, {})
    found = pb.predict(fit, STATES).distribution
    assert float(found.log_prob(STATES).detach().exp().sum()) == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="score whole rows by diagnose"):
        pb.predict(network("[a][b]", pairs(50, 0)), pairs(10, 1))


@pytest.mark.parametrize("scale", [0.0, 1.5])
def test_an_untrained_machine_underfits_and_is_not_called_overfitting(scale: float) -> None:
    """Its training rows are described no better than the held-out ones, by independent columns better than by the machine."""
    with pb.isolated(seed=3):
        x = (torch.rand(600, 4) < torch.tensor([0.05, 0.9, 0.1, 0.95])).double()
    untrained = pb.Posterior(machine(3, scale=scale), rows(x[:300]), {}, {})
    diagnosis = pb.diagnose(untrained, rows(x[300:]))
    assert str(diagnosis.verdict) == "underfits"
    assert diagnosis["gain over base rate"].value < 0
    assert diagnosis["gap"].flag == ""


def test_a_density_that_knows_its_training_rows_alone_overfits() -> None:
    with pb.isolated(seed=3):
        x = torch.randint(0, 2, (600, 8)).double()
    train, test = x[:40], x[300:]

    def by_heart(values: Tensor) -> None:
        """A kernel density of bits on the training rows, each bit kept with probability 0.98."""
        with pyro.plate("rows", len(values), dim=-1):
            same = (values[:, None] == train).double()
            kept = torch.log(torch.tensor(0.98 / 0.02, dtype=torch.float64)) * same + np.log(0.02)
            log_p = torch.logsumexp(kept.sum(-1), 1) - np.log(len(train))
            for column in range(8):
                pyro.sample(
                    f"bit{column}", dist.Bernoulli(0.5 * torch.ones_like(values[:, column])), obs=values[:, column]
                )
            pyro.factor("density", log_p + 8 * np.log(2.0))

    diagnosis = pb.diagnose(pb.Posterior(by_heart, rows(train), {}, {}), rows(test))
    assert str(diagnosis.verdict) == "overfits"
    assert diagnosis["gap"].value > 2 * diagnosis["gap"].stderr
