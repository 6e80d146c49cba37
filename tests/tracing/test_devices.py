"""Models where their data are, and parts of modules as protocols see them."""

import importlib
import inspect
import pkgutil
import sys
from typing import Protocol

import pyro
import pyro.distributions as dist
import pytest
import torch
from gpytorch.kernels import RBFKernel
from torch import nn
from typing_extensions import get_protocol_members

import probmodel as pb
from probmodel.protocols.layers import HasDecision, Representation
from probmodel.protocols.model import Guided
from probmodel.protocols.structural import Structural
from probmodel.tracing.devices import on_data_device, on_device_of, traced_run
from probmodel.tracing.error_messages import translated_errors

ELSEWHERE = torch.device("meta")
"""A device without numbers, which every build of PyTorch has."""


def regression(x: torch.Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(slope * x, 0.5))


def test_priors_of_python_numbers_are_where_the_data_are():
    with pb.isolated(0), pyro.validation_enabled(False):
        there = traced_run(regression, pb.Dataset((torch.zeros(3, device=ELSEWHERE),)))
        here = traced_run(regression, pb.Dataset((torch.zeros(3),)))
    for run, device in ((there, ELSEWHERE), (here, torch.device("cpu"))):
        assert {run.nodes[name]["value"].device for name in ("slope", "y")} == {device}
        assert {run.nodes[name]["fn"].scale.device for name in ("slope", "y")} == {device}


def test_the_default_device_is_as_it_was():
    with on_data_device(pb.Dataset((torch.zeros(3, device=ELSEWHERE),))):
        assert torch.zeros(1).device == ELSEWHERE
    assert torch.zeros(1).device == torch.device("cpu")
    with on_data_device(pb.Dataset()):
        assert torch.zeros(1).device == torch.device("cpu")


def test_errors_name_the_devices():
    data = pb.Dataset((torch.zeros(3),), {"y": torch.zeros(3, device=ELSEWHERE)})
    with pytest.raises(ValueError, match="on cpu and meta"), translated_errors(data):
        raise RuntimeError("expected all tensors on one device")


def test_rows_come_beside_others_where_those_are_in_one_place():
    here, there = pb.Dataset((torch.zeros(3), 2)), pb.Dataset((torch.zeros(2, device=ELSEWHERE),))
    both = pb.Dataset((*here.args, *there.args))
    assert on_device_of(here, there).args[0].device == ELSEWHERE and on_device_of(here, there).args[1] == 2
    assert on_device_of(here, both).args[0].device == torch.device("cpu")
    assert on_device_of(here, pb.Dataset()) == here


def test_scores_are_taken_where_the_fit_is(monkeypatch):
    """Rows of another place are moved before anything looks at them."""
    x = torch.linspace(0, 1, 8)[:, None]
    data = pb.Dataset((x,), {"y": x[:, 0].sin()}, 8)
    with pb.isolated(0):
        fit = pb.SVI(num_steps=5, num_samples=5, progress=False)(slope, data, seed=0)
    moved = []
    for module in ("prediction.predictive", "diagnosis.scored", "diagnosis.diagnose"):
        target = sys.modules[f"probmodel.{module}"]
        monkeypatch.setattr(target, "on_device_of", lambda data, others: moved.append(others) or data)
    pb.diagnose(fit, data)
    pb.predict(fit, x)
    assert len(moved) >= 3 and all(others is fit.data for others in moved[:1])


def slope(x: torch.Tensor, y: torch.Tensor | None = None) -> None:
    weight = pyro.sample("weight", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(weight * x[:, 0], 0.5), obs=y)


def test_a_model_of_one_precision_is_fitted_on_data_of_another():
    x = torch.linspace(0, 1, 12, dtype=torch.float64)[:, None]
    fit = pb.MaximumLikelihood()(pb.GaussianProcess(RBFKernel()), pb.Dataset((x,), {"y": x[:, 0].sin()}), seed=0)
    assert {value.dtype for value in fit.model.parameters()} == {torch.float64}


@pytest.fixture
def looked_up_statically(monkeypatch):
    """`isinstance` of a protocol that never asks `__getattr__`, as from Python 3.12 on."""

    def found(cls, instance):
        return all(inspect.getattr_static(instance, name, None) is not None for name in get_protocol_members(cls))

    monkeypatch.setattr(type(Protocol), "__instancecheck__", found)


class Ends(nn.Module):
    def __init__(self, guide: nn.Module | None) -> None:
        super().__init__()
        self.decision, self.guide = pb.Classify(3, 2), guide


@pytest.mark.usefixtures("looked_up_statically")
def test_submodules_are_parts():
    with pb.isolated(0):
        ends, bare, vae, cnn = Ends(nn.Identity()), Ends(None), pb.VAE(4, 2), pb.CNN(1, 4)
    assert isinstance(ends, HasDecision) and not isinstance(vae, HasDecision)
    assert isinstance(ends, Guided) and not isinstance(bare, Guided) and not isinstance(cnn, Guided)
    assert isinstance(vae, Representation) and not isinstance(cnn, Representation)


def test_every_protocol_that_is_asked_for_sees_parts_of_modules():
    found = [
        protocol
        for module in pkgutil.walk_packages(pb.__path__, "probmodel.")
        for protocol in vars(importlib.import_module(module.name)).values()
        if getattr(protocol, "_is_runtime_protocol", False) and protocol.__module__ == module.name
    ]
    assert len(found) > 20
    assert not [protocol for protocol in found if not isinstance(protocol, Structural)]
