"""A guide of point estimates has no evidence: its log density at a point may lie above that of the data."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta

import probmodel as pb
from probmodel.protocols.dataset import Dataset

ONE = torch.tensor(1.0).double()
Y = torch.randn(12, generator=torch.Generator().manual_seed(0)).double()


def model(y):
    a, b = (pyro.sample(name, dist.Normal(0 * ONE, 0.3 * ONE)) for name in "ab")
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(a + b, ONE), obs=y)


def half(y):
    pyro.sample("a", dist.Normal(pyro.param("at", 0 * ONE), ONE))
    pyro.sample("b", dist.Delta(pyro.param("b_at", 0 * ONE)))


@pytest.mark.parametrize(("guide", "names"), [({"autoguide": AutoDelta}, "'a', 'b'"), ({"guide": half}, "'b'")])
def test_point_estimates_are_refused_by_name(guide, names):
    fit = pb.SVI(num_steps=3, num_samples=5, progress=False, compile=False, **guide)(
        model, Dataset((Y,), {}, 12), seed=0
    )
    for estimator in (pb.evidence.elbo, pb.evidence.iwae, pb.evidence.best):
        with pytest.raises(ValueError, match=rf"point estimates of \[{names}\].*use pb\.Laplace"):
            estimator(fit)
    diagnosis = pb.diagnose(fit)
    assert diagnosis.verdict == "inference failed" and names in diagnosis["guide k-hat"].message
