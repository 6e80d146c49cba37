"""Models that own their parameters: copies of a model and its guide that share nothing with the caller or Pyro's store."""

import types
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial, singledispatch
from typing import Any, TypeGuard

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import transform_to
from torch.distributions.constraints import Constraint

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.layers import has_own_guide
from probmodel.protocols.model import Model
from probmodel.tracing.devices import CopiedValues, device_of, on_data_device
from probmodel.tracing.error_messages import translated_errors
from probmodel.tracing.internals import copied_automatic_guide, give_parameter_store, has_own_parameter_store


@singledispatch
def module_of(function: Any) -> nn.Module | None:
    """The module that a model or guide is, or whose method it is; None for a function of its own."""
    return None


@module_of.register
def _(function: nn.Module) -> nn.Module:
    return function


@module_of.register
def _(function: types.MethodType) -> nn.Module | None:
    return module_of(function.__self__)


def reached_modules(function: Any) -> list[nn.Module]:
    """Modules that a model or guide is, is a method of, or reaches by a closure, a module-level name or an attribute."""
    owner = module_of(function)
    if owner is not None:
        return [owner]
    return [value for value in _reached(function) if _is_network(value)]


@singledispatch
def _reached(function: Any) -> list[Any]:
    """Values that a callable object holds."""
    return list(getattr(function, "__dict__", {}).values())


@_reached.register
def _(function: types.FunctionType) -> list[Any]:
    named = [function.__globals__.get(name) for name in function.__code__.co_names]
    return [*named, *(_content(cell) for cell in function.__closure__ or ()), *(function.__defaults__ or ())]


@_reached.register
def _(function: types.MethodType) -> list[Any]:
    return [*_reached(function.__self__), *_reached(function.__func__)]


@_reached.register
def _(function: partial) -> list[Any]:
    return [*reached_modules(function.func), *function.args, *function.keywords.values()]


def _content(cell: types.CellType) -> Any:
    """Content of a closure's cell; None for an empty one, as of a function that names itself before it is bound."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def provide_parameter_stores(*functions: Any) -> None:
    """Give each PyroModule that a function reaches a parameter store of its own, where it was made without one."""
    for function in functions:
        for module in reached_modules(function):
            for part in module.modules():
                if isinstance(part, PyroModule) and not has_own_parameter_store(part):
                    give_parameter_store(part)


def is_parameter(value: Any) -> TypeGuard[nn.Parameter]:
    """Return whether a tensor is one that training changes."""
    return isinstance(value, nn.Parameter)


class _Substituted(Messenger):
    """Supplies the values of `pyro.param` statements, so that the global store is never read."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True


class OwnedFunction(nn.Module):
    """A Pyro function as a module that holds the values of its `pyro.param` statements and the networks it uses."""

    def __init__(
        self, function: Model, networks: Sequence[nn.Module], values: dict[str, tuple[nn.Parameter, Constraint]]
    ) -> None:
        super().__init__()
        self.function = function
        self.networks = nn.ModuleList(networks)
        self.sites = tuple(values)
        self.constraints = tuple(constraint for _, constraint in values.values())
        self.unconstrained = nn.ParameterList(value for value, _ in values.values())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        values = {
            name: transform_to(constraint)(value)
            for name, constraint, value in zip(self.sites, self.constraints, self.unconstrained, strict=True)
        }
        with _Substituted(values):
            return self.function(*args, **kwargs)


def owned_copies(
    model: Model, guide: Model | None, autoguide: Callable[[Model], Model], data: Dataset
) -> tuple[Model, Model, dict[str, Tensor]]:
    """Copies of a model and its guide that own every parameter: fitting them changes nothing the caller holds.

    Call it inside `isolated`.  Networks that a model reaches by attribute, closure or module-level name are copied too,
    and stay shared where model and guide share them.

    Args:
        model: any Pyro model.
        guide: its guide; None means the model's own guide where it has one, else `autoguide(model)`.
        autoguide: function that makes a guide from a model.
        data: data set for one call, so that parameters created on first use exist.

    Returns:
        Model, guide, and their trainable parameters by name.
    """
    memo: dict[int, Any] = {}
    given = model
    model, model_networks = _copy(model, memo)
    provide_parameter_stores(model, *model_networks)
    _move(model, model_networks, data)
    values = _param_statements(model, data, {})
    owned: Model = OwnedFunction(model, model_networks, values) if values or model_networks else model
    guide_networks: list[nn.Module] = []
    if guide is not None:
        guide, guide_networks = _copied_guide(guide, memo, {id(given): owned})
        provide_parameter_stores(guide, *guide_networks)
        _move(guide, guide_networks, data)
    else:
        # An automatic guide runs the model inside a PyroModule, which refuses a `pyro.param` without a supplied value.
        guide = model.guide if has_own_guide(model) else autoguide(owned)
    values = {**values, **_param_statements(guide, data, values)}
    if values or guide_networks:
        guide = OwnedFunction(guide, guide_networks, values)
    return owned, guide, parameters(owned, guide)


