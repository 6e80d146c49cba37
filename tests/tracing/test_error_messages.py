"""A caller's time-out goes through everything that tries another way where a model cannot be traced."""

import signal

import pyro
import pyro.distributions as dist
import pytest
from problems.small_fits import rows, slope

from probmodel.inference import Laplace
from probmodel.protocols.errors import TracingWarning


class OutOfTimeError(Exception):
    """An exception of the caller's own."""


@pytest.mark.parametrize("kind", [TimeoutError, OutOfTimeError, RuntimeError, ValueError])
def test_a_time_out_stops_a_fit_wherever_it_strikes(kind):
    """It was once taken for a failure of tracing, after which the model ran on."""
    calls, data = [], rows()

    def handler(*_):
        raise kind("time is over")

    def model(x, y=None):
        calls.append(1)
        if len(calls) == limit:
            signal.raise_signal(signal.SIGALRM)
        return slope(x, y)

    before, limit = signal.signal(signal.SIGALRM, handler), -1
    try:
        Laplace(num_samples=3)(model, data, seed=0)
        total = len(calls)
        assert total > 3
        for limit in range(1, total + 1):
            calls.clear()
            with pytest.raises(kind, match="time is over"):
                Laplace(num_samples=3)(model, data, seed=0)
            assert len(calls) == limit
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_model_that_cannot_be_traced_still_runs_eagerly():
    """A failure of tracing itself is no time-out."""

    def model(x, y=None):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(a * x + 0 * float(a.detach()), 1.0), obs=y)

    with pytest.warns(TracingWarning, match="runs eagerly"):
        found = Laplace(num_samples=3)(model, rows(), seed=0)
    assert found.info["fallback"]
