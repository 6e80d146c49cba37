"""Bridge sampling with the optimal bridge and the warp-3 proposal (Meng & Wong, 1996; Meng & Schilling, 2002)."""

import math
import time

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probmodel.draws.diagnostics import ess_mean
from probmodel.evidence.annealing.reference import covariance_factor
from probmodel.evidence.weighing.starting_draws import starting_draws
from probmodel.evidence.weighing.weights import plain_evidence
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject, Target
from probmodel.protocols.session.progress import shows_progress
from probmodel.tracing.curvature import block_index, log_joint_by_block
from probmodel.tracing.randomness import isolated, spawn
from probmodel.tracing.target import target_of

MAX_ITERATIONS = 1_000
TOLERANCE = 1e-10


@checks_arguments
@shows_progress
def bridge(subject: Subject, *, seed: int = 0, num_proposals: int = 10_000, progress: bool = True) -> Evidence:
    """Log Z as the fixed point of Meng & Wong's optimal bridge between posterior draws and a normal, in nats.

    Draws are standardized by the mean and covariance of their first half; the bridge uses the second half.  Warp-3
    reflects the posterior about its mean, p̃(z) = ½ |L| (p(m + Lz) + p(m − Lz)), which removes its skewness and leaves
    Z unchanged.

    Args:
        subject: a fit, or a target; the draws of a target are particles of sequential Monte Carlo.
        seed: random seed of the proposals, and of any draws that the subject does not hold.
        num_proposals: number of normal draws.
        progress: whether to show what is being computed.

    Returns:
        Evidence without bounds, with the approximate relative error of Frühwirth-Schnatter (2004), which includes the
        autocorrelation of the draws.

    Raises:
        ValueError: if there are fewer than 20 draws.
    """
    target = target_of(subject)
    if target.dim == 0:
        return plain_evidence(target, "bridge")
    begin = time.perf_counter()
    first = starting_draws(subject, seed)
    chains, each, _ = first.theta.shape
    if chains * each < 20:
        raise ValueError(f"expected 20 draws or more, got {chains * each}; keep more draws")
    index = block_index(target)
    half = each // 2
    fitted, bridged = first.theta[:, :half].flatten(0, 1), first.theta[:, half:].flatten(0, 1)
    loc, factor = fitted[:, index].mean(0), covariance_factor(fitted, index)
    with isolated(spawn(seed, 41)), torch.no_grad():
        normal = torch.randn(num_proposals, *index.shape, dtype=target.dtype, device=target.device)
    offset = torch.linalg.solve_triangular(factor, (bridged[:, index] - loc).permute(1, 2, 0), upper=False)
    standardized = offset.permute(2, 0, 1)
    with torch.no_grad():
        at_draws = _log_ratio(target, standardized, loc, factor, index)
        at_proposals = _log_ratio(target, normal, loc, factor, index)
    log_z, variance, iterations = _fixed_point(at_draws, at_proposals, chains, exact=first.exact)
    return Evidence(
        float(log_z.sum()),
        math.sqrt(float(variance.sum())),
        method="bridge",
        given=target.given,
        digest=target.digest,
        info={
            "num_samples": len(at_draws),
            "num_proposals": num_proposals,
            "iterations": iterations,
            "seconds": time.perf_counter() - begin,
        },
    )


def _log_ratio(
    target: Target,
    z: Float[Tensor, "S R d"],
    loc: Float[Tensor, "R d"],
    factor: Float[Tensor, "R d d"],
    index: Int[Tensor, "R d"],
) -> Float[Tensor, "S R"]:
    """Log ratio log p̃(z) − log N(z; 0, I) of the warped posterior to a standard normal, in nats."""
    shift = torch.einsum("rij,srj->sri", factor, z)
    sides = []
    for sign in (1.0, -1.0):
        theta = z.new_empty(len(z), target.dim)
        theta[:, index.flatten()] = (loc + sign * shift).flatten(1)
        sides.append(log_joint_by_block(target, theta))
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    warped = torch.logaddexp(*sides) - math.log(2) + log_det
    log_normal = -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)
    return torch.nan_to_num((warped - log_normal).double(), -math.inf, math.inf, -math.inf)


def _fixed_point(
    at_draws: Float[Tensor, "A R"], at_proposals: Float[Tensor, "B R"], num_chains: int, *, exact: bool
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"], int]:
    """Iterate r = Σ_B l / (s₁ l + s₂ r) / B ÷ Σ_A 1 / (s₁ l + s₂ r) / A on the log scale, eq. (4.1) of Meng & Wong."""
    a, b = len(at_draws), len(at_proposals)
    effective = np.full(at_draws.shape[1], float(a)) if exact else _effective(at_draws, num_chains)
    proportion = torch.as_tensor(effective / (effective + b), dtype=torch.float64, device=at_draws.device)
    log_s1, log_s2 = proportion.log(), torch.log1p(-proportion)
    log_r = at_draws.median(0).values
    iterations = 0
    moved = math.inf
    while moved > TOLERANCE and iterations < MAX_ITERATIONS:
        top = torch.logsumexp(at_proposals - torch.logaddexp(log_s1 + at_proposals, log_s2 + log_r), 0) - math.log(b)
        bottom = torch.logsumexp(-torch.logaddexp(log_s1 + at_draws, log_s2 + log_r), 0) - math.log(a)
        updated = top - bottom
        moved = float((updated - log_r).abs().max())
        log_r = updated
        iterations += 1
    # Relative mean squared error: f₁ at the proposals, f₂ at the draws, eq. (3.6) and (3.7) of Frühwirth-Schnatter (2004).
    f1 = torch.exp(at_proposals - log_r - torch.logaddexp(log_s1 + at_proposals - log_r, log_s2))
    f2 = torch.exp(-torch.logaddexp(log_s1 + at_draws - log_r, log_s2))
    n_eff = torch.as_tensor(float(a) if exact else _effective(f2.log(), num_chains), device=f2.device)
    variance = f1.var(0) / f1.mean(0).square() / b + f2.var(0) / f2.mean(0).square() / n_eff
    return log_r, variance, iterations


def _effective(values: Float[Tensor, "A R"], num_chains: int) -> np.ndarray:
    """Effective sample size of draws from the autocorrelation of a function of them, at most their number."""
    count = len(values)
    by_chain = values.reshape(num_chains, count // num_chains, -1).numpy(force=True)
    found = np.asarray(ess_mean({"f": by_chain})["f"], dtype=float).reshape(-1)
    return np.where(np.isfinite(found), np.clip(found, 1.0, count), count)
