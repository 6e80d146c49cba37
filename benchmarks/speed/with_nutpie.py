"""NUTS of nutpie, written as its users write it."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import nutpie
from nutpie.compiled_pyfunc import from_pyfunc

from benchmarks.speed.models import Drawn, Sampler, SamplingProblem, Settings
from benchmarks.speed.with_jax import log_density


def nuts(problem: SamplingProblem, settings: Settings) -> Sampler:
    """NUTS of nutpie, in Rust, calling a jitted value and gradient through Python."""
    density, dim = log_density(problem)
    value_and_gradient = jax.jit(jax.value_and_grad(density))
    begin = time.perf_counter()
    jax.block_until_ready(value_and_gradient(jnp.zeros(dim)))
    compiling = [time.perf_counter() - begin]

    def make_logp() -> Callable[..., tuple[float, np.ndarray]]:
        def logp(theta: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = value_and_gradient(theta.astype(np.float32))
            return float(value), np.asarray(gradient, dtype=np.float64)

        return logp

    def make_expand(*_: Any) -> Callable[..., dict[str, np.ndarray]]:
        return lambda theta: {"theta": np.asarray(theta, dtype=np.float64)}

    model = from_pyfunc(dim, make_logp, make_expand, [np.dtype(np.float64)], [(dim,)], ["theta"])

    def run(seed: int) -> Drawn:
        begin = time.perf_counter()
        trace = nutpie.sample(
            model, draws=settings.draws, tune=settings.warmup, chains=settings.chains, seed=seed, progress_bar=False
        )
        total = time.perf_counter() - begin
        draws = np.asarray(trace.posterior["theta"])
        return Drawn(draws, compiling.pop() if compiling else 0.0, float("nan"), float("nan"), total)

    return Sampler(settings.label("nutpie NUTS, jax"), run, "nutpie")
