"""Gradients per second of Hamiltonian Monte Carlo on logistic regression: 256 chains, ten leapfrog steps per transition."""

from collections.abc import Iterator

import numpy as np
import torch

import probmodel as pb
from benchmarks.rows import Row
from benchmarks.speed import other_packages
from benchmarks.speed.hand_written import leapfrogs
from benchmarks.speed.models import Contender, Run, SamplingProblem, sampling_logistic
from benchmarks.speed.turns import slower, turns
from probmodel.tracing.programs.gradients import Batched

AT_MOST = 1.3
"""Largest ratio allowed of our time per transition to theirs."""
CHAINS, LEAPFROGS, STEP_SIZE = 256, 10, 0.05


def ours(problem: SamplingProblem) -> Run:
    """Our transitions, on the traced and compiled log joint of all chains."""
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
    """Our seconds per transition over those of each other contender."""
    problem = sampling_logistic()
    contenders = [Contender("ours", ours(problem))]
    contenders += [Contender("hand-written", leapfrogs(problem, CHAINS, LEAPFROGS, STEP_SIZE))]
    contenders += other_packages.hmc(problem, CHAINS, LEAPFROGS, STEP_SIZE) if peers else []
    seconds = turns(contenders, rounds)
    for name, found in seconds.items():
        print(f"    {name:<46}{CHAINS * LEAPFROGS / np.median(found):>12.0f} gradients per second", flush=True)
    mine, *others = seconds
    for other in others:
        yield slower(f"HMC logistic, {CHAINS} chains, {LEAPFROGS} leapfrogs", mine, other, seconds, AT_MOST)
