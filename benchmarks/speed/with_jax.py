"""Log densities of the problems in JAX, and samplers of two jitted phases, shared by the packages that use JAX."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.models import Drawn, Sampler, SamplingProblem, Settings, SVIProblem

Array = Any


def arrays_of(problem: SamplingProblem | SVIProblem) -> list[Array]:
    """Data as arrays of JAX."""
    return [jnp.asarray(tensor.numpy()) for tensor in problem.data.tensors()]


def log_density(problem: SamplingProblem) -> tuple[Callable[[Array], Array], int]:
    """Log joint of flat unconstrained theta in the order of `problem.sites`, hand-written, and its dimension."""
    arrays = arrays_of(problem)

    def normal(x: Array, loc: Any = 0.0, scale: Any = 1.0) -> Array:
        return jnp.sum(-0.5 * ((x - loc) / scale) ** 2)

    def logistic(theta: Array) -> Array:
        features, y = arrays
        logits = features @ theta
        return normal(theta) + jnp.sum(y * logits - jax.nn.softplus(logits))

    def schools(theta: Array) -> Array:
        sigma, y = arrays
        mu, log_tau, eta = theta[0], theta[1], theta[2:]
        tau = jnp.exp(log_tau)
        prior = normal(mu, 0.0, 5.0) - jnp.log1p((tau / 5.0) ** 2) + log_tau + normal(eta)
        return prior + normal(y, mu + tau * eta, sigma)

    def hierarchy(theta: Array) -> Array:
        mu, log_tau, eta = theta[0], theta[1], theta[2:]
        tau = jnp.exp(log_tau)
        prior = normal(mu, 0.0, 5.0) + normal(tau, 0.0, 2.0) + log_tau + normal(eta)
        return prior + normal(arrays[0], mu + tau * eta, 1.0)

    return {
        "logistic": (logistic, 20),
        "eight schools": (schools, 10),
        "hierarchy": (hierarchy, 100),
    }[problem.name]


def two_phases(package: str, name: str, problem: SamplingProblem, settings: Settings, warm: Any, draw: Any) -> Sampler:
    """Sampler of two jitted functions: (keys, starts) → state, and (keys, state) → draws (chain, draw, D)."""
    _, dim = log_density(problem)
    compiled: dict[str, Any] = {}

    def run(seed: int) -> Drawn:
        cost = 0.0
        first, second = jax.random.split(jax.random.PRNGKey(seed))
        starts = jax.random.uniform(jax.random.PRNGKey(seed + 99), (settings.chains, dim), minval=-2.0, maxval=2.0)
        if not compiled:
            begin = time.perf_counter()
            compiled["warm"] = jax.jit(warm).lower(first, starts).compile()
            compiled["draw"] = jax.jit(draw).lower(second, jax.eval_shape(warm, first, starts)).compile()
            cost = time.perf_counter() - begin
            jax.block_until_ready(compiled["draw"](second, compiled["warm"](first, starts)))
        begin = time.perf_counter()
        state = jax.block_until_ready(compiled["warm"](first, starts))
        middle = time.perf_counter()
        draws = np.asarray(compiled["draw"](second, state))
        end = time.perf_counter()
        return Drawn(draws.astype(np.float64), cost, middle - begin, end - middle, end - begin)

    return Sampler(settings.label(name), run, package)
