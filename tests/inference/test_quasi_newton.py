"""Climbs by L-BFGS that meet what cannot be computed."""

import math

import gpytorch
import pytest
import torch

import probmodel as pb
from probmodel.inference.descent.quasi_newton import maximize
from probmodel.protocols.errors import NotPositiveDefiniteError

DOUBLE = torch.float64


def leaf(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=DOUBLE, requires_grad=True)


def test_a_quadratic_is_climbed_to_its_top_in_place():
    x = leaf(3.0, -2.0)
    found = maximize(lambda: 5.0 - (x - torch.tensor([1.0, 2.0])).square().sum(), [x], max_steps=50, tolerance=1e-12)
    assert torch.allclose(x.detach(), torch.tensor([1.0, 2.0], dtype=DOUBLE), atol=1e-5)
    assert found.converged
    assert abs(found.value - 5.0) < 1e-9


@pytest.mark.parametrize("failure", [math.nan, NotPositiveDefiniteError("none"), torch.linalg.LinAlgError("none")])
def test_a_cliff_beside_the_top_does_not_end_the_climb_early(failure):
    """Beyond x = 30 nothing can be computed; the first step of a line search is as long as the gradient."""
    x, met = leaf(1.0), []

    def value() -> torch.Tensor:
        if float(x.detach()) > 30.0:
            met.append(float(x.detach()))
            if isinstance(failure, Exception):
                raise failure
            return x.sum() * failure
        return -(1.0 + (x - 28.0).square()).sqrt().sum()

    found = maximize(value, [x], max_steps=200, tolerance=1e-9)
    assert met, "the search never met the cliff, so the test says nothing"
    assert abs(float(x.detach()) - 28.0) < 0.05
    assert found.converged


def test_the_tolerance_is_of_the_value_and_not_of_a_share_of_it():
    """From −1 up to 3,000: a share of the first value would be three at the end."""
    x = leaf(-2.0, 2.0)
    found = maximize(
        lambda: 3000.0 - 10 * (100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2), [x], max_steps=500, tolerance=1e-3
    )
    assert found.converged
    assert abs(found.value - 3000.0) < 1e-2


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="tolerance of 0 or more"):
        maximize(lambda: torch.zeros(()), [], max_steps=5, tolerance=-1.0)


def test_other_errors_are_not_swallowed():
    x = leaf(1.0)

    def value() -> torch.Tensor:
        if float(x.detach()) != 1.0:
            raise ValueError("something else")
        return x.sum()

    with pytest.raises(ValueError, match="something else"):
        maximize(value, [x], max_steps=5, tolerance=1e-6)


def test_a_start_that_cannot_be_computed_is_refused():
    x = leaf(-1.0)
    with pytest.raises(ArithmeticError, match="expected a finite value and gradient at the start"):
        maximize(lambda: x.log().sum(), [x], max_steps=5, tolerance=1e-6)


def test_too_few_steps_are_no_end():
    x = leaf(-1.2, 1.0)
    found = maximize(lambda: -(100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2), [x], max_steps=5, tolerance=1e-12)
    assert not found.converged
    assert found.num_steps == 5


@pytest.mark.filterwarnings("ignore:covariance not positive definite")
def test_observations_in_other_units_are_fitted():
    """Raw scales are linear: steps towards a variance a million million times as large overshoot everything else."""
    x = torch.linspace(-1, 1, 15, dtype=DOUBLE)[:, None]
    noise = torch.randn(15, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    y = torch.sin(3 * x[:, 0]) + 0.3 * noise

    def fit(unit: float) -> float:
        process = pb.GaussianProcess(gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel()))
        found = pb.MaximumLikelihood()(process, pb.Dataset((x,), {"y": unit * y}), seed=0)
        return found.info["log_likelihood"] + 15 * math.log(unit)

    best = fit(1.0)
    assert all(fit(unit) > best - 8.0 for unit in (1e2, 1e4, 1e6))
