"""Coverage of the evidence by intervals and bounds over seeds, and the verdict on it."""

import pytest

from benchmarks.evidence.coverage import coverage, is_conservative, is_within


def test_coverage_is_within_range_but_for_chance():
    row = {"runs": 200, "coverage": 0.95, "above_lower": 0.02, "below_upper": 0.025}
    assert is_within(row)
    assert not is_within(row | {"coverage": 0.85})
    assert is_within(row | {"coverage": 0.90})
    assert not is_within(row | {"below_upper": 0.08})
    assert not is_within(row | {"above_lower": 0.08})
    assert is_conservative(row | {"runs": 400, "coverage": 1.0})
    assert not is_conservative(row)


def test_intervals_and_bounds_cover_the_evidence_of_small_problems():
    """One dimension, a few seeds; `python -m benchmarks.evidence --coverage` has all problems over 200."""
    (found, *others) = coverage("rastrigin_1", 2)
    assert found["method"] == "sandwich"
    assert found["within"]
    assert found["refused"] == 0
    assert abs(found["mean_error"]) < 4 * found["stderr"] + 1e-3
    assert {"ais", "smc"} <= {row["method"] for row in others}


@pytest.mark.parametrize("name", ["outlier", "rosenbrock_2", "rastrigin_1", "two outliers"])
def test_intervals_and_bounds_cover_the_evidence_over_twenty_seeds(name):
    found = coverage(name, 20)[0]
    assert found["within"]
    assert found["refused"] <= 0.2
