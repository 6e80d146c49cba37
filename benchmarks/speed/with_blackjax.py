"""Samplers of blackjax, written as its users write them."""

from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from blackjax.adaptation.base import get_filter_adapt_info_fn

from benchmarks.speed.models import Contender, Sampler, SamplingProblem, Settings
from benchmarks.speed.with_jax import Array, log_density, two_phases


def nuts(problem: SamplingProblem, settings: Settings) -> Sampler:
    """NUTS of blackjax after its window adaptation, both vmapped over chains; diagonal mass matrix, no history kept."""
    density, _ = log_density(problem)
    adaptation = blackjax.window_adaptation(blackjax.nuts, density, adaptation_info_fn=get_filter_adapt_info_fn())

    def warm(key: Array, starts: Array) -> Any:
        def one(key: Array, start: Array) -> Any:
            (state, parameters), _ = adaptation.run(key, start, settings.warmup)
            return state, {name: parameters[name] for name in ("step_size", "inverse_mass_matrix")}

        return jax.vmap(one)(jax.random.split(key, settings.chains), starts)

    def draw(key: Array, warmed: Any) -> Array:
        def one(key: Array, state: Any, parameters: Any) -> Array:
            kernel = blackjax.nuts(density, **parameters).step

            def step(state: Any, key: Array) -> tuple[Any, Array]:
                state, _ = kernel(key, state)
                return state, state.position

            return jax.lax.scan(step, state, jax.random.split(key, settings.draws))[1]

        return jax.vmap(one)(jax.random.split(key, settings.chains), *warmed)

    return two_phases("blackjax", "blackjax NUTS", problem, settings, warm, draw)


def chees(problem: SamplingProblem, settings: Settings) -> Sampler:
    """ChEES-HMC of blackjax with a pooled diagonal mass matrix, for information only."""
    density, _ = log_density(problem)
    adaptation = blackjax.chees_adaptation(
        density, settings.chains, mass_matrix_estimation="diagonal", adaptation_info_fn=get_filter_adapt_info_fn()
    )

    functions: dict[str, Any] = {}

    def warm(key: Array, starts: Array) -> Any:
        (states, parameters), _ = adaptation.run(key, starts, 0.1, optax.adam(0.05), settings.warmup)
        functions.update({name: value for name, value in parameters.items() if callable(value)})
        return states, {name: value for name, value in parameters.items() if not callable(value)}

    def draw(key: Array, warmed: Any) -> Array:
        states, parameters = warmed
        kernel = blackjax.dynamic_hmc(density, **parameters, **functions).step

        def step(states: Any, key: Array) -> tuple[Any, Array]:
            states, _ = jax.vmap(kernel)(jax.random.split(key, settings.chains), states)
            return states, states.position

        return jax.lax.scan(step, states, jax.random.split(key, settings.draws))[1].swapaxes(0, 1)

    return two_phases("blackjax", "blackjax ChEES", problem, settings, warm, draw)


def hmc(problem: SamplingProblem, chains: int, leapfrogs: int, step_size: float, transitions: int) -> Contender:
    """Vmapped HMC, `transitions` per call; `run(n)` returns the mean log density."""
    density, dim = log_density(problem)
    kernel = blackjax.hmc(density, step_size, jnp.ones(dim), leapfrogs).step
    state = {"hmc": jax.vmap(lambda theta: blackjax.hmc.init(theta, density))(jnp.zeros((chains, dim)))}
    keys = {"next": jax.random.PRNGKey(0)}

    @jax.jit
    def steps(states: Any, key: Array) -> tuple[Any, Array]:
        def step(states: Any, key: Array) -> tuple[Any, Array]:
            states, _ = jax.vmap(kernel)(jax.random.split(key, chains), states)
            return states, states.logdensity.mean()

        states, log_densities = jax.lax.scan(step, states, jax.random.split(key, transitions))
        return states, log_densities.mean()

    def run(n: int) -> float:
        means = []
        for _ in range(n // transitions):
            keys["next"], key = jax.random.split(keys["next"])
            state["hmc"], mean = steps(state["hmc"], key)
            means.append(mean)
        return float(np.mean([float(mean) for mean in means]))

    return Contender("blackjax HMC, vmap", run, 2, transitions)
