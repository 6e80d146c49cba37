"""Vectorised calls keep to a budget of bytes, and what cannot fit is refused before it is allocated."""

import problems
import pytest
import torch

from probmodel.memory import budget, free_bytes, memory_budget, refuse_above_memory
from probmodel.target import target
from probmodel.tracing import bytes_per_call

CPU = torch.device("cpu")


def test_the_default_budget_is_a_quarter_of_the_free_memory():
    assert 0.8 < budget(CPU) / (free_bytes(CPU) / 4) < 1.25  # Other processes come and go in between.


def test_a_stated_budget_ends_with_its_block_also_after_an_error():
    before = budget(CPU)
    with pytest.raises(KeyError), memory_budget(10):
        assert budget(CPU) == 10
        raise KeyError
    assert budget(CPU) > 0.5 * before


@pytest.mark.parametrize("num_bytes", [0, -5])
def test_a_budget_below_one_byte_is_refused(num_bytes):
    with pytest.raises(ValueError, match="1 byte or more"), memory_budget(num_bytes):
        pass


def test_an_allocation_that_does_not_fit_is_refused_with_its_size_and_a_remedy():
    with pytest.raises(MemoryError, match=r"got a table, which needs 9,000,000,000,000,000; do less"):
        refuse_above_memory(9 * 10**15, CPU, "a table", "do less")
    refuse_above_memory(1, CPU, "a number", "do less")


def test_pointwise_likelihoods_beyond_the_budget_are_refused_before_they_are_computed():
    problem = problems.diabetes_regression()
    density = target(problem.model, problem.data)
    theta = density.sample_prior(100, 0)
    rows = len(problem.data.tensors()[0])
    with memory_budget(100 * rows * 8 - 1), pytest.raises(MemoryError, match="thin them"):
        density.log_likelihood_by_row(theta)
    with memory_budget(100 * rows * 8):
        found = density.log_likelihood_by_row(theta)
    torch.testing.assert_close(found, density.log_likelihood_by_row(theta), rtol=1e-13, atol=1e-13)


def test_a_call_of_one_chunk_needs_no_more_than_its_estimate():
    """The estimate counts every intermediate tensor as if none were freed: an upper limit."""
    problem = problems.diabetes_regression()
    density = target(problem.model, problem.data)
    theta = density.sample_prior(512, 0)
    density.log_joint(theta[:1])
    with torch.profiler.profile(profile_memory=True) as profile:
        density.log_joint(theta)
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 0 < peak <= len(theta) * bytes_per_call(density.log_joint.program)
