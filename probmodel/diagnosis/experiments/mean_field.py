"""Best normal approximation with independent coordinates, optimized for each row separately."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probmodel.protocols.posterior import Target
from probmodel.tracing.curvature import block_index, log_joint_by_block
from probmodel.tracing.randomness import isolated

NUM_STEPS = 500
FEWEST_DRAWS = 64
"""Draws at least: twice the number that Giordano et al. (2024) found to be enough."""
WIDEST_WHITENED = 128
"""Coordinates per block up to which draws have exact second moments, which takes four draws per coordinate."""
NUM_BATCHES = 10
"""Independent batches of draws for the final value; their standard deviation gives its error."""


class MeanFieldNormal(NamedTuple):
    """Best factorized normal of each of R independent blocks of d coordinates."""

    loc: Float[Tensor, "R d"]
    scale: Float[Tensor, "R d"]
    elbo_by_block: Float[Tensor, " R"]
    stderr: float
    """Monte Carlo error of the sum over blocks; 0 up to rounding errors if the log joint is quadratic."""


def best_mean_field(
    target: Target, loc: Float[Tensor, " D"], scale: Float[Tensor, " D"], *, seed: int = 0, num_steps: int = NUM_STEPS
) -> MeanFieldNormal:
    """Maximize E_q[log p(data, θ)] + Σ log s + d/2 log 2πe over q = N(m, diag s²), for all blocks at once; nats.

    L-BFGS runs on fixed reparametrized draws, which are antithetic and have exact covariance so that their error vanishes
    for quadratic log joints.  The ELBO at the optimum is then estimated from fresh draws, so that it stays a lower bound.

    Args:
        target: density to approximate; the blocks are its rows if every latent is local to a row, else there is one block.
        loc: initial means.
        scale: initial standard deviations, which are also the units of the steps.
        seed: random seed of the draws.
        num_steps: number of L-BFGS steps at most.

    Returns:
        MeanFieldNormal, with the better one of start and end for each block.

    Reference:
        Giordano, Ingram & Broderick (2024), "Black box variational inference with a deterministic objective", JMLR 25.
    """
    with isolated(seed):
        index = block_index(target)
        start = loc[index].detach(), scale[index].log().detach()
        noise = _noise(index, loc)
        shift, stretch = (torch.zeros_like(start[0]).requires_grad_() for _ in range(2))
        optimizer = torch.optim.LBFGS(
            [shift, stretch], max_iter=num_steps, history_size=20, tolerance_change=1e-12, line_search_fn="strong_wolfe"
        )

        def reached() -> tuple[Tensor, Tensor]:
            return start[0] + start[1].exp() * shift, start[1] + stretch

        def loss() -> Tensor:
            optimizer.zero_grad()
            mean, log_scale = reached()
            value = -target.log_joint(_place(mean + log_scale.exp() * noise, index)).mean() - log_scale.sum()
            value.backward()
            return value

        optimizer.step(loss)
        end = tuple(each.detach() for each in reached())
        return _better(target, index, start, (end[0], end[1]))


def _better(
    target: Target, index: Int[Tensor, "R d"], start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]
) -> MeanFieldNormal:
    """Choose per block the normal with the larger ELBO, both on the same fresh draws."""
    with torch.no_grad():
        noise = [_noise(index, start[0]) for _ in range(NUM_BATCHES)]
        values = [torch.stack([_elbo(target, index, *q, draws) for draws in noise]) for q in (start, end)]
    improved = values[1].mean(0) >= values[0].mean(0)
    chosen = torch.where(improved, values[1], values[0])
    loc, log_scale = (torch.where(improved[:, None], after, before) for before, after in zip(start, end, strict=True))
    stderr = float(chosen.sum(1).std() / NUM_BATCHES**0.5)
    return MeanFieldNormal(loc, log_scale.exp(), chosen.mean(0), stderr)


def _elbo(
    target: Target, index: Int[Tensor, "R d"], loc: Tensor, log_scale: Tensor, noise: Float[Tensor, "S R d"]
) -> Float[Tensor, " R"]:
    theta = _place(loc + log_scale.exp() * noise, index)
    by_block = log_joint_by_block(target, theta)
    entropy = log_scale.sum(-1) + 0.5 * index.shape[1] * math.log(2 * math.pi * math.e)
    return by_block.mean(0).double() + entropy.double()


def _noise(index: Int[Tensor, "R d"], like: Tensor) -> Float[Tensor, "S R d"]:
    """Standard normal draws in antithetic pairs, with covariance exactly I in each block if d is small."""
    rows, d = index.shape
    small = d <= WIDEST_WHITENED
    half = max(FEWEST_DRAWS, 4 * d if small else 0) // 2
    noise = torch.randn(rows, half, d, dtype=like.dtype, device=like.device)
    if small:
        factor = torch.linalg.cholesky(noise.mT @ noise / half)
        noise = torch.linalg.solve_triangular(factor, noise.mT, upper=False).mT
    return torch.cat([noise, -noise], 1).movedim(1, 0)


def _place(blocks: Float[Tensor, "S R d"], index: Int[Tensor, "R d"]) -> Float[Tensor, "S D"]:
    order = index.flatten().argsort()
    return blocks.flatten(1)[:, order]
