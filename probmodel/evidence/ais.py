"""Annealed importance sampling (Neal, 2001), forward into the posterior and in reverse out of it."""

import time

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.arviz_data import mcse_mean
from probmodel.evidence.bounds import lower_bound, upper_bound
from probmodel.evidence.draws import start
from probmodel.evidence.ways import backward_weights, forward_weights, way_in, way_out
from probmodel.evidence.weights import independent_error, plain_evidence, warn_if_untrusted, weighted_mean
from probmodel.protocols import Evidence, Subject
from probmodel.target import target_of
from probmodel.tracing import spawn


def ais(
    subject: Subject, *, seed: int = 0, num_chains: int = 4_000, num_steps: int | None = None, level: float = 0.95
) -> Evidence:
    """Log mean weight of chains annealed from a defensive Student-t into the posterior, nats.

    Temperatures and kernels (Hamiltonian Monte Carlo) are fixed by a pilot run, so that every chain is unbiased for Z.

    Args:
        subject: a fit, or a target.
        seed: of pilot and chains.
        num_chains: independent chains.
        num_steps: temperatures; None takes the number that buys most for its cost.
        level: of the bound.

    Returns:
        Evidence whose `lower` holds with probability `level` at finite sample size.
    """
    target = target_of(subject)
    if target.dim == 0:
        return plain_evidence(target, "ais")
    begin = time.perf_counter()
    way = way_in(start(subject, seed), spawn(seed, 11), num_steps)
    log_w = forward_weights(way, num_chains, spawn(seed, 12))
    mean = weighted_mean(log_w)
    warn_if_untrusted("ais", mean, "take more temperatures (num_steps) or chains")
    return Evidence(
        mean.log_mean,
        mean.stderr,
        lower=lower_bound(log_w, level),
        level=level,
        method="ais",
        given=target.given,
        digest=target.digest,
        certified="the lower bound holds at finite sample size",
        info={
            "num_chains": len(log_w),
            "num_steps": len(way.kernels),
            "k_hat": mean.k_hat,
            "ess_share": mean.ess_share,
            "seconds": time.perf_counter() - begin,
        },
    )


def reverse_ais(subject: Subject, *, seed: int = 0, num_steps: int | None = None, level: float = 0.95) -> Evidence:
    """−log mean exp(−weight) of chains annealed from posterior draws into a truncated normal inside the posterior, nats.

    Args:
        subject: a fit, or a target, whose draws are then particles of sequential Monte Carlo.
        seed: of pilot and chains.
        num_steps: temperatures; None takes the number that buys most for its cost.
        level: of the bound.

    Returns:
        Evidence whose `upper` holds with probability `level` where the draws are exact; else as far as the draws are
        independent and of the posterior, as `certified` says.

    Reference:
        Grosse, Ghahramani & Adams (2015), "Sandwiching the marginal likelihood using bidirectional Monte Carlo".
    """
    target = target_of(subject)
    if target.dim == 0:
        return plain_evidence(target, "reverse ais")
    begin = time.perf_counter()
    first = start(subject, seed)
    way = way_out(first, spawn(seed, 13), num_steps)
    log_w = backward_weights(way, first.scored, spawn(seed, 14))
    mean = weighted_mean(-log_w)
    warn_if_untrusted("reverse ais", mean, "take more temperatures (num_steps) or posterior draws")
    kept = thinned(log_w, first.theta.shape[0], exact=first.exact)
    return Evidence(
        -mean.log_mean,
        chain_error(-log_w, first.theta.shape[0], exact=first.exact),
        upper=upper_bound(kept, level),
        level=level,
        method="reverse ais",
        given=target.given,
        digest=target.digest,
        certified=upper_condition(exact=first.exact, source=first.source),
        info={
            "num_chains": len(log_w),
            "num_independent": len(kept),
            "num_steps": len(way.kernels),
            "k_hat": mean.k_hat,
            "ess_share": mean.ess_share,
            "seconds": time.perf_counter() - begin,
        },
    )


def upper_condition(*, exact: bool, source: str) -> str:
    """Under what condition the upper bound holds."""
    if exact:
        return "the upper bound holds at finite sample size: the draws are exact"
    return f"the upper bound holds as far as the {source} are of the posterior and, thinned, independent"


def chain_error(log_w: Float[Tensor, "S R"], num_chains: int, *, exact: bool) -> float:
    """Standard error of the log of a mean weight over draws of several chains, autocorrelation included."""
    independent = independent_error(log_w)
    if exact or (num_chains == 1 and len(log_w) < 8):
        return independent
    relative = torch.softmax(log_w.double(), 0) * len(log_w)
    arrays = {"w": relative.reshape(num_chains, -1, relative.shape[1]).numpy(force=True)}
    by_chain = float(np.sqrt(np.sum(np.square(mcse_mean(arrays)["w"]))))
    return max(independent, by_chain) if np.isfinite(by_chain) else independent


def thinned(log_w: Float[Tensor, "S R"], num_chains: int, *, exact: bool) -> Float[Tensor, "K R"]:
    """As many weights, evenly spaced along the chains, as there are independent ones by their autocorrelation."""
    if exact:
        return log_w
    plain = independent_error(-log_w)
    ratio = chain_error(-log_w, num_chains, exact=False) / plain if plain > 0 else 1.0
    keep = max(1, int(len(log_w) / max(1.0, ratio**2)))
    return log_w[torch.linspace(0, len(log_w) - 1, keep, device=log_w.device).long()]
