"""Protocols whose members may be what an `nn.Module` keeps for its instances: submodules, parameters and buffers."""

from typing import Any, Protocol

from typing_extensions import get_protocol_members, is_protocol

ProtocolMeta: Any = type(Protocol)
"""The metaclass of protocols, which has no public name."""


class Structural(ProtocolMeta):
    """Of protocols that `isinstance` asks for: an instance is what has all members.

    From Python 3.12 on `isinstance` looks them up without `__getattr__`, by which modules give their parts, so that a guide
    that is a module would silently be none.
    """

    def __instancecheck__(self, instance: Any) -> bool:
        if super().__instancecheck__(instance):
            return True
        return is_protocol(self) and all(_has(instance, self, name) for name in get_protocol_members(self))


def _has(instance: Any, protocol: Any, name: str) -> bool:
    """Whether the member is there; a method that is None is not."""
    is_method = callable(vars(protocol).get(name))
    return hasattr(instance, name) and not (is_method and getattr(instance, name) is None)
