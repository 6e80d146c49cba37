"""What may be claimed: no bounds where the joint is no density, and none closer than the precision of the numbers."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from problems import exact_answers as problems
from problems.exact_answers import tensor
from torch.distributions import constraints

from probmodel.evidence import ais, elbo, exact, importance, iwae, reverse_ais, sandwich
from probmodel.evidence.weighing.verdict import CLOSED_FORM_ROUNDING, closed_form_rounding
from probmodel.inference import Exact
from probmodel.protocols.errors import EvidenceWarning
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.target import target


def _flat(x, y=None):
    mu = pyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(mu + x, 1.5), obs=y)


def flat_fit() -> Posterior:
    data = problems.conjugate_normal().data
    gap = (data.kwargs["y"] - data.args[0]).numpy()
    draws = np.random.default_rng(0).normal(gap.mean(), 1.5 / math.sqrt(len(gap)), (2, 500))
    return Posterior(_flat, data, {"mu": tensor(draws)}, {"method": "by hand"})


@pytest.mark.parametrize("estimator", [ais, reverse_ais, importance, exact])
def test_an_improper_prior_leaves_no_side_bounded(estimator):
    with pytest.warns(EvidenceWarning, match="improper prior of mu: the evidence is defined up to a constant"):
        found = estimator(flat_fit())
    assert (found.lower, found.upper) == (-math.inf, math.inf)
    assert found.certified == "neither side: the prior is improper"
    assert math.isfinite(found.log_z)


def _guide(x, y=None):
    pyro.sample("mu", dist.Normal(x.new_tensor(0.0), 1.0))


@pytest.mark.parametrize("estimator", [elbo, iwae])
def test_a_guide_of_an_improper_model_bounds_nothing(estimator):
    by_hand = flat_fit()
    fit = Posterior(_flat, by_hand.data, by_hand.draws, by_hand.info, _guide)
    with pytest.warns(EvidenceWarning, match="improper prior of mu"):
        found = estimator(fit, num_samples=500)
    assert (found.lower, found.upper) == (-math.inf, math.inf)


def test_a_closed_form_in_single_precision_is_certified_to_single_precision():
    known = problems.conjugate_normal()
    single = Exact(num_samples=500)(known.model, known.data.to(torch.float32), seed=0)
    for found in (exact(single), sandwich(single, seed=1)):
        assert found.lower < known.log_z < found.upper
        assert 1e-7 * abs(known.log_z) < found.upper - found.lower < 1e-3 * abs(known.log_z)
        assert 0 < found.stderr < found.upper - found.lower
    double = exact(Exact(num_samples=500)(known.model, known.data, seed=0))
    assert double.stderr == 0
    assert abs(double.log_z - known.log_z) < 1e-9 * abs(known.log_z)


def test_the_rounding_of_single_precision_grows_with_the_terms_that_cancel():
    known = problems.conjugate_normal()
    single = target(known.model, known.data.to(torch.float32))
    assert closed_form_rounding(single, 0.0) > 1e-6 * abs(float(single.log_likelihood(torch.zeros(1, single.dim))))
    assert closed_form_rounding(target(known.model, known.data), -50.0) == 50 * CLOSED_FORM_ROUNDING
