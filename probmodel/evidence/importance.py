"""Importance sampling from a Student-t at the posterior and a wider, defensive one (Geweke, 1989; Hesterberg, 1995)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.draws.pareto import pareto_smoothed
from probmodel.evidence.annealing.reference import Base
from probmodel.evidence.weighing.bounds import lower_bound
from probmodel.evidence.weighing.claims import claimed
from probmodel.evidence.weighing.proposals import Proposal, from_draws
from probmodel.evidence.weighing.weights import plain_evidence, warn_if_untrusted, weighted_mean
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject, Target
from probmodel.protocols.session.progress import shows_progress, tick
from probmodel.tracing.curvature import log_joint_by_block
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target_of

MAX_COORDINATES_AT_ONCE = 4_000_000
"""Largest number of coordinates of proposals in memory at once."""


@checks_arguments
@shows_progress
def importance(
    subject: Subject,
    *,
    seed: int = 0,
    level: float = 0.95,
    num_samples: int = 10_000,
    proposal: Proposal = from_draws,
    progress: bool = True,
) -> Evidence:
    """Importance sampling estimate log 1/S Σ_s p(data, θ_s) / q(θ_s), θ_s ~ q, in nats.

    Where every latent is local to a row, it is computed per row and summed.

    Args:
        subject: a fit, or a target; the draws of a target are particles of sequential Monte Carlo.
        seed: random seed of the proposals.
        num_samples: number S of proposals.
        proposal: distribution q.  `from_draws` (default) takes mean and covariance of the draws, `from_mode` mode and
            curvature; both mix a Student-t with 5 degrees of freedom and, with weight 0.1, a wider one with 2.
        level: probability that the bound holds.
        progress: whether to show what is being computed.

    Returns:
        Evidence whose `lower` holds with probability `level` at finite sample size; `info` holds k-hat and relative
        ESS, both of the worst row, and the estimate from Pareto-smoothed weights (nan for several rows).

    Raises:
        ValueError: if there are no draws and the prior cannot be sampled, the draws do not fit the model, or `level` is
            outside (0, 1).
        ArithmeticError: if `from_mode` finds no maximum.
    """
    target = target_of(subject)
    if target.dim == 0:
        return plain_evidence(target, "importance")
    base = proposal(subject, seed)
    log_w = proposal_weights(target, base, num_samples, seed)
    mean = weighted_mean(log_w)
    warn_if_untrusted(
        "importance", mean, "raise num_samples, reparametrize towards a normal posterior, or use evidence.ais"
    )
    claim = claimed(
        "importance", target, lower=lower_bound(log_w, level), certified="the lower bound holds at finite sample size"
    )
    return Evidence(
        mean.log_mean,
        mean.stderr,
        level=level,
        lower=claim.lower,
        upper=claim.upper,
        certified=claim.certified,
        method="importance",
        given=target.given,
        digest=target.digest,
        info={
            "num_samples": num_samples,
            "k_hat": mean.k_hat,
            "relative_ess": mean.relative_ess,
            "smoothed_log_z": _smoothed(log_w) if log_w.shape[1] == 1 else math.nan,
        },
    )


def proposal_weights(target: Target, base: Base, num_samples: int, seed: int) -> Float[Tensor, "S R"]:
    """Log weights log p(data, θ) − log q(θ) of proposals, in nats, drawn in chunks that fit in memory."""
    chunk = max(1, MAX_COORDINATES_AT_ONCE // max(1, target.dim))
    parts = []
    with isolated(seed), torch.no_grad():
        for begin in range(0, num_samples, chunk):
            tick()
            theta = base.sample(min(chunk, num_samples - begin))
            log_w = (log_joint_by_block(target, theta) - base.log_prob(theta)).double()
            parts.append(log_w.masked_fill(log_w.isnan(), -math.inf))
    return torch.cat(parts)


def _smoothed(log_w: Float[Tensor, "S 1"]) -> float:
    """Log mean of the Pareto-smoothed weights (Vehtari et al., 2024)."""
    raw = log_w[:, 0]
    weights = torch.from_numpy(pareto_smoothed(raw.numpy(force=True))[0])
    return float(torch.logsumexp(weights, 0)) - math.log(len(weights))
