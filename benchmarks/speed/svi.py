"""Seconds per step of stochastic variational inference: ours over those of hand-written PyTorch and other packages."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from pyro.infer.autoguide import AutoNormal

import probmodel as pb
from benchmarks.rows import Row, row
from benchmarks.speed import other_packages
from benchmarks.speed.hand_written import small_step, vae_step_fused, vae_step_in_graph
from benchmarks.speed.models import Contender, Run, SVIProblem
from benchmarks.speed.turns import built, faster, fastest, slower, turns
from probmodel.inference.descent.descent import WINDOW, descent
from probmodel.inference.descent.minibatches import Batches, minibatches
from probmodel.tracing.ownership import owned_copies
from probmodel.tracing.programs.gradients import Gradient

SAME_LOSS = 0.02
"""Relative difference of mean losses that one draw per step allows."""
AT_MOST = {"hand-written": {True: 1.3, False: 1.1}, "NumPyro": {True: 1.3, False: 1.0}}
"""Largest ratio allowed of our time per step to theirs, for small models (True) and for autoencoders (False)."""
PYRO_STEPS = {True: 15.0, False: 1.0}
"""Smallest ratio allowed of the time per step of Pyro to ours."""


def ours(problem: SVIProblem, device: str = "cpu") -> Run:
    """Our steps as `pb.SVI` runs them: minibatch, traced and compiled ELBO with its gradient, Adam."""
    data = problem.data.to(device)
    with pb.isolated(seed=0):
        model, guide, leaves = owned_copies(problem.model, problem.guide, AutoNormal, data)
    parts, order = Batches(data.tensors(), data.num_rows), minibatches(data, problem.batch_size)

    def loss(*tensors: torch.Tensor) -> torch.Tensor:
        values = iter(tensors)
        return pb.objectives.elbo(model, guide, data.map(lambda _: next(values)))

    gradient = Gradient(loss, list(leaves.values()), *parts.at(order.first))
    optimizer = torch.optim.Adam(list(leaves.values()), lr=problem.learning_rate, fused=True)
    steps = descent(gradient, parts, order, optimizer)
    steps.compile()

    def run(n: int) -> float:
        done: list[float] = []
        while len(done) < n:
            done += steps.advance(min(WINDOW, n - len(done))).losses
        return sum(done) / n / (data.size or 1)

    return run


def hand_written(problem: SVIProblem, *, quick: bool) -> list[Contender]:
    """Hand-written steps in several variants."""
    if problem.small:
        variants = {"Python wrapper": partial(small_step, problem, cpp_wrapper=False)}
        variants["C++ wrapper"] = partial(small_step, problem, cpp_wrapper=True)
    else:
        variants = {
            "Adam in graph": partial(vae_step_in_graph, problem),
            "fused Adam": partial(vae_step_fused, problem),
        }
        if problem.convolutional:
            variants["Adam in graph, channels last"] = partial(vae_step_in_graph, problem, channels_last=True)
            variants["fused Adam, channels last"] = partial(vae_step_fused, problem, channels_last=True)
    chosen = list(variants.items())[: 1 if quick else None]
    return [built(f"hand-written, {name}", problem.threads, build) for name, build in chosen]


def svi_rows(problem: SVIProblem, *, rounds: int, quick: bool, peers: bool) -> Iterator[Row]:
    """Rows of one problem: the fastest of our variants compared with the fastest of each other kind."""
    threads = (1, 2) if problem.small and not quick else (problem.threads,)
    kinds = [[built("ours", count, partial(ours, problem)) for count in threads], hand_written(problem, quick=quick)]
    kinds += other_packages.svi(problem, quick=quick) if peers else []
    steps: Counter[str] = Counter()
    contenders = [fastest([_counted(each, steps) for each in kind]) for kind in kinds]
    seconds = turns(contenders, rounds)
    losses = {} if quick else _settled(contenders, problem, steps)
    for name, found in seconds.items():
        loss = f"   loss {losses[name]:.4f}" if losses else ""
        print(f"    {name:<46}{np.median(found) * 1e3:>10.4f} ms per step{loss}", flush=True)
    task = f"SVI {problem.name}"
    if losses:
        spread = max(losses.values()) / min(losses.values()) - 1
        yield row(f"{task}: largest difference of losses", spread, "share", reference=0.0, at_most=SAME_LOSS)
    mine, *others = seconds
    for other in others:
        if other.startswith("Pyro"):
            yield faster(task, mine, other, seconds, PYRO_STEPS[problem.small])
        else:
            yield slower(task, mine, other, seconds, AT_MOST[other.split(",")[0]][problem.small])


def _counted(contender: Contender, steps: "Counter[str]") -> Contender:
    """Contender whose steps are counted under its name."""

    def run(n: int) -> float:
        steps[contender.name] += n
        return contender.run(n)

    return contender._replace(run=run)


def _settled(contenders: Sequence[Contender], problem: SVIProblem, steps: "Counter[str]") -> dict[str, float]:
    """Mean losses after all have taken as many steps as the fastest one, since the loss depends on the number of steps."""
    most = max(steps[each.name] for each in contenders)
    losses = {}
    for each in contenders:
        torch.set_num_threads(each.threads)
        each.run(each.chunk * max(1, math.ceil((most - steps[each.name]) / each.chunk)))
        losses[each.name] = each.run(each.chunk * math.ceil(problem.settle / each.chunk))
    return losses
