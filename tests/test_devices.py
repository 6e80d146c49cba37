"""Models where their data are, and parts of modules as protocols see them."""

import importlib
import inspect
import pkgutil

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import probmodel as pb
from probmodel.protocols import Deciding, Representation
from probmodel.structural import Structural
from probmodel.tracing import explained, placing, run_on

ELSEWHERE = torch.device("meta")
"""A device without numbers, which every build of PyTorch has."""


def regression(x: torch.Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(slope * x, 0.5))


def test_priors_of_python_numbers_are_where_the_data_are():
    with pb.isolated(0), pyro.validation_enabled(False):
        there = run_on(regression, pb.Dataset((torch.zeros(3, device=ELSEWHERE),)))
        here = run_on(regression, pb.Dataset((torch.zeros(3),)))
    for run, device in ((there, ELSEWHERE), (here, torch.device("cpu"))):
        assert {run.nodes[name]["value"].device for name in ("slope", "y")} == {device}
        assert {run.nodes[name]["fn"].scale.device for name in ("slope", "y")} == {device}


def test_the_default_device_is_as_it_was():
    with placing(pb.Dataset((torch.zeros(3, device=ELSEWHERE),))):
        assert torch.zeros(1).device == ELSEWHERE
    assert torch.zeros(1).device == torch.device("cpu")
    with placing(pb.Dataset()):
        assert torch.zeros(1).device == torch.device("cpu")


def test_errors_name_the_devices():
    data = pb.Dataset((torch.zeros(3),), {"y": torch.zeros(3, device=ELSEWHERE)})
    with pytest.raises(ValueError, match="on cpu and meta"), explained(data):
        raise RuntimeError("expected all tensors on one device")


def test_submodules_are_parts():
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decision = pb.Classify(3, 2)

    with pb.isolated(0):
        ends, vae, cnn = Ends(), pb.VAE(4, 2), pb.CNN(1, 4)
    with pytest.raises(AttributeError):
        inspect.getattr_static(ends, "decision")
    assert isinstance(ends, Deciding) and not isinstance(vae, Deciding)
    assert isinstance(vae, Representation) and not isinstance(cnn, Representation)


def test_protocols_with_attributes_see_parts_of_modules():
    checked = 0
    for found in pkgutil.walk_packages(pb.__path__, "probmodel."):
        for protocol in vars(importlib.import_module(found.name)).values():
            if getattr(protocol, "_is_runtime_protocol", False) and protocol.__module__ == found.name:
                attributes = {name for base in protocol.__mro__ for name in vars(base).get("__annotations__", {})}
                checked += bool(attributes)
                assert not attributes or isinstance(protocol, Structural), f"{protocol} asks for {attributes}"
    assert checked > 5
