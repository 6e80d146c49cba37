"""`to_arviz` against a conjugate normal whose likelihood is known."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
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


def two_sites(x, y, sigma, groups):
    b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("schools", 2):
        level = pyro.deterministic("level", 2 * pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0)))
    with pyro.plate("rows", len(x)):
        pyro.sample("score", dist.Normal(b * x + level[groups], sigma), obs=y)
    with pyro.plate("others", 2):
        pyro.sample("other", dist.Normal(b, 1.0), obs=y[:2])


def test_observations_are_named_by_site_and_axes_by_plate():
    """Covariates are no observations; deterministic sites are draws; each site has a likelihood of its own."""
    sigma, groups = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), torch.tensor([0, 1, 1])
    x = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    b, z = (torch.randn(2, 5, *shape, dtype=torch.float64, generator=generator) for shape in ((), (2,)))
    tree = to_arviz(
        Posterior(two_sites, Dataset((x, Y), {"sigma": sigma, "groups": groups}, 3), {"b": b, "z": z}, {}),
        coords={"schools": ["north", "south"]},
        dims={"other": ["pair"]},
    )
    assert set(tree["observed_data"].data_vars) == {"score", "other"} == set(tree["log_likelihood"].data_vars)
    assert tree["posterior"]["level"].dims == ("chain", "draw", "schools") == tree["posterior"]["z"].dims
    assert list(tree["posterior"]["level"].coords["schools"].to_numpy()) == ["north", "south"]
    np.testing.assert_allclose(tree["posterior"]["level"].to_numpy(), 2 * z.numpy())
    assert tree["observed_data"]["score"].dims == ("rows",) and tree["observed_data"]["other"].dims == ("pair",)
    mean = b[..., None] * x + 2 * z[..., groups]
    exact = norm.logpdf(Y.numpy(), mean.numpy(), sigma.numpy())
    np.testing.assert_allclose(tree["log_likelihood"]["score"].to_numpy(), exact, atol=1e-12)


def test_dims_and_coords_that_do_not_fit_are_refused():
    fit = Posterior(normal_mean, DATA, draws(), {})
    for bad, says in (
        ({"dims": {"sigma": ["a"]}}, "0 event axes of sigma"),
        ({"dims": {"nobody": ["a"]}}, "got \\['nobody'\\]"),
        ({"coords": {"rows": ["a"]}}, "one size of the axis 'rows'"),
    ):
        with pytest.raises(ValueError, match=says):
            to_arviz(fit, **bad)


def with_parameter(x, y):
    offset = pyro.param("offset", x.new_tensor(2.0))
    slope = pyro.sample("slope", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(offset + slope * x, 1.0), obs=y)


def test_the_parameter_store_of_the_caller_is_neither_read_nor_written():
    slope, x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3), torch.ones(3, dtype=torch.float64)
    fit = Posterior(with_parameter, Dataset((x,), {"y": Y}, 3), {"slope": slope}, {})
    with pyro.get_param_store().scope():
        pyro.param("offset", torch.tensor(50.0, dtype=torch.float64))
        found = to_arviz(fit)["log_likelihood"]["y"].values
        assert list(pyro.get_param_store().keys()) == ["offset"]
    np.testing.assert_allclose(found, norm.logpdf(Y.numpy(), 2.0 + slope[..., None].numpy(), 1.0))


def chain(y):
    """Labels of neighbours depend on each other, so that no row has a likelihood of its own."""
    level = pyro.sample("level", dist.Normal(y.new_zeros(()), 1.0))
    label = 0
    for i in pyro.markov(range(len(y))):
        label = pyro.sample(
            f"label_{i}", dist.Bernoulli(y.new_tensor([0.3, 0.8])[label]), infer={"enumerate": "parallel"}
        )
        label = label.long()
        pyro.sample(f"y_{i}", dist.Normal(level + label, 1.0), obs=y[i])


def test_labels_that_rows_share_leave_the_likelihood_by_row_out_and_keep_the_rest():
    level = torch.linspace(-1, 1, 4, dtype=torch.float64).reshape(2, 2)
    found = to_arviz(Posterior(chain, Dataset((Y,), {}, None), {"level": level}, {}))
    np.testing.assert_array_equal(found["posterior"]["level"].values, level.numpy())
    assert "log_likelihood" not in found