def copied(model: Model) -> tuple[Model, list[nn.Module]]:
    """A copy of a model and of the networks it names, which share nothing with the caller's."""
    ours, networks = _copy(model, {})
    provide_parameter_stores(ours, *networks)
    return ours, networks


def copied_to_data(model: Model, data: Dataset) -> Model:
    """The model with the device and dtype of the data: the model itself where they agree already, else a copy."""
    owner = module_of(model)
    if owner is None:
        return model
    device, dtype = _place(data)
    held = [tensor for tensor in owner.state_dict().values() if tensor.is_floating_point()]
    if all(tensor.device == device and dtype in (None, tensor.dtype) for tensor in held):
        return model
    moved = deepcopy(model)
    _move(moved, [], data)
    return moved


def _place(data: Dataset) -> tuple[torch.device, torch.dtype | None]:
    """Device and floating-point dtype of the data; None for the dtype where all tensors are integers."""
    floating = [tensor.dtype for tensor in data.tensors() if tensor.is_floating_point()]
    return device_of(data), floating[0] if floating else None


def _move(function: Model, networks: Sequence[nn.Module], data: Dataset) -> None:
    """Move copied networks to the device and dtype of the data."""
    device, dtype = _place(data)
    for network in (module_of(function), *networks):
        if network is not None:
            network.to(device=device, dtype=dtype)


_Values = dict[str, tuple[nn.Parameter, Constraint]]
"""Name of a `pyro.param` statement → its unconstrained value and its constraint."""


def _param_statements(function: Model, data: Dataset, known: _Values) -> _Values:
    """Values of the `pyro.param` statements of one run that are not known yet, removed from Pyro's store."""
    with (
        translated_errors(data),
        on_data_device(data),
        torch.no_grad(),
        CopiedValues(),
        _Substituted(_constrained(known)),
    ):
        function(*data.args, **data.kwargs)
    return _drain_store()


def _constrained(values: _Values) -> dict[str, Tensor]:
    return {name: transform_to(constraint)(value) for name, (value, constraint) in values.items()}


def _drain_store() -> _Values:
    """Remove and return all values of Pyro's store; a network's own parameters by identity, plain tensors as copies."""
    store = pyro.get_param_store()
    state = store.get_state()
    store.clear()
    return {
        name: (
            value if is_parameter(value) else nn.Parameter(value.detach().clone()),
            state["constraints"][name],
        )
        for name, value in state["params"].items()
    }


def _is_network(value: Any) -> bool:
    return isinstance(value, nn.Module)


def _copied_guide(guide: Model, memo: dict[int, Any], instead: Mapping[int, Model]) -> tuple[Any, list[nn.Module]]:
    """A copy of a guide; an automatic one refers to the models in `instead`, by the id of those it was made from."""
    return (copied_automatic_guide(guide, memo, instead), []) if isinstance(guide, AutoGuide) else _copy(guide, memo)


@singledispatch
def _copy(function: Any, memo: dict[int, Any]) -> tuple[Any, list[nn.Module]]:
    """A deep copy of a module or of its method; a function is rebuilt around copies of the networks that it names."""
    return deepcopy(function, memo), []


@_copy.register
def _(function: types.FunctionType, memo: dict[int, Any]) -> tuple[Any, list[nn.Module]]:
    named = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    networks = {name: deepcopy(value, memo) for name, value in named.items() if _is_network(value)}
    cells = tuple(
        types.CellType(deepcopy(_content(cell), memo)) if _is_network(_content(cell)) else cell
        for cell in function.__closure__ or ()
    )
    copied = types.FunctionType(
        function.__code__, {**function.__globals__, **networks}, function.__name__, function.__defaults__, cells
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied, [*networks.values(), *(_content(c) for c in cells if _is_network(_content(c)))]


def parameters(*owners: Model) -> dict[str, Tensor]:
    """Trainable parameters by name, each once, of a model and a guide that are modules or methods of modules."""
    modules = nn.ModuleDict()
    for name, owner in zip(("model", "guide"), owners, strict=False):
        holder = module_of(owner)
        if holder is not None:
            modules[name] = holder
    return {name: value for name, value in modules.named_parameters() if value.requires_grad}
