"""A model may bring its own estimators, and every estimator starts from one value."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import probmodel as pb
from probmodel.evidence.weighing.starting_point import starting_point
from probmodel.protocols.evidence import OwnEstimators

Y = torch.tensor([1.0, 1.0, 0.0])
DATA = pb.Dataset((), {"y": Y}, 3)


class Coin(torch.nn.Module):
    """A coin that is fair or has two heads: the evidence is a sum over the two, which no density on R^D is."""

    def forward(self, y=None):
        with pyro.plate("rows", 3):
            pyro.sample("y", dist.Bernoulli(torch.tensor(0.5)), obs=y)

    def evidence_estimators(self):
        def summed(fit, *, seed=0, level=0.95):
            heads = float((fit.data.kwargs["y"] == 1).all())
            return pb.Evidence(math.log(0.5 * 0.5**3 + 0.5 * heads), 0.0, method="sum over coins", level=level)

        return OwnEstimators(summed, summed, summed)


@pytest.mark.parametrize("estimator", [pb.evidence.exact, pb.evidence.best, pb.evidence.sandwich])
def test_a_model_that_brings_its_own_estimators_is_asked_first(estimator):
    fit = pb.Posterior(Coin(), DATA, {}, {})
    found = estimator(fit, seed=0)
    assert found.method == "sum over coins"
    assert abs(found.log_z - math.log(0.5**4)) < 1e-12


def test_the_level_of_a_sandwich_reaches_the_models_own_and_is_checked_before():
    fit = pb.Posterior(Coin(), DATA, {}, {})
    assert pb.evidence.sandwich(fit, level=0.8).level == 0.8
    with pytest.raises(ValueError, match="expected a level between 0 and 1, got 2"):
        pb.evidence.sandwich(fit, level=2.0)


def test_a_fit_and_a_target_of_the_same_model_start_from_one_density():
    def model(y=None):
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("rows", 3):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    target = pb.target(model, DATA)
    fit = pb.Exact(num_samples=20)(model, DATA, seed=0)
    bare, fitted = starting_point(target), starting_point(fit)
    assert bare.target is target and bare.model is None and not bare.draws and not bare.has_posterior_draws
    assert fitted.has_posterior_draws and fitted.has_exact_draws and fitted.target.digest == target.digest
    assert [latent.name for latent in target.sites.latents] == ["p"] and target.sites.observed == ("y",)


@pytest.mark.parametrize("wrong", [None, "fit", DATA])
def test_what_is_neither_a_fit_nor_a_target_is_refused_by_every_estimator(wrong):
    with pytest.raises(
        TypeError, match=r"expected a fit or a target, got .+; pass a Posterior, or target\(model, data\)"
    ):
        starting_point(wrong)


def test_a_target_runs_the_model_once_until_its_density_is_asked_for():
    runs = []

    def model(y=None):
        runs.append(1)
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("rows", 3):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    fit = pb.Posterior(model, DATA, {"p": torch.full((1, 4), 0.5)}, {})
    found = starting_point(fit).target.sites
    assert len(runs) == 1 and found.observed == ("y",)
