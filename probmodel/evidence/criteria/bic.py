"""Bayesian information criterion (Schwarz, 1978), a crude stand-in for the evidence."""

import math

import torch

from probmodel.evidence.weighing.starting_draws import posterior_draws
from probmodel.evidence.weighing.weights import plain
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Posterior, Subject, Target
from probmodel.tracing.curvature import mode
from probmodel.tracing.target import target_of


def bic(subject: Subject, *, seed: int = 0) -> Evidence:
    """Log likelihood at its maximum − D/2 log N, in nats: no estimate of log Z to rely on.

    It leaves out the prior and the curvature, so that its error is O(1): the size of a Bayes factor that matters, and no
    draw shows it.  D counts the target's coordinates; parameters that the evidence is conditional on are not in it.

    Args:
        subject: posterior, or target, where N is the number of its observations.
        seed: of the draws of a bare target; the climb starts at the likeliest of them.

    Returns:
        Evidence whose `stderr` is nan, without bounds; `info` holds N, D and the maximum.

    Raises:
        ValueError: where the data have no rows, or every row has latents of its own, so that D grows with N.
        ArithmeticError: where the climb leaves the finite numbers.
    """
    target, rows = target_of(subject), num_rows(subject)
    if target.dim == 0:
        highest = plain(target)
    else:
        draws = posterior_draws(subject, seed).detach()
        start = draws[target.log_likelihood(draws).argmax()]
        likelihood = target._replace(log_joint_at=lambda theta: target.log_likelihood(theta[None])[0])
        highest = float(target.log_likelihood(mode(likelihood, start)[None])[0])
    return Evidence(
        highest - target.dim / 2 * math.log(rows),
        math.nan,
        method="bic (crude)",
        given=target.given,
        digest=target.digest,
        info={"num_rows": rows, "dim": target.dim, "max_log_likelihood": highest},
    )


def num_rows(subject: Subject) -> int:
    """N of the full data set, which an asymptotic criterion needs.

    Raises:
        ValueError: where there is none, or it is the number of latents too.
    """
    target = target_of(subject)
    rows = subject.data.size if isinstance(subject, Posterior) else _num_observations(target)
    if rows is None:
        raise ValueError(
            "expected data with rows, got size=None; give Dataset(args, kwargs, size=number of rows), or use an estimator "
            "that needs no N (evidence.importance)"
        )
    if target.by_row is not None and rows:
        raise ValueError(
            f"expected latents that rows share, got {target.dim} coordinates local to {rows} rows: the criterion is for a "
            "number of coordinates that stays as rows are added; use evidence.iwae or evidence.importance"
        )
    return rows


def _num_observations(target: Target) -> int:
    origin = torch.zeros(1, target.dim, dtype=target.dtype, device=target.device)
    return target.log_likelihood_by_row(origin).shape[-1]
