"""Other packages' contenders in the speed tables: Pyro, NumPyro, blackjax and nutpie, each as its own users write it.

The JAX packages are the extra `peers`; XLA sees two host devices, so that NumPyro's parallel chains have one each.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from speed_models import CHANNELS, CODE, Contender, Drawn, Sampler, SamplingProblem, SVIProblem, batches

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

try:
    import blackjax
    import jax
    import jax.flatten_util
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as ndist
    import nutpie
    import optax
    from blackjax.adaptation.base import get_filter_adapt_info_fn
    from numpyro.infer.autoguide import AutoNormal as NumPyroAutoNormal
    from nutpie.compiled_pyfunc import from_pyfunc
except ImportError as error:
    raise ImportError(
        f"expected the packages of the comparison, got: {error}; pip install 'probmodel[peers]' (jax, numpyro, blackjax, nutpie)"
    ) from error

Array = Any


class Settings(NamedTuple):
    """Chains, and draws of each that adapt and that are kept."""

    chains: int
    warmup: int
    draws: int


# ---------------------------------------------------------------------------------------------- Pyro


def pyro_svi(problem: SVIProblem, threads: int = 2) -> Contender:
    """`pyro.infer.SVI` with `Trace_ELBO`, argument checks turned off; minibatches by index."""
    store = pyro.get_param_store()
    with store.scope() as kept:
        guide = problem.guide or AutoNormal(problem.model)
        optimizer = pyro.optim.Adam({"lr": problem.learning_rate})
        svi = SVI(problem.model, guide, optimizer, Trace_ELBO())
    rows = problem.data.size or 1
    state = {"store": kept}
    generator = np.random.default_rng(0)

    def run(n: int) -> float:
        total = 0.0
        with store.scope(state["store"]) as kept, pyro.validation_enabled(False):
            if problem.batch_size is None:
                for _ in range(n):
                    total += svi.step(*problem.data.args, **problem.data.kwargs) / rows
            else:
                for index in torch.from_numpy(batches(problem, n, generator)):
                    batch = problem.data.rows(index)
                    total += svi.step(*batch.args, **batch.kwargs) / problem.batch_size
            state["store"] = kept
        return total / n

    return Contender(f"Pyro, {threads} threads", run, threads)


def pyro_nuts(problem: SamplingProblem, settings: Settings) -> Sampler:
    """Pyro's own NUTS, argument checks turned off, one thread; nothing to compile."""

    def run(seed: int) -> Drawn:
        stamps: list[float] = []
        pyro.set_rng_seed(seed)
        pyro.clear_param_store()

        def stamp(_: Any, __: Any, stage: str, ___: Any) -> None:
            if stage.startswith("Sample") and not stamps:
                stamps.append(time.perf_counter())

        chains = []
        warmup = 0.0
        begin = time.perf_counter()
        for _ in range(settings.chains):
            stamps.clear()
            started = time.perf_counter()
            with pyro.validation_enabled(False):
                mcmc = MCMC(
                    NUTS(problem.model),
                    num_samples=settings.draws,
                    warmup_steps=settings.warmup,
                    disable_progbar=True,
                    hook_fn=stamp,
                )
                mcmc.run(*problem.data.args, **problem.data.kwargs)
            warmup += stamps[0] - started
            chains.append({name: value.numpy() for name, value in mcmc.get_samples().items()})
        total = time.perf_counter() - begin
        draws = {name: np.stack([chain[name] for chain in chains]) for name in chains[0]}
        return Drawn(problem.flat(draws), 0.0, warmup, total - warmup, total)

    return Sampler(_label("Pyro NUTS", settings), run, "pyro", 1)


# ---------------------------------------------------------------------------------------------- models in NumPyro


def _logistic(features: Array, y: Array) -> None:
    beta = numpyro.sample("beta", ndist.Normal(jnp.zeros(features.shape[1]), 1.0).to_event(1))
    with numpyro.plate("rows", len(features)):
        numpyro.sample("y", ndist.Bernoulli(logits=features @ beta), obs=y)


