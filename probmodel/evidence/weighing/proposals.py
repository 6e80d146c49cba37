"""Where importance sampling proposes from: a Student-t at the draws or at the mode, with a wider one for defence."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.evidence.annealing.reference import Base, StudentT, around, matched
from probmodel.evidence.weighing.starting_draws import own_draws
from probmodel.evidence.weighing.starting_point import starting_point
from probmodel.protocols.posterior import Subject, Target
from probmodel.tracing.curvature import gaussian_at, mode
from probmodel.tracing.target import target_of

NUM_STARTS = 200
"""Prior draws, of which the best is where the climb to the mode begins."""

Proposal = Callable[[Subject, int], Base]
"""(fit or target, seed) → what to propose from."""


def from_draws(subject: Subject, seed: int) -> Base:
    """Mean and covariance of a fit's draws, or of particles of sequential Monte Carlo for a bare target; one Student-t a
    cluster of draws.
    """
    return matched(target_of(subject), own_draws(subject, seed))


def from_mode(subject: Subject, seed: int) -> Base:
    """Mode and inverse Hessian, climbed to from the best of a fit's draws, or of prior draws for a bare target: the quickest
    proposal, for posteriors with one mode.

    Raises:
        ArithmeticError: where the climb finds no maximum.
    """
    target = target_of(subject)
    fitted = starting_point(subject).model is not None
    starts = own_draws(subject, seed) if fitted else target.sample_prior(NUM_STARTS, seed)
    gaussian = gaussian_at(target, mode(target, best_of(target, starts)))
    index = gaussian.coordinates
    return around(StudentT(index, gaussian.loc[index], gaussian.scale_tril))


def best_of(target: Target, theta: Float[Tensor, "S D"]) -> Float[Tensor, " D"]:
    """The draw of highest density."""
    with torch.no_grad():
        return theta[target.log_joint(theta).nan_to_num(-torch.inf, -torch.inf, -torch.inf).argmax()]
