"""Ordinary Pyro code at the door: modules, guides, deterministic sites, factors, models without plates, slices."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoLaplaceApproximation, AutoMultivariateNormal, AutoNormal
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

import probmodel as pb
from probmodel.protocols.dataset import Dataset
from probmodel.tracing.randomness import isolated


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = normal(12), normal(12, seed=1)
DATA = Dataset((X,), {"y": Y}, 12)
ZERO, ONE = torch.tensor(0.0).double(), torch.tensor(1.0).double()
QUICK = {"num_steps": 3, "num_samples": 5, "progress": False, "compile": False}


class Line(PyroModule):
    def __init__(self):
        super().__init__()
        self.a = PyroSample(dist.Normal(ZERO, ONE))
        self.b = PyroParam(torch.tensor(0.5).double())
        self.inner = PyroModule[nn.Linear](1, 1).double()
        self.inner.weight = PyroSample(dist.Normal(ZERO, ONE).expand([1, 1]).to_event(2))

    def forward(self, x, y=None):
        mean = self.a * x + self.b + self.inner(x[:, None])[:, 0]
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(mean, ONE), obs=y)


def line(x, y=None):
    a = pyro.sample("a", dist.Normal(ZERO, ONE))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(a * x, ONE), obs=y)


def eager(model, values, *args, **kwargs):
    return float(poutine.trace(poutine.condition(model, values)).get_trace(*args, **kwargs).log_prob_sum().detach())


@pytest.mark.parametrize("used", [False, True])
def test_a_module_made_anywhere_has_the_density_of_pyro(used):
    with isolated(seed=0):
        model = Line()
    if used:
        with isolated(seed=0):
            model(X)
    density = pb.target(model, DATA)
    theta = normal(3, density.dim, seed=2)
    for one, value in zip(theta, density.log_joint(theta), strict=True):
        values = {name: each[0] for name, each in density.constrain(one[None]).items()}
        with isolated(seed=0):
            assert float(value) == pytest.approx(eager(Line(), values, X, Y), abs=1e-6)
    fit = pb.SVI(**QUICK)(model, DATA, seed=0)
    assert set(fit.draws) == {"a", "inner.weight"} and pb.predict(fit, X[:3]).action.shape == (3,)


def several(model):
    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, hide=["b"])))
    guide.append(AutoDelta(poutine.block(model, expose=["b"])))
    return guide


def two(x, y=None):
    a, b = (pyro.sample(name, dist.Normal(ZERO, ONE)) for name in "ab")
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(a * x + b, ONE), obs=y)


@pytest.mark.parametrize("make", [AutoNormal, AutoMultivariateNormal, several], ids=lambda f: f.__name__)
def test_an_automatic_guide_made_before_the_fit_is_that_of_the_fit(make):
    guide = make(two)
    model = guide.model
    fits = [pb.SVI(guide=guide, **QUICK)(two, DATA, seed=0) for _ in range(2)]
    assert all(torch.equal(fits[0].draws[name], fits[1].draws[name]) for name in "ab")
    if make is not several:
        automatic = pb.SVI(autoguide=make, **QUICK)(two, DATA, seed=0)
        assert torch.equal(automatic.draws["a"], fits[0].draws["a"])
    assert guide.model is model  # The one passed in still has its model.


@pytest.mark.parametrize("given", [{"autoguide": AutoLaplaceApproximation}, {"guide": AutoLaplaceApproximation(line)}])
def test_a_guide_that_needs_a_step_after_the_fit_is_refused(given):
    with pytest.raises(TypeError, match=r"use pb\.Laplace"):
        pb.SVI(**QUICK, **given)(line, DATA, seed=0)


def groups(index, y=None, told=True):
    mu = pyro.sample("mu", dist.Normal(ZERO, ONE))
    with pyro.plate("groups", 3):
        z = pyro.sample("z", dist.Normal(ZERO, ONE))
        theta = pyro.deterministic("theta", mu + 2 * z) if told else mu + 2 * z
    mean = pyro.sample("mean", dist.Delta(theta[index]).to_event(1)) if told else theta[index]
    with pyro.plate("rows", len(index)):
        pyro.sample("y", dist.Normal(mean, ONE), obs=y)


def test_deterministic_sites_and_point_masses_are_no_observations_and_no_latents():
    index = torch.arange(12) % 3
    told, bare = (pb.target(groups, Dataset((index,), {"y": Y, "told": told}, 12)) for told in (True, False))
    theta = normal(4, 4, seed=3)
    assert told.dim == bare.dim == 4 and told.digest == bare.digest
    assert told.sites.observed == ("y",) and set(told.sites.deterministic) == {"theta", "mean"}
    torch.testing.assert_close(told.log_joint(theta), bare.log_joint(theta))
    torch.testing.assert_close(told.log_likelihood_by_row(theta), bare.log_likelihood_by_row(theta))
    fit = pb.Laplace()(groups, Dataset((index,), {"y": Y, "told": True}, 12), seed=0)
    assert pb.predict(fit, index[:3]).action.shape == (3,)


def own_likelihood(x, y):
    a = pyro.sample("a", dist.Normal(ZERO, ONE))
    with pyro.plate("rows", len(x)):
        pyro.factor("likelihood", dist.Normal(a * x, ONE).log_prob(y))


def test_factors_have_the_fingerprint_of_all_data():
    digests = [pb.target(own_likelihood, Dataset((X,), {"y": y}, 12)).digest for y in (Y, Y + 1, Y.float().double())]
    assert digests[0] != digests[1]
    assert pb.target(own_likelihood, Dataset((), {"y": Y, "x": X}, 12)).digest == digests[0]
    fits = {
        name: pb.Laplace()(own_likelihood, Dataset((X,), {"y": y}, 12), seed=0) for name, y in (("a", Y), ("b", Y + 1))
    }
    with pytest.raises(ValueError, match="the same observations"):
        pb.compare(fits)


def vector(x, y):
    b = pyro.sample("b", dist.Normal(torch.zeros(2).double(), ONE))
    pyro.sample("y", dist.Normal(b[0] * x + b[1], ONE), obs=y)


def scalar(x, y):
    b = pyro.sample("b", dist.Normal(ZERO, ONE))
    pyro.sample("y", dist.Normal(b * x, ONE), obs=y)


def matrix(x, y):
    b = pyro.sample("b", dist.Normal(torch.zeros(3, 2).double(), ONE))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(b.sum() * x, ONE), obs=y)


@pytest.mark.parametrize("model", [vector, scalar, matrix])
def test_models_without_plates_have_the_density_of_pyro(model):
    density = pb.target(model, Dataset((X,), {"y": Y}, 12))
    theta = normal(3, density.dim, seed=4)
    for one, value in zip(theta, density.log_joint(theta), strict=True):
        values = {name: each[0] for name, each in density.constrain(one[None]).items()}
        assert float(value) == pytest.approx(eager(model, values, X, Y), abs=1e-8)
    assert density.log_likelihood_by_row(theta).shape == (3, 12)
    fit = pb.SVI(**QUICK)(model, Dataset((X,), {"y": Y}, 12), seed=0)
    assert fit.draws["b"].shape[2:] == density.sites.latents[0].shape


WRITES = {
    "negative end": lambda m: m.__setitem__(slice(-4, -1), m[-4:-1] + 1),
    "negative entry": lambda m: m.__setitem__(-1, m[0] * 2),
    "open start": lambda m: m.__setitem__(slice(-2, None), m[:2] * 2),
    "empty": lambda m: m.__setitem__(slice(5, 2), m[5:2]),
    "steps": lambda m: m.__setitem__(slice(None, -1, 2), m[1::2][:6]),
    "last axis": lambda m: m[None].__setitem__((Ellipsis, slice(1, -1)), m[None][..., 1:-1] * 3),
    "in place": lambda m: m[:-1].mul_(2),
}


@pytest.mark.parametrize("name", WRITES)
def test_writes_to_slices_have_the_density_of_pyro(name):
    def model(x, y):
        a = pyro.sample("a", dist.Normal(ZERO, ONE))
        mean = a * x
        WRITES[name](mean)
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(mean, ONE), obs=y)

    theta = normal(3, 1, seed=5)
    density = pb.target(model, Dataset((X, Y), {}, 12))
    expected = torch.tensor([eager(model, {"a": a}, X, Y) for a in theta[:, 0]]).double()
    torch.testing.assert_close(density.log_joint(theta), expected, rtol=1e-6, atol=1e-6)
    assert density.fallback is None


def reparametrized(x, y=None, *, strategy):
    mu = pyro.sample("mu", dist.Normal(ZERO, ONE))
    with pyro.plate("rows", len(x)):
        with poutine.reparam(config={"effect": strategy}):
            effect = pyro.sample("effect", dist.Normal(mu, 2.0))
        pyro.sample("y", dist.Normal(effect + x, ONE), obs=y)


def test_reparametrized_latents_are_functions_of_others_and_the_data_those_of_the_centered_model():
    found = {}
    for strategy in (LocScaleReparam(1.0), LocScaleReparam(0.0)):
        model = partial(reparametrized, strategy=strategy)
        found[strategy.centered] = pb.target(model, DATA).sites
    assert found[0.0].observed == found[1.0].observed == ("y",)
    assert found[0.0].deterministic == ("effect",)
    assert found[0.0].digest == found[1.0].digest


@pytest.mark.parametrize("power", [0.1, torch.linspace(0.5, 1.5, 12).double()])
def test_a_likelihood_raised_to_a_power_is_one_of_other_observations(power):
    def model(x, y=None):
        a = pyro.sample("a", dist.Normal(ZERO, ONE))
        with pyro.plate("rows", len(x)), poutine.scale(scale=power):
            pyro.sample("y", dist.Normal(a * x, ONE), obs=y)

    def plain(x, y=None):
        a = pyro.sample("a", dist.Normal(ZERO, ONE))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(a * x, ONE), obs=y)

    assert pb.target(model, DATA).digest != pb.target(plain, DATA).digest


def test_a_prior_raised_to_a_power_is_not_normalized():
    def model(x, y=None):
        with poutine.scale(scale=3.0):
            a = pyro.sample("a", dist.Normal(ZERO, ONE))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(a * x, ONE), obs=y)

    assert pb.target(model, DATA).improper == ("a",)