def _eight_schools(sigma: Array, y: Array) -> None:
    mu = numpyro.sample("mu", ndist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", ndist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(sigma)):
        eta = numpyro.sample("eta", ndist.Normal(0.0, 1.0))
        numpyro.sample("y", ndist.Normal(mu + tau * eta, sigma), obs=y)


def _hierarchy(y: Array) -> None:
    mu = numpyro.sample("mu", ndist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", ndist.HalfNormal(2.0))
    with numpyro.plate("groups", y.shape[1]):
        eta = numpyro.sample("eta", ndist.Normal(0.0, 1.0))
        with numpyro.plate("values", len(y)):
            numpyro.sample("y", ndist.Normal(mu + tau * eta, 1.0), obs=y)


_MODELS = {"logistic": _logistic, "eight schools": _eight_schools, "hierarchy": _hierarchy}


def _dense(parameters: Array, x: Array) -> Array:
    return x @ parameters["weight"].T + parameters["bias"]


def _convolve(parameters: Array, x: Array) -> Array:
    """Stride 2, kernel 4, padding 1, channels last."""
    out = jax.lax.conv_general_dilated(
        x, parameters["weight"], (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return out + parameters["bias"]


def _convolve_back(parameters: Array, x: Array) -> Array:
    out = jax.lax.conv_general_dilated(
        x,
        parameters["weight"],
        (1, 1),
        ((2, 2), (2, 2)),
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return out + parameters["bias"]


def _encode_mlp(p: Array, x: Array) -> tuple[Array, Array]:
    h = jax.nn.relu(_dense(p["hidden"], x))
    return _dense(p["loc"], h), _dense(p["log_scale"], h)


def _decode_mlp(p: Array, z: Array) -> Array:
    return _dense(p["logits"], jax.nn.relu(_dense(p["hidden"], z)))


def _encode_cnn(p: Array, x: Array) -> tuple[Array, Array]:
    h = jax.nn.relu(_convolve(p["first"], x.reshape(-1, 28, 28, 1)))
    h = jax.nn.relu(_convolve(p["second"], h)).reshape(len(x), -1)
    return _dense(p["loc"], h), _dense(p["log_scale"], h)


def _decode_cnn(p: Array, z: Array) -> Array:
    h = jax.nn.relu(_dense(p["hidden"], z)).reshape(-1, 7, 7, CHANNELS[1])
    return _convolve_back(p["second"], jax.nn.relu(_convolve_back(p["first"], h))).reshape(len(z), -1)


def _parameters(network: torch.nn.Module) -> dict[str, dict[str, np.ndarray]]:
    """A torch network's weights in JAX's layouts; features of a flattened image stay channels first, a mere relabelling."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, layer in network.named_children():
        weight = layer.weight.detach().numpy().copy()
        if isinstance(layer, torch.nn.Conv2d):
            weight = weight.transpose(2, 3, 1, 0).copy()
        if isinstance(layer, torch.nn.ConvTranspose2d):
            weight = weight[:, :, ::-1, ::-1].transpose(2, 3, 0, 1).copy()
        found[name] = {"weight": weight, "bias": layer.bias.detach().numpy().copy()}
    return found


def _vae(problem: SVIProblem) -> tuple[Callable[..., None], Callable[..., None]]:
    vae = problem.model.__self__  # type: ignore[attr-defined]
    convolutional = problem.name.startswith("CNN")
    encode, decode = (_encode_cnn, _decode_cnn) if convolutional else (_encode_mlp, _decode_mlp)
    first_encoder, first_decoder = _parameters(vae.encoder), _parameters(vae.decoder)

    def model(x: Array) -> None:
        decoder = numpyro.module("decoder", (lambda *_: (None, first_decoder), decode), (CODE,))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", ndist.Normal(jnp.zeros((len(x), CODE)), 1.0).to_event(1))
            numpyro.sample("x", ndist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Array) -> None:
        encoder = numpyro.module("encoder", (lambda *_: (None, first_encoder), encode), (len(x), 784))
        with numpyro.plate("rows", len(x)):
            loc, log_scale = encoder(x)
            numpyro.sample("z", ndist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    return model, guide


# ---------------------------------------------------------------------------------------------- NumPyro


def numpyro_svi(problem: SVIProblem, chunk: int) -> Contender:
    """`svi.update` inside one jitted `lax.scan` of `chunk` steps, minibatches gathered inside it.

    With chunk 1 each step is one jitted call: XLA's convolutions on a CPU are some eight times slower inside a scan.
    """
    arrays = [jnp.asarray(tensor.numpy()) for tensor in problem.data.tensors()]
    optimizer = numpyro.optim.Adam(problem.learning_rate)
    generator = np.random.default_rng(0)
    rows = problem.data.size or 1
    size = problem.batch_size
    if size is None:
        model = _MODELS[problem.name]
        svi = numpyro.infer.SVI(model, NumPyroAutoNormal(model), optimizer, numpyro.infer.Trace_ELBO())
        first = arrays
    else:
        svi = numpyro.infer.SVI(*_vae(problem), optimizer, numpyro.infer.Trace_ELBO())
        first = [arrays[0][:size]]
    state = {"svi": svi.init(jax.random.PRNGKey(0), *first)}

    @partial(jax.jit, donate_argnums=0)
    def steps(state: Any, arrays: list[Array], order: Array) -> tuple[Any, Array]:
        def step(state: Any, index: Array) -> tuple[Any, Array]:
            return svi.update(state, *(arrays if size is None else [arrays[0][index]]))

        if chunk == 1:
            state, losses = step(state, None if order is None else order[0])
        else:
            state, losses = jax.lax.scan(step, state, order, length=chunk)
        return state, losses.mean() / (size or rows)

    def run(n: int) -> float:
        means = []
        order = None if size is None else batches(problem, n, generator).reshape(-1, chunk, size)
        for number in range(n // chunk):
            rows_of_chunk = None if order is None else order[number]
            state["svi"], mean = steps(state["svi"], arrays, rows_of_chunk)
            means.append(mean)
        return float(np.mean([float(mean) for mean in means]))

    return Contender("NumPyro, scan" if chunk > 1 else "NumPyro, step by step", run, 2, chunk)


def numpyro_nuts(problem: SamplingProblem, settings: Settings, chain_method: str) -> Sampler:
    """NumPyro's NUTS through its functional kernel: `MCMC.run` would compile for seconds again at each seed.

    Args:
        problem: what to sample.
        settings: chains and draws.
        chain_method: as NumPyro calls it: "sequential", "vectorized", or "parallel" over the two host devices.
    """
    arrays = [jnp.asarray(tensor.numpy()) for tensor in problem.data.tensors()]
    found = numpyro.infer.util.initialize_model(jax.random.PRNGKey(0), _MODELS[problem.name], model_args=tuple(arrays))
    init, sample = numpyro.infer.hmc.hmc(found.potential_fn, algo="NUTS")
    _, parts = jax.flatten_util.ravel_pytree(tuple(found.param_info.z[site] for site in problem.sites))
    each = {"sequential": jax.lax.map, "vectorized": _vmapped, "parallel": _on_devices}[chain_method]

    def warm(key: Array, starts: Array) -> Any:
        def one(inputs: Any) -> Any:
            key, start = inputs
            state = init(dict(zip(problem.sites, parts(start), strict=True)), settings.warmup, rng_key=key)
            return jax.lax.fori_loop(0, settings.warmup, lambda _, state: sample(state), state)

        return each(one, (jax.random.split(key, settings.chains), starts))

    def draw(key: Array, states: Any) -> Array:
        def step(state: Any, _: None) -> tuple[Any, Array]:
            state = sample(state)
            return state, jnp.concatenate([jnp.ravel(state.z[site]) for site in problem.sites])

        del key  # The kernel's state holds it.
        return each(lambda state: jax.lax.scan(step, state, None, settings.draws)[1], states)

    sampler = _two_phases(f"NumPyro NUTS {chain_method}", problem, settings, warm, draw)
    return sampler._replace(package="numpyro")


def _vmapped(function: Callable[[Any], Any], inputs: Any) -> Any:
    return jax.vmap(function)(inputs)


def _on_devices(function: Callable[[Any], Any], inputs: Any) -> Any:
    """One chain after the other on each host device."""
    mesh = jax.make_mesh((len(jax.devices()),), ("chain",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("chain")
    mapped = jax.shard_map(
        lambda shard: jax.lax.map(function, shard), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    return mapped(inputs)


# ---------------------------------------------------------------------------------------------- densities for blackjax


def log_density(problem: SamplingProblem) -> tuple[Callable[[Array], Array], int]:
    """The log joint on flat unconstrained theta in `problem.sites` order, by hand, and its dimension."""
    arrays = [jnp.asarray(tensor.numpy()) for tensor in problem.data.tensors()]

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


def _starts(seed: int, settings: Settings, dim: int) -> Array:
    return jax.random.uniform(jax.random.PRNGKey(seed + 99), (settings.chains, dim), minval=-2.0, maxval=2.0)


def _two_phases(name: str, problem: SamplingProblem, settings: Settings, warm: Any, draw: Any) -> Sampler:
    """A sampler of two jitted functions: (keys, starts) → state, and (keys, state) → draws (chain, draw, D)."""
    _, dim = log_density(problem)
    compiled: dict[str, Any] = {}

    def run(seed: int) -> Drawn:
        cost = 0.0
        first, second = jax.random.split(jax.random.PRNGKey(seed))
        starts = _starts(seed, settings, dim)
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

    return Sampler(_label(name, settings), run, "blackjax")


def blackjax_nuts(problem: SamplingProblem, settings: Settings) -> Sampler:
    """NUTS of blackjax after its window adaptation, both vmapped over chains; diagonal mass, no history kept."""
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

    return _two_phases("blackjax NUTS", problem, settings, warm, draw)


def blackjax_chees(problem: SamplingProblem, settings: Settings) -> Sampler:
    """ChEES-HMC of blackjax with a pooled diagonal mass matrix: not a target to beat, but good to know."""
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

    return _two_phases("blackjax ChEES", problem, settings, warm, draw)


def nutpie_nuts(problem: SamplingProblem, settings: Settings) -> Sampler:
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

    return Sampler(_label("nutpie NUTS, jax", settings), run, "nutpie")


# ---------------------------------------------------------------------------------------------- HMC


def blackjax_hmc(
    problem: SamplingProblem, chains: int, leapfrogs: int, step_size: float, transitions: int
) -> Contender:
    """Vmapped HMC, `transitions` a call; `run(n)` gives the mean log density."""
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


def _label(name: str, settings: Settings) -> str:
    return f"{name}, {settings.chains} chains, {settings.warmup} + {settings.draws}"
