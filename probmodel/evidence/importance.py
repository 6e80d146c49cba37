"""Importance sampling with a Student-t matched to the posterior, and a wider one for defence (Geweke, 1989; Hesterberg, 1995)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.draws.pareto import pareto_smoothed
from probmodel.evidence.annealing.reference import Base
from probmodel.evidence.weighing.bounds import lower_bound
from probmodel.evidence.weighing.proposals import Proposal, from_draws
from probmodel.evidence.weighing.weights import plain_evidence, warn_if_untrusted, weighted_mean
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject, Target
from probmodel.tracing.curvature import log_joint_by_block
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target_of

NUMBERS_AT_ONCE = 4_000_000
"""Coordinates of the proposals that are held at once."""


def importance(
    subject: Subject,
    *,
    seed: int = 0,
    num_samples: int = 10_000,
    proposal: Proposal = from_draws,
    level: float = 0.95,
) -> Evidence:
    """Log 1/S Σ_s p(data, θ_s) / q(θ_s), θ_s ~ q, in nats; by row and summed where every latent is local to a row.

    Args:
        subject: a fit, or a target, whose draws are then particles of sequential Monte Carlo.
        seed: of the proposals.
        num_samples: proposals S.
        proposal: `from_draws` (default) takes mean and covariance of the draws, `from_mode` mode and curvature; both a
            Student-t with 5 degrees of freedom and a tenth of a wider one with 2.
        level: of the bound.

    Returns:
        Evidence whose `lower` holds with probability `level` at finite sample size; `info` holds k-hat, the effective share
        of draws, both of the worst row, and the estimate from Pareto-smoothed weights.
    """
    target = target_of(subject)
    if target.dim == 0:
        return plain_evidence(target, "importance")
    base = proposal(subject, seed)
    log_w = proposal_weights(target, base, num_samples, seed)
    mean = weighted_mean(log_w)
    warn_if_untrusted("importance", mean, "take more samples, reparametrize towards a normal posterior, or use ais")
    return Evidence(
        mean.log_mean,
        mean.stderr,
        lower=lower_bound(log_w, level),
        level=level,
        method="importance",
        given=target.given,
        digest=target.digest,
        certified="the lower bound holds at finite sample size",
        info={
            "num_samples": num_samples,
            "k_hat": mean.k_hat,
            "relative_ess": mean.relative_ess,
            "smoothed_log_z": _smoothed(log_w) if log_w.shape[1] == 1 else math.nan,
        },
    )


def proposal_weights(target: Target, base: Base, num_samples: int, seed: int) -> Float[Tensor, "S R"]:
    """Log p(data, θ) − log q(θ) of proposals, made in chunks that fit the memory."""
    chunk = max(1, NUMBERS_AT_ONCE // max(1, target.dim))
    parts = []
    with isolated(seed), torch.no_grad():
        for begin in range(0, num_samples, chunk):
            theta = base.sample(min(chunk, num_samples - begin))
            log_w = (log_joint_by_block(target, theta) - base.log_prob(theta)).double()
            parts.append(log_w.masked_fill(log_w.isnan(), -math.inf))
    return torch.cat(parts)


def _smoothed(log_w: Float[Tensor, "S 1"]) -> float:
    """Log mean of the Pareto-smoothed weights (Vehtari et al., 2024)."""
    raw = log_w[:, 0]
    weights = torch.from_numpy(pareto_smoothed(raw.numpy(force=True))[0])
    return float(torch.logsumexp(weights, 0)) - math.log(len(weights))
