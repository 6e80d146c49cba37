"""Draws of a guide are made when they are asked for, and are the ones that the seed determines."""

import copy
import subprocess
import sys

import pytest
import torch
from torch.distributions import constraints, identity_transform

from probmodel.inference.guides.draws import DrawsOnRequest
from probmodel.protocols.sites import Latent

FIT = """
import pyro, torch, probmodel as pb
from pyro.distributions import Normal
from probmodel.inference.guides.draws import guide_draws
from probmodel.tracing.randomness import spawn
from probmodel.tracing.sites import sites

rows, runs = torch.randn(40, generator=torch.Generator().manual_seed(0)), []

def model(x):
    with pyro.plate("rows", 40):
        z = pyro.sample("z", Normal(0.0, 1.0))
        pyro.sample("x", Normal(z, 1.0), obs=x)

def guide(x):
    runs.append(1)
    shift = pyro.param("shift", torch.tensor(0.0))
    with pyro.plate("rows", 40):
        pyro.sample("z", Normal(x / 2 + shift, 0.5**0.5))

data = pb.Dataset((rows,), size=40)
settings = pb.SVI(num_steps=3, guide=guide, num_samples=500, compile=False, patience=None, progress=False)
fit = settings(model, data, seed=4)
before = len(runs)
print(len(fit.draws), "z" in fit.draws, list(fit.draws), "(1, 500, 40)" in repr(fit), len(runs) - before)
torch.manual_seed(99)
state = torch.get_rng_state()
z = fit.draws["z"]
kept = torch.equal(torch.get_rng_state(), state)
eager = guide_draws(fit.guide, data, sites(fit.model, data).latents, 500, spawn(4, 2))["z"]
print(torch.equal(z, eager), fit.draws["z"] is z, kept, len(pyro.get_param_store()))
error = (z[0].mean(0) - rows / 2).abs().max() / (0.5 / 500) ** 0.5
print(float(error) < 4.5)
"""


def test_a_fit_makes_no_draws_before_they_are_asked_for_and_then_those_of_its_seed():
    done = subprocess.run([sys.executable, "-c", FIT], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    size, state, right = done.stdout.splitlines()
    assert size == "1 True ['z'] True 0"
    assert state == "True True True 0"
    assert right == "True"


def test_draws_on_request_are_a_mapping_that_is_made_once():
    made = []

    def make():
        made.append(1)
        return {"a": torch.zeros(1, 5, 2), "b": torch.ones(1, 5)}

    shapes = {"a": torch.Size((2,)), "b": torch.Size(())}
    latents = tuple(
        Latent(name, shape, shape, identity_transform, constraints.real, 0, None, torch.zeros(shape))
        for name, shape in shapes.items()
    )
    draws = DrawsOnRequest(latents, 5, make)
    assert list(draws) == ["a", "b"] and len(draws) == 2 and "a" in draws and "c" not in draws
    with pytest.raises(KeyError):
        _ = draws["c"]
    assert draws.shapes == {"a": (1, 5, 2), "b": (1, 5)} and not made
    assert {name: value.shape for name, value in draws.items()} == draws.shapes
    assert draws == {"a": draws["a"], "b": draws["b"]} and made == [1]


def test_draws_of_data_that_have_been_changed_since_are_refused_and_copies_hold_theirs():
    source = torch.zeros(3)
    latent = Latent("a", torch.Size(()), torch.Size(()), identity_transform, constraints.real, 0, None, torch.zeros(()))
    draws = DrawsOnRequest((latent,), 5, lambda: {"a": source.sum().expand(1, 5)}, [source])
    again = copy.deepcopy(draws)
    assert torch.equal(again["a"], torch.zeros(1, 5)) and "(1, 5)" in repr(again)
    late = DrawsOnRequest((latent,), 5, lambda: {"a": source.sum().expand(1, 5)}, [source])
    source.add_(1)
    with pytest.raises(ValueError, match="changed in place since"):
        _ = late["a"]
    assert torch.equal(draws["a"], torch.zeros(1, 5))
