"""Gradients a second: 256 chains of Hamiltonian Monte Carlo, ten leapfrogs a transition, on logistic regression."""

from collections.abc import Iterator

import numpy as np
from benchmarks.speed import packages
import torch
from benchmarks.rows import Row
from benchmarks.speed.hand_written import leapfrogs
from benchmarks.speed.models import Contender, Run, SamplingProblem, sampling_logistic
from benchmarks.speed.turns import slower, turns

import probmodel as pb
from probmodel.tracing.programs.gradients import Batched

AT_MOST = 1.3
"""Our time of a transition over theirs."""
CHAINS, LEAPFROGS, STEP_SIZE = 256, 10, 0.05


def ours(problem: SamplingProblem) -> Run:
    """Transitions on the traced, compiled log joint of all chains."""
    target = pb.target(problem.model, problem.data)

    def negative(theta: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        value = target.log_joint(theta)
        return value.sum(), (value,)

    gradient = Batched(negative, eager=False)
    gradient.compile()
    state = {"theta": torch.zeros(CHAINS, target.dim)}

    def run(n: int) -> float:
        means = []
        for _ in range(n):
            theta = state["theta"]
            momentum = torch.randn_like(theta)
            slope, value = gradient(theta)
            start = value - 0.5 * momentum.square().sum(-1)
            moved, at = theta, value
            for _ in range(LEAPFROGS):
                momentum = momentum + 0.5 * STEP_SIZE * slope
                moved = moved + STEP_SIZE * momentum
                slope, at = gradient(moved)
                momentum = momentum + 0.5 * STEP_SIZE * slope
            accepted = torch.rand(CHAINS).log() < at - 0.5 * momentum.square().sum(-1) - start
            state["theta"] = torch.where(accepted[:, None], moved, theta)
            means.append(torch.where(accepted, at, value).mean())
        return float(torch.stack(means).mean())

    return run


def gradient_rows(*, rounds: int, peers: bool) -> Iterator[Row]:
    """Our seconds a transition over those of each other contender."""
    problem = sampling_logistic()
    contenders = [Contender("ours", ours(problem))]
    contenders += [Contender("hand-written", leapfrogs(problem, CHAINS, LEAPFROGS, STEP_SIZE))]
    contenders += packages.hmc(problem, CHAINS, LEAPFROGS, STEP_SIZE) if peers else []
    seconds = turns(contenders, rounds)
    for name, found in seconds.items():
        print(f"    {name:<46}{CHAINS * LEAPFROGS / np.median(found):>12.0f} gradients a second", flush=True)
    mine, *others = seconds
    for other in others:
        yield slower(f"HMC logistic, {CHAINS} chains, {LEAPFROGS} leapfrogs", mine, other, seconds, AT_MOST)
