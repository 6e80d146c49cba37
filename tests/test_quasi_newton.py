"""Climbs by L-BFGS that meet what cannot be computed."""

import math

import gpytorch
import pytest
import torch

import probmodel as pb
from probmodel.gaussian_processes.positive_definite import NotPositiveDefiniteError
from probmodel.inference.chains import ConvergenceWarning
from probmodel.inference.quasi_newton import climbed

DOUBLE = torch.float64


def leaf(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=DOUBLE, requires_grad=True)


def test_a_quadratic_is_climbed_to_its_top_in_place():
    x = leaf(3.0, -2.0)
    found = climbed(lambda: 5.0 - (x - torch.tensor([1.0, 2.0])).square().sum(), [x], max_steps=50, tolerance=1e-12)
    assert torch.allclose(x.detach(), torch.tensor([1.0, 2.0], dtype=DOUBLE), atol=1e-5)
    assert found.settled
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

    found = climbed(value, [x], max_steps=200, tolerance=1e-9)
    assert met, "the search never met the cliff, so the test says nothing"
    assert abs(float(x.detach()) - 28.0) < 0.05
    assert found.settled


def test_other_errors_are_not_swallowed():
    x = leaf(1.0)

    def value() -> torch.Tensor:
        if float(x.detach()) != 1.0:
            raise ValueError("something else")
        return x.sum()

    with pytest.raises(ValueError, match="something else"):
        climbed(value, [x], max_steps=5, tolerance=1e-6)


def test_a_start_that_cannot_be_computed_is_refused():
    x = leaf(-1.0)
    with pytest.raises(ArithmeticError, match="expected a finite value and gradient at the start"):
        climbed(lambda: x.log().sum(), [x], max_steps=5, tolerance=1e-6)


def test_too_few_steps_are_no_end():
    x = leaf(-1.2, 1.0)
    found = climbed(lambda: -(100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2), [x], max_steps=5, tolerance=1e-12)
    assert not found.settled
    assert found.num_steps == 5


@pytest.mark.filterwarnings("ignore:covariance not positive definite")
def test_observations_in_other_units_are_fitted_or_warned_of():
    """Raw scales are linear: a unit a hundred times as small is reached, one a million times as small is warned of."""
    x = torch.linspace(-1, 1, 15, dtype=DOUBLE)[:, None]
    noise = torch.randn(15, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    y = torch.sin(3 * x[:, 0]) + 0.3 * noise

    def fit(unit: float) -> float:
        process = pb.GaussianProcess(gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel()))
        found = pb.MaximumLikelihood()(process, pb.Dataset((x,), {"y": unit * y}), seed=0)
        return found.info["log_likelihood"] + 15 * math.log(unit)

    best = fit(1.0)
    assert fit(100.0) > best - 8.0
    with pytest.warns(ConvergenceWarning, match="raise max_steps, or scale the data"):
        fit(1e6)
