"""A model of one latent and its twenty rows, for tests of what happens around a fit."""

import pyro
import pyro.distributions as dist
import torch

from probmodel.protocols.dataset import Dataset
from probmodel.tracing.randomness import isolated


def rows():
    with isolated(0):
        x = torch.randn(20)
        return Dataset((x,), {"y": x + torch.randn(20)}, 20)


def slope(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(a * x, 1.0), obs=y)
