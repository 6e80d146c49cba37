"""What Pyro, PyTorch and GPyTorch keep private and other rooms have to ask: one function for each question."""

from collections.abc import Mapping
from typing import Any

from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor, nn
from torch.optim import Optimizer


def is_subsample(distribution: Any) -> bool:
    """Whether a site is the one by which a plate draws its rows; its log-probability belongs to no model."""
    return isinstance(distribution, _Subsample)


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Whether anything else runs before or after its steps."""
    return bool(optimizer._optimizer_step_pre_hooks) or has_post_step_hooks(optimizer)


def has_post_step_hooks(optimizer: Optimizer) -> bool:
    """Whether anything else runs after its steps."""
    return bool(optimizer._optimizer_step_post_hooks)


def registered_priors(module: Any) -> Mapping[str, tuple[Any, Any, Any]]:
    """Name → (prior, function of the module that reads the value, function that sets it) of a GPyTorch module's own priors.

    `named_priors` leaves out the second of two parameters that share one prior object.
    """
    return module._priors


def constraint_transform(constraint: Any) -> Any:
    """The transform of a GPyTorch constraint."""
    return constraint._transform


def shallow_copy(module: nn.Module, without: tuple[str, ...] = ()) -> nn.Module:
    """A module that shares all it holds with the original; its own tables of parameters and submodules can be changed.

    Args:
        module: left as it is.
        without: names of parameters that the copy does not have.
    """
    # GPyTorch's modules share all they hold with what `copy` makes of them.
    copied = object.__new__(type(module))
    copied.__dict__.update(module.__dict__)
    kept = {name: value for name, value in module._parameters.items() if name not in without}
    copied.__dict__.update(_parameters=kept, _modules=dict(module._modules))
    return copied


def set_plain(module: nn.Module, name: str, value: Tensor) -> None:
    """Give a module a tensor that is neither a parameter nor a buffer."""
    module.__dict__[name] = value


def children_by_name(module: nn.Module) -> Mapping[str, nn.Module | None]:
    """Every name of a submodule; `named_children` leaves out the second name of one that stands in two places."""
    return dict(module._modules)


def replace_child(module: nn.Module, name: str, child: nn.Module) -> None:
    """Put another submodule in the place of one, past what the module's class does on assignment."""
    module._modules[name] = child
