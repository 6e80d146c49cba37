"""GPyTorch's modules with values in place of their raw parameters, and the priors registered with them."""

from collections.abc import Mapping
from typing import Any

from gpytorch.constraints import Positive
from torch import Tensor, nn

from probmodel.tracing.internals import children_by_name, registered_priors, replace_child, set_plain, shallow_copy


def prior_of(module: Any, name: str) -> tuple[Any, Tensor]:
    """A registered prior, and the current value of the parameter it belongs to."""
    prior, value, _ = registered_priors(module)[name]
    return prior, value(module)


def registered(module: Any) -> Mapping[str, Any]:
    """Priors registered with a module by name, without those of its submodules."""
    return {name: prior for name, (prior, *_) in registered_priors(module).items()}


def substituted(
    module: nn.Module, values: dict[int, dict[str, Tensor]], made: dict[int, nn.Module] | None = None
) -> nn.Module:
    """Shallow copy of a module with constrained values in place of raw parameters, and without constraints on them.

    Args:
        module: module to copy, which is left unchanged; it is returned itself where none of its values change.
        values: values by name of the raw parameter, by `id` of the module that owns it; a module may occur in several
            places.
        made: copies made so far, by `id` of the module copied.
    """
    made = {} if made is None else made
    if id(module) not in made and not any(id(inner) in values for inner in module.modules()):
        made[id(module)] = module
    if id(module) in made:
        return made[id(module)]
    own = values.get(id(module), {})
    made[id(module)] = copied = shallow_copy(module, without=tuple(own))
    for raw, value in own.items():
        set_plain(copied, raw, value)
    constrained = {f"{raw}_constraint" for raw in own}
    for name, child in children_by_name(copied).items():
        if name in constrained:
            replace_child(copied, name, Positive(transform=None))
        elif child is not None:
            replace_child(copied, name, substituted(child, values, made))
    return copied
