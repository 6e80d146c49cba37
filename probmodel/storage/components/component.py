"""A serializable component: a class that a saved fit may name, and how to read its constructor arguments."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Component(NamedTuple):
    """A class, and a function that reads the keyword arguments of an equal value."""

    kind: type
    arguments: Callable[[Any], Mapping[str, Any]]
    constructor: Callable[..., Any] | None = None
    """Function that builds a value from the arguments; None for the class itself."""

    def build(self, **arguments: Any) -> Any:
        """A value of the class from its constructor arguments."""
        return (self.constructor or self.kind)(**arguments)
