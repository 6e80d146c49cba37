"""Metaclass of protocols whose members may be submodules, parameters or buffers of an `nn.Module`."""

from typing import Any, Protocol

from typing_extensions import get_protocol_members, is_protocol

ProtocolMeta: Any = type(Protocol)
"""The metaclass of protocols, which has no public name."""


class Structural(ProtocolMeta):
    """Metaclass of runtime-checkable protocols: an instance is any object that has all members.

    From Python 3.12 on `isinstance` looks members up without `__getattr__`, through which modules expose their submodules,
    so that a guide that is a module would not be recognized.
    """

    def __instancecheck__(self, instance: Any) -> bool:
        if super().__instancecheck__(instance):
            return True
        return is_protocol(self) and all(_has(instance, self, name) for name in get_protocol_members(self))


def _has(instance: Any, protocol: Any, name: str) -> bool:
    """Return whether an object has a member of a protocol; a method set to None does not count."""
    is_method = callable(vars(protocol).get(name))
    return hasattr(instance, name) and not (is_method and getattr(instance, name) is None)
