"""`to_arviz` against a conjugate normal whose likelihood is known."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.stats import norm

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.posterior import Posterior
from probmodel.storage.to_arviz import to_arviz


def normal_mean(y):
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 1.0))
    sigma = pyro.sample("sigma", dist.LogNormal(y.new_zeros(()), 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, sigma), obs=y)


def no_latents(y):
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(y.new_zeros(()), 1.0), obs=y)


Y = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
DATA = Dataset(kwargs={"y": Y}, size=3)


def draws():
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(2, 5, dtype=torch.float64, generator=generator)
    return {"mu": mu, "sigma": torch.rand(2, 5, dtype=torch.float64, generator=generator) + 0.5}


def test_to_arviz_holds_the_log_likelihood_of_each_row_at_each_draw():
    given = draws()
    stats = {"diverging": [[False] * 5, [True] * 5]}
    tree = to_arviz(Posterior(normal_mean, DATA, given, {"sample_stats": stats}))
    exact = norm.logpdf(Y.numpy(), given["mu"][..., None].numpy(), given["sigma"][..., None].numpy())
    np.testing.assert_allclose(tree["log_likelihood"]["y"].to_numpy(), exact, atol=1e-12)
    assert np.array_equal(tree["posterior"]["sigma"].to_numpy(), given["sigma"].numpy())
    assert np.array_equal(tree["observed_data"]["y"].to_numpy(), Y.numpy())
    assert tree["sample_stats"]["diverging"].to_numpy().sum() == 5


def test_to_arviz_leaves_out_a_likelihood_the_draws_do_not_determine():
    part = {"mu": draws()["mu"]}
    for posterior in (Posterior(normal_mean, DATA, part, {}), Posterior(no_latents, DATA, {}, {})):
        tree = to_arviz(posterior)
        assert "log_likelihood" not in tree and "sample_stats" not in tree
        assert ("posterior" in tree) == bool(posterior.draws) and "observed_data" in tree
