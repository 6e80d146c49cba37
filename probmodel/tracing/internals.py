"""Access to private attributes of Pyro, PyTorch and GPyTorch that other rooms need: one function for each."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple
from unittest.mock import patch

import pyro.distributions
from pyro import infer, poutine
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer


class Validation(NamedTuple):
    """Switches of the checks of distributions, of estimators and of handlers; PyTorch and Pyro each have one of the first."""

    torch: bool
    pyro: bool
    infer: bool
    handlers: bool


def validation() -> Validation:
    """The switches as they are."""
    return Validation(
        Distribution._validate_args,
        pyro.distributions.is_validation_enabled(),
        infer.is_validation_enabled(),
        poutine.is_validation_enabled(),
    )


def set_validation(switches: Validation) -> None:
    """Set all switches."""
    pyro.distributions.enable_validation(switches.pyro)  # It sets PyTorch's as well.
    infer.enable_validation(switches.infer)
    poutine.enable_validation(switches.handlers)
    Distribution.set_default_validate_args(switches.torch)


@contextmanager
def values_unchecked() -> Iterator[None]:
    """Context in which no distribution checks its values, which a graph cannot read.

    Distributions made before the run, such as the priors of a PyroModule, have been told to check them.
    """
    with patch.object(Distribution, "_validate_sample", lambda fn, value: None):
        yield


@contextmanager
def unrecorded() -> Iterator[None]:
    """Context whose operations are no part of a graph that is being recorded, so that they may read values."""
    with disable_proxy_modes_tracing():
        yield


def is_subsample(distribution: Any) -> bool:
    """Return whether a distribution is that of the site by which a plate draws its rows, which is no part of the model."""
    return isinstance(distribution, _Subsample)


def is_deterministic(node: Mapping[str, Any]) -> bool:
    """Return whether a site is a `pyro.deterministic` statement, which Pyro records as an observation."""
    return bool((node["infer"] or {}).get("_deterministic"))


@contextmanager
def plates_counted_by_integers() -> Iterator[None]:
    """Context in which a loop over a plate takes its indices as a list, since a graph cannot read them from a tensor."""
    iterate = IndepMessenger.__iter__

    def iterated(plate: Any) -> Iterator[Any]:
        with disable_proxy_modes_tracing():
            plate._indices = plate.indices.tolist()
        return iterate(plate)

    with patch.object(IndepMessenger, "__iter__", iterated):
        yield


def mask_of(distribution: Any) -> Any:
    """The mask of a distribution made by `.mask(...)`: a tensor, a bool, or None without one."""
    return getattr(distribution, "_mask", None)


def has_own_parameter_store(module: Any) -> bool:
    """Return whether a PyroModule was made with a parameter store of its own."""
    return hasattr(module._pyro_context, "param_state")


def give_parameter_store(module: Any) -> None:
    """Give a PyroModule that shares Pyro's global parameter store an empty one of its own."""
    module._pyro_context.param_state = {"params": {}, "constraints": {}}


def copied_automatic_guide(guide: AutoGuide, memo: dict[int, Any], instead: Mapping[int, Any]) -> AutoGuide:
    """A deep copy of an automatic guide and its parts.

    Pyro's own copy has no model to set itself up from, and takes the model away from the original too.

    Args:
        guide: automatic guide; it stays unchanged.
        memo: objects copied already, as for `copy.deepcopy`.
        instead: id of a model → the model that the copy refers to in its place.
    """
    parts = [part for part in guide.modules() if isinstance(part, AutoGuide)]
    kept = [(part._model, part.master) for part in parts]
    try:
        copied = deepcopy(guide, memo)
    finally:
        for part, (model, master) in zip(parts, kept, strict=True):
            part._model, part.master = model, master
    copies = [part for part in copied.modules() if isinstance(part, AutoGuide)]
    for part, (model, _) in zip(copies, kept, strict=True):
        part._model = (instead.get(id(model[0]), model[0]),)
    return copied


def uses_batch_statistics(module: Any) -> bool:
    """Return whether a module normalizes rows by the statistics of their batch."""
    return isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)


def number_of_changes(tensor: Tensor) -> int:
    """Number of in-place changes of a tensor; 0 for one of inference mode, which does not count them."""
    return 0 if tensor.is_inference() else tensor._version


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Return whether an optimizer has hooks that run before or after its steps."""
    return bool(optimizer._optimizer_step_pre_hooks) or has_post_step_hooks(optimizer)


def has_post_step_hooks(optimizer: Optimizer) -> bool:
    """Return whether an optimizer has hooks that run after its steps."""
    return bool(optimizer._optimizer_step_post_hooks)


def registered_priors(module: Any) -> Mapping[str, tuple[Any, Any, Any]]:
    """Priors of a GPyTorch module itself: name → (prior, function that reads the value, function that sets it).

    `named_priors` leaves out the second of two parameters that share one prior object.
    """
    return module._priors


def constraint_transform(constraint: Any) -> Any:
    """The transform of a GPyTorch constraint."""
    return constraint._transform


def shallow_copy(module: nn.Module, without: tuple[str, ...] = ()) -> nn.Module:
    """A copy of a module that shares its tensors and submodules but has its own tables of parameters and submodules.

    Args:
        module: module to copy; it stays unchanged.
        without: names of parameters that the copy does not have.
    """
    # With `copy.copy` GPyTorch's modules share these tables too.
    copied = object.__new__(type(module))
    copied.__dict__.update(module.__dict__)
    kept = {name: value for name, value in module._parameters.items() if name not in without}
    copied.__dict__.update(_parameters=kept, _modules=dict(module._modules))
    return copied


def set_plain(module: nn.Module, name: str, value: Tensor) -> None:
    """Set an attribute of a module to a tensor that is neither a parameter nor a buffer."""
    module.__dict__[name] = value


def children_by_name(module: nn.Module) -> Mapping[str, nn.Module | None]:
    """Submodules by name; `named_children` leaves out the second name of a submodule with two names."""
    return dict(module._modules)


def replace_child(module: nn.Module, name: str, child: nn.Module) -> None:
    """Replace a submodule without what the module's class does on assignment."""
    module._modules[name] = child
