"""Protocols whose attributes may be what an `nn.Module` keeps for its instances: submodules, parameters and buffers."""

from typing import Any, Protocol

from typing_extensions import get_protocol_members, is_protocol


class Structural(type(Protocol)):  # type: ignore[misc]  # The metaclass of protocols has no public name.
    """Of protocols with attributes beside methods: an instance is what has them all.

    `isinstance` from Python 3.12 on looks attributes up without `__getattr__`, by which modules give their parts.
    """

    def __instancecheck__(cls, instance: Any) -> bool:
        if not is_protocol(cls):
            return super().__instancecheck__(instance)
        return all(hasattr(instance, name) for name in get_protocol_members(cls))
