"""A fit that is interrupted is what a shorter one would have been, and says so; before there is one the interrupt goes on."""

import os
import signal
from dataclasses import replace
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from problems import exact_answers as problems

from probmodel.diagnosis.convergence import convergence
from probmodel.inference import NUTS, SVI, ChEES, Laplace, MaximumLikelihood
from probmodel.inference.chains.recording import StepWindows
from probmodel.inference.descent.descent import ByLoop, ByStep
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import InterruptedWarning
from probmodel.tracing import curvature
from probmodel.tracing.ownership import parameters
from probmodel.tracing.randomness import isolated

pytestmark = pytest.mark.usefixtures("interruptible")
SHORT = SVI(num_steps=400, num_samples=5, compile=False, progress=False, patience=None)


def interrupt(*_):
    """As Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def after(monkeypatch):
    """Interrupt at the end of a method's call of a given number."""

    def arrange(kind, name, number):
        method, calls = getattr(kind, name), []

        def interrupted(*args, **kwargs):
            found = method(*args, **kwargs)
            calls.append(1)
            if len(calls) == number:
                interrupt()
            return found

        monkeypatch.setattr(kind, name, interrupted)

    return arrange


def rows(seed=2):
    with isolated(seed):
        x = torch.randn(20, 3, dtype=torch.float64)
        return Dataset((x,), {"y": x @ x.new_tensor([1.0, -2.0, 0.5]) + torch.randn(20, dtype=torch.float64)}, 20)


def line(x, y=None):
    slope = pyro.sample("slope", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(x @ slope, 1.0), obs=y)


