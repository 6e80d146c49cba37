"""What a fit would ignore, and networks whose output depends on more than their input, are refused by name."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import probmodel as pb
from probmodel.protocols.dataset import Dataset
from probmodel.tracing.checks.modules import evaluation_mode
from probmodel.tracing.randomness import isolated


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, Y = normal(12, 3), normal(12, seed=1)
QUICK = pb.SVI(num_steps=3, num_samples=5, progress=False, compile=False)


def regression(x, y=None, observed=True, noise=None):
    b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    scale = 1.0 if noise is None else noise
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(x @ b, scale), obs=y if observed else None)


def test_forgotten_observations_are_refused_by_their_name():
    data = Dataset((X,), {"y": Y, "observed": False}, 12)
    for run in (pb.target, lambda model, data: QUICK(model, data, seed=0)):
        with pytest.raises(ValueError, match=r"\['y'\], on which no site depends"):
            run(regression, data)
    with pytest.raises(ValueError, match="without obs="):
        pb.target(regression, Dataset((X,), {}, 12))


@pytest.mark.parametrize("values", [torch.ones(12), torch.arange(12), torch.arange(12) > 5, torch.tensor(3.0)])
def test_a_tensor_that_no_site_reads_is_refused_whatever_its_numbers(values):
    def model(x, y=None, extra=None):
        return regression(x, y)

    with pytest.raises(ValueError, match=r"\['extra'\]"):
        pb.target(model, Dataset((X,), {"y": Y, "extra": values}, 12))


@pytest.mark.parametrize(
    "use",
    [
        lambda mean, extra: mean + extra,
        lambda mean, extra: mean * (extra > 0),
        lambda mean, extra: mean + extra.cumsum(0) - extra.sum(),
        lambda mean, extra: mean + torch.zeros(12)[extra.argsort()] + extra.argmax(),
    ],
)
def test_a_tensor_that_reaches_a_site_in_any_way_is_accepted(use):
    def model(x, y=None, extra=None):
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(use(b * x[:, 0], extra), 1.0), obs=y)

    assert pb.target(model, Dataset((X,), {"y": Y, "extra": normal(12, seed=2)}, 12)).dim == 1


def pipeline(*kinds):
    """A pipeline with these layers, made with a seed of its own."""
    with isolated(seed=0):
        return pb.Pipeline(nn.Sequential(*(kind() for kind in kinds)), pb.DNN(3, 4), pb.Regress(4))


DATA = Dataset((X,), {"y": Y}, 12)


@pytest.mark.filterwarnings("ignore::probmodel.protocols.errors.TracingWarning")
def test_dropout_is_active_in_the_fit_alone():
    fit = QUICK(pipeline(lambda: nn.Dropout(0.5)), DATA, seed=0)
    assert not any(part.training for part in fit.model.modules())
    one, other = (pb.predict(fit, X, seed=seed).action for seed in (0, 1))
    assert torch.equal(one, other)
    assert torch.equal(pb.predict(fit, X[:1]).action, one[:1]) or torch.allclose(pb.predict(fit, X[:1]).action, one[:1])


def test_the_density_of_a_model_with_dropout_is_that_without():
    with isolated(seed=0):
        network = nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.5))

    def model(x, y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(a + network(x)[:, 0], 1.0), obs=y)

    theta = normal(4, 1, seed=3)
    density = pb.target(model, Dataset((X, Y), {}, 12))
    found = density.log_joint(theta)
    assert network.training and network[1].training
    network.eval()
    torch.testing.assert_close(found, pb.target(model, Dataset((X, Y), {}, 12)).log_joint(theta))


@pytest.mark.parametrize("statistics", [True, False])
def test_batch_statistics_are_refused_by_the_name_of_the_module(statistics):
    with pytest.raises(ValueError, match=r"BatchNorm1d 'features.1'"):
        QUICK(
            pipeline(lambda: nn.Linear(3, 3), lambda: nn.BatchNorm1d(3, track_running_stats=statistics)), DATA, seed=0
        )


def test_running_statistics_that_are_kept_are_accepted():
    model = pipeline(lambda: nn.Linear(3, 3), lambda: nn.BatchNorm1d(3).eval())
    assert QUICK(model, DATA, seed=0).draws is not None


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.calls += 1
        return x


def test_a_buffer_that_a_call_changes_is_refused_and_stays_as_it_was():
    layer = Counting()
    with pytest.raises(ValueError, match=r"calls"):
        QUICK(pipeline(lambda: layer), DATA, seed=0)
    assert float(layer.calls) == 0
    assert QUICK(pipeline(layer.eval), DATA, seed=0).draws is not None


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


def test_noise_that_is_no_site_is_refused_by_the_site_it_moves():
    def model(x, y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(a + torch.randn(len(x)), 1.0), obs=y)

    for run, subject in ((QUICK, pipeline(Noisy)), (QUICK, model), (pb.Laplace(), model)):
        data = DATA if subject is not model else Dataset((X, Y), {}, 12)
        with pytest.raises(ValueError, match="density of site 'y' differs"):
            run(subject, data, seed=0)


def test_evaluation_mode_restores_the_mode_of_each_part():
    network = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    with evaluation_mode(network):
        assert not network.training and not network[0].training
    assert network.training and network[0].training and not network[1].training
