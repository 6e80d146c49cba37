"""Parts that the property tests of bad input share: bounded examples, numbers that are not finite, the form of a refusal."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from jaxtyping import TypeCheckError

BOUNDED = settings(derandomize=True, max_examples=25, deadline=None)
BAD = st.sampled_from([float("nan"), float("inf"), float("-inf")])
SEEDS = st.integers(0, 2**31 - 1)


@contextmanager
def refused() -> Iterator[None]:
    """A ValueError that says expected, got and remedy; or a shape refused earlier where annotations are checked."""
    with pytest.raises((ValueError, TypeCheckError)) as caught:
        yield
    if isinstance(caught.value, ValueError):
        assert re.search(r"(?s)expected .+ got.+; .+", str(caught.value)), caught.value
