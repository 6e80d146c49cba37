"""How fast on a CUDA device: steps of SVI beside Pyro and hand-written PyTorch, many annealing chains, agreement with the CPU.

    python benchmarks/gpu.py [--quick] [--out FILE.json]

Without a device it says so and exits 0. Steps are captured as CUDA graphs, so that a step never waits for the host; matrix
products of feature extractors may use TensorFloat-32 where asked, log densities never do.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from speed import _commit, _row, ratio, show, turns
from speed_hand_written import vae_step_fused
from speed_models import SVI_PROBLEMS, Contender, SVIProblem

import probmodel as pb
from probmodel.data.problems import eight_schools
from probmodel.inference.descent import WINDOW, Batches, descent, minibatches
from probmodel.tracing import Gradient, own

PYRO_STEPS = 10.0
HAND_WRITTEN = 1 / 0.9
"""Our time over the hand-written one: 90 % of its steps a second."""
AGREEMENT = 1e-4
CHAINS = 4_096


def ours(problem: SVIProblem) -> Contender:
    """`pb.SVI`'s steps on the device."""
    data = problem.data.to("cuda")
    with pb.isolated(seed=0):
        model, guide, leaves = own(problem.model, problem.guide, AutoNormal, data)
    parts, order = Batches(data.tensors(), data.num_rows), minibatches(data, problem.batch_size)
    first = next(order)

    def loss(*tensors: torch.Tensor) -> torch.Tensor:
        values = iter(tensors)
        return pb.objectives.elbo(model, guide, data.map(lambda _: next(values)))

    gradient = Gradient(loss, list(leaves.values()), *parts.at(first))
    optimizer = torch.optim.Adam(list(leaves.values()), lr=problem.learning_rate, fused=True)
    way = descent(gradient, parts, chain([first], order), optimizer)
    way.compile()

    def run(n: int) -> float:
        done: list[float] = []
        while len(done) < n:
            done += way.advance(min(WINDOW, n - len(done))).losses
        return sum(done) / n / (data.size or 1)

    return Contender("ours", run)


def with_pyro(problem: SVIProblem) -> Contender:
    """`pyro.infer.SVI` on the device."""
    data = problem.data.to("cuda")
    with pb.isolated(seed=0):
        model, guide, _ = own(problem.model, problem.guide, AutoNormal, data)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": problem.learning_rate}), Trace_ELBO())
    order = minibatches(data, problem.batch_size)

    def run(n: int) -> float:
        total = 0.0
        for _ in range(n):
            index = next(order)
            batch = data if index is None else data.rows(index)
            total += svi.step(*batch.args, **batch.kwargs)
        return total / n / (data.size or 1)

    return Contender("Pyro", run)


def step_rows(problem: SVIProblem, rounds: int) -> Iterator[dict[str, Any]]:
    """Our seconds a step over the others'."""
    mine, others = ours(problem), [with_pyro(problem)]
    if not problem.small:
        others.append(Contender("hand-written, fused Adam", vae_step_fused(problem, device="cuda")))
    seconds = turns([mine, *others], rounds)
    for other in others:
        common = {"reference": float(np.median(seconds[other.name])), "seconds": float(np.median(seconds["ours"]))}
        source = f"{other.name}, seconds a step; median of {rounds} ratios of neighbouring turns"
        task = f"GPU SVI {problem.name}: ours against {other.name}"
        if other.name == "Pyro":
            value = ratio(seconds[other.name], seconds["ours"])
            yield _row(task, value, "times faster", source=source, at_least=PYRO_STEPS, **common)
        else:
            value = ratio(seconds["ours"], seconds[other.name])
            yield _row(task, value, "times their time", source=source, at_most=HAND_WRITTEN, **common)


def agreement_rows() -> Iterator[dict[str, Any]]:
    """The same density at the same points on both devices."""
    problem = eight_schools()
    near, far = pb.target(problem.model, problem.data), pb.target(problem.model, problem.data.to("cuda"))
    theta = near.sample_prior(1_000, 0)
    a, b = near.log_joint(theta), far.log_joint(theta.to("cuda")).cpu()
    value = float(((a - b).abs() / a.abs().clamp(min=1)).max())
    yield _row("GPU against CPU: log joint, largest relative difference", value, "", at_most=AGREEMENT, reference=0.0)


def annealing_rows() -> Iterator[dict[str, Any]]:
    """Thousands of annealing chains at once."""
    problem = eight_schools()
    target = pb.target(problem.model, problem.data.to("cuda"))
    begin = time.perf_counter()
    found = pb.evidence.ais(target, seed=0, num_chains=CHAINS)
    torch.cuda.synchronize()
    error = abs(found.log_z - problem.log_z) / max(found.stderr, 1e-12)
    seconds = time.perf_counter() - begin
    yield _row(f"GPU AIS, {CHAINS} chains: error in standard errors", error, "", at_most=4.0, seconds=seconds)


def tasks(*, quick: bool) -> Iterator[Callable[[], Iterator[dict[str, Any]]]]:
    """What is measured, in order."""
    rounds = 3 if quick else 9
    for build in list(SVI_PROBLEMS.values())[: 2 if quick else None]:
        yield lambda build=build: step_rows(build(), rounds)
    yield agreement_rows
    yield annealing_rows


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="smoke size")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing measured")
        return
    machine = torch.cuda.get_device_name()
    found, held = [], True
    for task in tasks(quick=options.quick):
        for row in task():
            found.append(row)
            held &= show(row)
    if options.out:
        options.out.write_text(json.dumps({"machine": machine, "commit": _commit(), "rows": found}, indent=2))
    if not held and not options.quick:
        sys.exit(1)


if __name__ == "__main__":
    main()
