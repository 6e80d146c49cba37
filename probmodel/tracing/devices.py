"""Models and rows on the device of the data."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import nn

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model
from probmodel.tracing.latents.masks import FilledObservations
from probmodel.tracing.programs.turns import one_thread_at_a_time


def device_of(data: Dataset) -> torch.device:
    """Device of the first tensor; the default device for data without tensors."""
    tensors = data.tensors()
    return tensors[0].device if tensors else torch.get_default_device()


def on_device_of(data: Dataset, others: Dataset) -> Dataset:
    """The data on the device of `others`; unchanged where the tensors of `others` are on several devices."""
    devices = {tensor.device for tensor in others.tensors()}
    return data.to(devices.pop()) if len(devices) == 1 else data


@contextmanager
def on_data_device(data: Dataset) -> Iterator[None]:
    """Context for a call of a model: tensors made from Python numbers, as in Normal(0, 1), are on the device of the data.

    On another device than the default one each operation takes some microseconds longer, unless the model is traced; and
    a model with a random number generator of its own has to create it on that device.
    """
    device = device_of(data)
    with nullcontext() if device == torch.get_default_device() else device:
        yield


class CopiedValues(Messenger):
    """Passes copies of initial values to the parameter store, which would set requires_grad on the caller's tensors."""

    def _pyro_param(self, msg: Any) -> None:
        name, *initial = msg["args"]
        plain = (torch.is_tensor(v) and not isinstance(v, nn.Parameter) for v in initial)
        msg["args"] = (name, *(v.detach().clone() if each else v for v, each in zip(initial, plain, strict=True)))


def traced_run(model: Model, data: Dataset) -> poutine.Trace:
    """Trace of one run of a model or guide on its data, with all its sites."""
    with one_thread_at_a_time(), on_data_device(data), CopiedValues(), FilledObservations():
        return poutine.trace(model).get_trace(*data.args, **data.kwargs)
