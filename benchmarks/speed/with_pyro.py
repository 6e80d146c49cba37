"""SVI and NUTS of Pyro, written as its users write them, with argument checks turned off."""

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

from benchmarks.speed.models import Drawn, Run, Sampler, SamplingProblem, Settings, SVIProblem, batches
from probmodel.tracing.ownership import copied_to_data


def svi(problem: SVIProblem, device: str = "cpu") -> Run:
    """`pyro.infer.SVI` with `Trace_ELBO`; minibatches by index."""
    data = problem.data.to(device)
    model = copied_to_data(problem.model, data)
    store = pyro.get_param_store()
    with store.scope() as kept:
        guide = AutoNormal(model) if problem.guide is None else copied_to_data(problem.guide, data)
        optimizer = pyro.optim.Adam({"lr": problem.learning_rate})
        steps = SVI(model, guide, optimizer, Trace_ELBO())
    state = {"store": kept}
    generator = np.random.default_rng(0)

    def run(n: int) -> float:
        total = 0.0
        with _on(device), store.scope(state["store"]) as kept, pyro.validation_enabled(False):
            if problem.batch_size is None:
                for _ in range(n):
                    total += steps.step(*data.args, **data.kwargs) / (data.size or 1)
            else:
                for index in torch.from_numpy(batches(problem, n, generator)).to(device):
                    batch = data.rows(index)
                    total += steps.step(*batch.args, **batch.kwargs) / problem.batch_size
            state["store"] = kept
        return total / n

    return run


def _on(device: str) -> AbstractContextManager[Any]:
    """Default device for priors of Python numbers, which Pyro leaves to the caller; it costs time per operation."""
    return nullcontext() if device == "cpu" else torch.device(device)


def nuts(problem: SamplingProblem, settings: Settings) -> Sampler:
    """NUTS of Pyro on one thread, without compiling."""

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

    return Sampler(settings.label("Pyro NUTS"), run, "pyro", 1)
