"""Checks that a PyTorch optimizer suits a fit."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from probmodel.tracing.internals import has_post_step_hooks

RECIPE = "return the optimizer alone, after optimizer.register_step_post_hook(lambda *_: scheduler.step())"
"""Remedy for a learning-rate schedule that is not stepped."""


def optimizer_of(make: Callable[[list[Tensor]], Optimizer], leaves: Mapping[str, Tensor]) -> Optimizer:
    """Optimizer of these parameters, checked to suit a fit.

    Args:
        make: parameters → torch optimizer of all of them.
        leaves: parameters by name.

    Raises:
        ValueError: where `make` is not a function of parameters, or makes an optimizer that leaves some of them out,
            holds others, needs a closure, or has a schedule without a hook after its steps.  A `ReduceLROnPlateau`
            leaves no trace on its optimizer and is not detected.
    """
    _check_maker(make)
    optimizer = make(list(leaves.values()))
    _check_kind(optimizer)
    _check_held(optimizer, leaves)
    if any("initial_lr" in group for group in optimizer.param_groups) and not has_post_step_hooks(optimizer):
        raise ValueError(
            f"expected a schedule stepped by a hook, got {_name(optimizer)} with one attached that has none; {RECIPE}"
        )
    return optimizer


def _name(optimizer: Any) -> str:
    return type(optimizer).__name__


def _check_maker(make: Any) -> None:
    expected = "expected a function of parameters that makes a torch optimizer"
    if isinstance(make, PyroOptim):
        inner: Any = make.pt_optim_constructor
        settings = make.pt_optim_args if isinstance(make.pt_optim_args, Mapping) else {}
        given = "".join(f", {name}={value!r}" for name, value in settings.items())
        raise ValueError(
            f"{expected}, got pyro.optim's wrapper of {inner.__name__}; pass partial({inner.__module__}.{inner.__name__}{given})"
        )
    if isinstance(make, Optimizer):
        rate = make.defaults.get("lr", 1e-3)
        raise ValueError(
            f"{expected}, got {_name(make)} of parameters chosen before; pass partial(torch.optim.{_name(make)}, lr={rate})"
        )
    if not callable(make):
        raise ValueError(
            f"{expected}, got {make!r}; pass partial(torch.optim.Adam, lr=0.003), or leave the optimizer out"
        )


def _check_kind(optimizer: Any) -> None:
    if isinstance(optimizer, tuple | list | LRScheduler):
        raise ValueError(f"expected one torch optimizer, got a {_name(optimizer)}; {RECIPE}")
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            f"expected a torch optimizer, got {_name(optimizer)} from optimizer(parameters); return the optimizer"
        )
    _, *arguments = inspect.signature(type(optimizer).step).parameters.values()
    needed = [each.name for each in arguments if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
    if needed:
        raise ValueError(
            f"expected an optimizer that steps by one gradient, got {_name(optimizer)}, whose step needs a {needed[0]}; take "
            "torch.optim.Adam, or Laplace for a mode"
        )


def _check_held(optimizer: Optimizer, leaves: Mapping[str, Tensor]) -> None:
    held = [leaf for group in optimizer.param_groups for leaf in group["params"]]
    known, ids = {id(leaf) for leaf in leaves.values()}, {id(leaf) for leaf in held}
    unexpected = [tuple(leaf.shape) for leaf in held if id(leaf) not in known]
    if unexpected:
        raise ValueError(
            f"expected an optimizer of the parameters given to it, which are copies of the model's, got others "
            f"of shapes {unexpected[:3]}; pass on what it is called with, as partial(torch.optim.Adam, lr=0.003) does"
        )
    missed = [name for name, leaf in leaves.items() if id(leaf) not in ids]
    if missed:
        raise ValueError(
            f"expected an optimizer of all {len(leaves)} parameters, got one without {missed[:5]}; give it all, and fix "
            "those of a network by requires_grad_(False)"
        )
