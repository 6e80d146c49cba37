"""Protocol of values that a saved fit can hold: they supply the constructor arguments of an equal value."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from probmodel.protocols.structural import Structural


@runtime_checkable
class Serializable(Protocol, metaclass=Structural):
    """A value that is rebuilt from its constructor arguments; parameters and buffers are stored separately."""

    def constructor_arguments(self) -> Mapping[str, Any]:
        """Constructor arguments, by name."""
        ...
