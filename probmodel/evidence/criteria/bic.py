"""Bayesian information criterion (Schwarz, 1978), a crude approximation of the evidence."""

import math
from dataclasses import replace

import torch

from probmodel.evidence.weighing.starting_draws import posterior_draws
from probmodel.evidence.weighing.starting_point import starting_point
from probmodel.evidence.weighing.weights import plain
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject, Target
from probmodel.tracing.curvature import mode
from probmodel.tracing.target import target_of


@checks_arguments
def bic(subject: Subject, *, seed: int = 0) -> Evidence:
    """Maximum log likelihood − D/2 log N, in nats; not a reliable estimate of log Z.

    It omits the prior and the curvature, so that its error is O(1), the size of a Bayes factor that matters, and no
    draws show it.  D is the number of the target's coordinates, without parameters that the evidence is conditional on.

    Args:
        subject: a fit, or a target, where N is the number of its observations.
        seed: random seed of any draws that the subject does not hold; the ascent starts at the draw of highest
            likelihood.

    Returns:
        Evidence without bounds, whose `stderr` is nan; `info` holds N, D and the maximum log likelihood.

    Raises:
        ValueError: if the data have no rows, or every row has latents of its own, so that D grows with N.
        ArithmeticError: if the ascent reaches values that are not finite.
    """
    target, rows = target_of(subject), num_rows(subject)
    if target.dim == 0:
        highest = plain(target)
    else:
        draws = posterior_draws(subject, seed).detach()
        start = draws[target.log_likelihood(draws).argmax()]
        likelihood = replace(target, log_joint_at=lambda theta: target.log_likelihood(theta[None])[0])
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
    """Number N of rows of the full data set, which an asymptotic criterion needs.

    Raises:
        ValueError: if there is no such number, or every row has latents of its own.
    """
    target = target_of(subject)
    data = starting_point(subject).data
    rows = _num_observations(target) if data is None else data.size
    if rows is None:
        raise ValueError(
            "expected data with rows, got size=None; give Dataset(args, kwargs, size=number of rows), or use an estimator "
            "that needs no N (evidence.importance)"
        )
    if target.by_row is not None and rows:
        raise ValueError(
            f"expected latents that rows share, got {target.dim} coordinates local to {rows} rows, whose number grows with the "
            "data; use evidence.iwae or evidence.importance"
        )
    return rows


def _num_observations(target: Target) -> int:
    origin = torch.zeros(1, target.dim, dtype=target.dtype, device=target.device)
    return target.log_likelihood_by_row(origin).shape[-1]
