"""Rows that read the latents of other rows are found, and their evidence is that of all rows together."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import probmodel as pb

ZERO, ONE = torch.tensor(0.0).double(), torch.tensor(1.0).double()
Y = torch.tensor([0.3, 0.8, 1.1, 0.9, 1.6, 2.2, 1.9, 2.5]).double()
X = torch.linspace(0, 1, 8).double()
ORDER = torch.tensor([1, 2, 3, 4, 5, 0, 6, 7])


def latent(x):
    with pyro.plate("rows", len(x)):
        return pyro.sample("z", dist.Normal(ZERO, ONE))


def observe(mean, y):
    with pyro.plate("seen", len(mean)):
        return pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def walk(x, y=None):
    return observe(latent(x).cumsum(0), y)


def smooth(x):
    return torch.linalg.cholesky(torch.exp(-((x[:, None] - x) ** 2) / 0.18) + 1e-6 * torch.eye(len(x)).double())


def process(x, y=None):
    return observe(smooth(x) @ latent(x), y)


def permuted(order, y=None):
    return observe(latent(order)[order], y)


def own(x, y=None):
    return observe(x + latent(x), y)


CASES = {
    "random walk": (walk, X, torch.tril(torch.ones(8, 8)).double()),
    "Gaussian process": (process, X, smooth(X)),
    "permutation": (permuted, ORDER, torch.eye(8).double()[ORDER]),
}


def exact(loading, y=Y):
    return dist.MultivariateNormal(torch.zeros(8).double(), loading @ loading.T + 0.25 * torch.eye(8)).log_prob(y)


@pytest.mark.parametrize("name", CASES)
def test_the_evidence_of_dependent_rows_is_that_of_all_rows(name):
    model, x, loading = CASES[name]
    data, truth = pb.Dataset.of_rows(x, y=Y), float(exact(loading))
    target = pb.target(model, data)
    assert target.sites.coupled_rows and target.by_row is None
    fit = pb.Exact(num_samples=500)(model, data, seed=0)
    assert math.isclose(pb.evidence.exact(fit).log_z, truth, abs_tol=1e-6)
    found = pb.evidence.importance(fit, num_samples=2_000)
    assert abs(found.log_z - truth) < 4 * found.stderr + 0.01
    assert found.lower < truth
    last = fit.draws["z"] @ loading.T
    covariance = loading @ loading.T
    known = covariance - covariance @ torch.linalg.solve(covariance + 0.25 * torch.eye(8).double(), covariance)
    assert torch.allclose(last.flatten(0, 1).std(0), known.diagonal().sqrt(), rtol=0.15)


def test_rows_with_latents_of_their_own_stay_local():
    target = pb.target(own, pb.Dataset.of_rows(X, y=Y))
    assert not target.sites.coupled_rows and target.by_row is not None


def test_the_finding_belongs_to_the_index_that_the_data_hold():
    other = torch.arange(8)
    assert not pb.target(permuted, pb.Dataset.of_rows(other, y=Y)).sites.coupled_rows
    assert pb.target(permuted, pb.Dataset.of_rows(ORDER, y=Y)).sites.coupled_rows


def test_two_rows_that_are_exchanged_are_found_among_sixty_four():
    x = torch.arange(64)
    x[[40, 8]] = x[[8, 40]]
    assert pb.target(permuted, pb.Dataset.of_rows(x, y=torch.zeros(64).double())).sites.coupled_rows


def test_dependent_rows_are_not_predicted_elsewhere_nor_taken_in_minibatches():
    data = pb.Dataset.of_rows(X, y=Y)
    fit = pb.Exact(num_samples=300)(walk, data, seed=0)
    posterior_mean = (fit.draws["z"].cumsum(-1)).flatten(0, 1)[torch.linspace(0, 299, 200).long()].mean(0)
    assert torch.allclose(pb.predict(fit, X).distribution.mean, posterior_mean, atol=1e-6)
    with pytest.raises(ValueError, match="expected the training rows"):
        pb.predict(fit, X + 1)
    guide = pyro.infer.autoguide.AutoDelta
    with pytest.raises(ValueError, match="leave out batch_size"):
        pb.SVI(num_steps=2, batch_size=4, autoguide=guide, progress=False)(walk, data, seed=0)
