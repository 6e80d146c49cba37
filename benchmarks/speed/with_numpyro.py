"""SVI and NUTS of NumPyro, written as its users write them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as ndist
import torch
from numpyro.infer.autoguide import AutoNormal

from benchmarks.speed.models import CHANNELS, CODE, Contender, Sampler, SamplingProblem, Settings, SVIProblem, batches
from benchmarks.speed.with_jax import Array, arrays_of, two_phases


def svi(problem: SVIProblem, chunk: int) -> Contender:
    """SVI with `svi.update` inside one jitted `lax.scan` of `chunk` steps, minibatches gathered inside it.

    With chunk 1 each step is one jitted call, since XLA's convolutions on a CPU are some eight times slower inside a scan.
    """
    arrays = arrays_of(problem)
    optimizer = numpyro.optim.Adam(problem.learning_rate)
    generator = np.random.default_rng(0)
    rows = problem.data.size or 1
    size = problem.batch_size
    if size is None:
        model = _MODELS[problem.name]
        method = numpyro.infer.SVI(model, AutoNormal(model), optimizer, numpyro.infer.Trace_ELBO())
        first = arrays
    else:
        method = numpyro.infer.SVI(*_vae(problem), optimizer, numpyro.infer.Trace_ELBO())
        first = [arrays[0][:size]]
    state = {"svi": method.init(jax.random.PRNGKey(0), *first)}

    @partial(jax.jit, donate_argnums=0)
    def steps(state: Any, arrays: list[Array], order: Array) -> tuple[Any, Array]:
        def step(state: Any, index: Array) -> tuple[Any, Array]:
            return method.update(state, *(arrays if size is None else [arrays[0][index]]))

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


def nuts(problem: SamplingProblem, settings: Settings, chain_method: str) -> Sampler:
    """NUTS by the functional kernel of NumPyro, since `MCMC.run` would compile for seconds again at each seed.

    Args:
        problem: problem to sample.
        settings: chains and draws.
        chain_method: name in NumPyro: "sequential", "vectorized", or "parallel" over the two host devices.
    """
    arrays = arrays_of(problem)
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

        del key  # The state of the kernel holds it.
        return each(lambda state: jax.lax.scan(step, state, None, settings.draws)[1], states)

    return two_phases("numpyro", f"NumPyro NUTS {chain_method}", problem, settings, warm, draw)


def _vmapped(function: Callable[[Any], Any], inputs: Any) -> Any:
    return jax.vmap(function)(inputs)


def _on_devices(function: Callable[[Any], Any], inputs: Any) -> Any:
    """Apply the function to one chain after the other on each host device."""
    mesh = jax.make_mesh((len(jax.devices()),), ("chain",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("chain")
    mapped = jax.shard_map(
        lambda shard: jax.lax.map(function, shard), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    return mapped(inputs)


# ---------------------------------------------------------------------------------------------- models


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
    """Convolution with stride 2, kernel 4 and padding 1, channels last."""
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
    """Weights of a torch network in the layouts of JAX; features of a flattened image stay channels first, a relabeling only."""
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