def same_parameters(one, other):
    pairs = zip(parameters(one.model, one.guide).values(), parameters(other.model, other.guide).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def momentum(leaves):
    return torch.optim.SGD(leaves, lr=1e-4, momentum=0.9)


@pytest.mark.parametrize("optimizer", [SHORT.optimizer, momentum])
def test_svi_is_that_of_the_steps_before_the_interrupt(optimizer, after):
    """Of the loop the third call is cut off, of single steps one of the first second's calls."""
    settings, data = replace(SHORT, optimizer=optimizer, batch_size=7), rows()
    kind = ByLoop if optimizer is not momentum else ByStep
    whole = settings(line, data, seed=1)
    after(kind, "advance", 3)
    with pytest.warns(InterruptedWarning, match=r"SVI: interrupted after [\d,]+ of 400 steps"):
        found = settings(line, data, seed=1)
    done = len(found.info["losses"])
    assert 0 < done < 400 and found.info["losses"] == whole.info["losses"][:done]
    shorter = replace(settings, num_steps=done)(line, data, seed=1)
    assert same_parameters(found, shorter) and not same_parameters(found, whole)
    assert torch.equal(found.draws["slope"], shorter.draws["slope"])
    assert found.info["interrupted"] and not shorter.info["interrupted"]


def test_svi_in_the_middle_of_an_update_returns_to_the_step_before(monkeypatch):
    """An optimizer that is cut off has moved some of the parameters."""
    calls = []

    class Halved(torch.optim.SGD):
        def step(self, closure=None):
            calls.append(1)
            if len(calls) == 30:
                with torch.no_grad():
                    self.param_groups[0]["params"][0].add_(100.0)
                interrupt()
            return super().step(closure)

    settings = replace(SHORT, optimizer=partial(Halved, lr=1e-4))
    with pytest.warns(InterruptedWarning):
        found = settings(line, rows(), seed=1)
    done = len(found.info["losses"])
    assert 0 < done < 30
    calls[:] = [1] * 30
    assert same_parameters(found, replace(settings, num_steps=done)(line, rows(), seed=1))


@pytest.mark.parametrize("method", [NUTS, ChEES])
def test_chains_have_as_many_draws_as_were_made(method, after):
    problem = problems.conjugate_normal()
    settings = method(num_samples=100, num_warmup=60, num_chains=4, compile=False, progress=False)
    if method is NUTS:
        settings = replace(settings, max_tree_depth=3)
    whole = settings(problem.model, problem.data, seed=1)
    after(StepWindows, "__call__", 6 if method is NUTS else 2)
    with pytest.warns(InterruptedWarning, match="of 100 draws per chain"):
        found = settings(problem.model, problem.data, seed=1)
    for name, draws in found.draws.items():
        chains, made = draws.shape[:2]
        assert chains == 4 and 0 < made < 100
        assert torch.equal(draws, whole.draws[name][:, :made])
    assert len(found.info["sample_stats"]["lp"][0]) == made
    assert found.info["interrupted"] and not whole.info["interrupted"]


@pytest.mark.parametrize(
    ("settings", "kind", "name"),
    [
        (NUTS(num_samples=60, num_warmup=500, num_chains=2, compile=False, progress=False), StepWindows, "__call__"),
        (ChEES(num_samples=60, num_warmup=500, num_chains=4, compile=False, progress=False), StepWindows, "prelude"),
        (SHORT, ByLoop, "__init__"),
    ],
)
def test_before_there_is_a_fit_the_interrupt_goes_on(settings, kind, name, after):
    problem = problems.conjugate_normal()
    after(kind, name, 1)
    with pytest.raises(KeyboardInterrupt):
        settings(problem.model, problem.data, seed=1)


def test_maximum_likelihood_is_the_best_point_by_then():
    calls = []

    def normal(x, y=None):
        calls.append(1)
        if len(calls) == limit:
            interrupt()
        loc = pyro.param("loc", lambda: x.new_tensor(30.0))
        log_scale = pyro.param("log_scale", lambda: x.new_tensor(2.0))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(loc, log_scale.exp()), obs=y)

    limit, data = -1, rows()
    whole = MaximumLikelihood()(normal, data, seed=0)
    limit, total = len(calls) - 5, len(calls)
    calls.clear()
    with pytest.warns(InterruptedWarning, match="MaximumLikelihood: interrupted after"):
        found = MaximumLikelihood()(normal, data, seed=0)
    assert len(calls) < total and found.info["interrupted"] and not whole.info["interrupted"]
    values = {name.rsplit(" ")[-1]: float(value.detach()) for name, value in parameters(found.model).items()}
    loc, log_scale = values.values()
    y = data.kwargs["y"]
    expected = float(dist.Normal(y.new_tensor(loc), y.new_tensor(log_scale).exp()).log_prob(y).sum())
    assert found.info["log_likelihood"] == pytest.approx(expected, rel=1e-12)
    assert found.info["log_likelihood"] < whole.info["log_likelihood"]


def test_laplace_takes_the_highest_mode_found(monkeypatch):
    problem = problems.conjugate_normal()
    whole = Laplace(num_samples=5)(problem.model, problem.data, seed=1)
    calls, mode = [], curvature.mode

    def second_is_interrupted(target, start):
        calls.append(1)
        if len(calls) == 2:
            interrupt()
        return mode(target, start)

    monkeypatch.setattr("probmodel.inference.laplace.mode", second_is_interrupted)
    with pytest.warns(InterruptedWarning, match="Laplace: interrupted after 1 of 3 ascents"):
        found = Laplace(num_samples=5)(problem.model, problem.data, seed=1)
    assert found.info["log_joint_at_modes"] == whole.info["log_joint_at_modes"][:1]


def test_an_interrupted_fit_shows(after):
    after(ByLoop, "advance", 2)
    with pytest.warns(InterruptedWarning):
        found = SHORT(line, rows(), seed=1)
    assert ", interrupted: slope" in repr(found) and "interrupted" in found._repr_html_()
    (flagged,) = [each for each in convergence(found) if each.name == "interrupted"]
    assert flagged.flag and "fit again" in flagged.message
    whole = SHORT(line, rows(), seed=1)
    assert "interrupted" not in repr(whole)
    assert "interrupted" not in {each.name for each in convergence(whole)}
