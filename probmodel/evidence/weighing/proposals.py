"""Proposals of importance sampling: a Student-t at the draws or at the mode, mixed with a wider, defensive one."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.evidence.annealing.reference import Base, StudentT, around, matched
from probmodel.evidence.weighing.starting_draws import own_draws
from probmodel.evidence.weighing.starting_point import starting_point
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.posterior import Subject, Target
from probmodel.tracing.curvature import gaussian_at, mode
from probmodel.tracing.target import target_of

NUM_STARTS = 200
"""Number of prior draws; the ascent to the mode starts from the one of highest density."""

Proposal = Callable[[Subject, int], Base]
"""Function (fit or target, seed) → distribution to propose from."""


@checks_arguments
def from_draws(subject: Subject, seed: int) -> Base:
    """Student-t proposal with the mean and covariance of draws, one component per cluster of them.

    Args:
        subject: a fit, whose own draws are taken, or a target, for which particles of sequential Monte Carlo are drawn.
        seed: random seed of the particles; unused for a fit.

    Raises:
        ValueError: if there are no draws and the prior cannot be sampled, or the draws do not fit the model.
    """
    return matched(target_of(subject), own_draws(subject, seed))


@checks_arguments
def from_mode(subject: Subject, seed: int) -> Base:
    """Student-t proposal from the mode and inverse negative Hessian, the quickest for posteriors with one mode.

    Args:
        subject: a fit, or a target; the ascent starts from the draw of highest density, of a fit's draws or of prior
            draws.
        seed: random seed of the prior draws; unused for a fit.

    Raises:
        ArithmeticError: if the ascent finds no maximum.
    """
    target = target_of(subject)
    fitted = starting_point(subject).model is not None
    starts = own_draws(subject, seed) if fitted else target.sample_prior(NUM_STARTS, seed)
    gaussian = gaussian_at(target, mode(target, best_of(target, starts)))
    index = gaussian.coordinates
    return around(StudentT(index, gaussian.loc[index], gaussian.scale_tril))


def best_of(target: Target, theta: Float[Tensor, "S D"]) -> Float[Tensor, " D"]:
    """Draw of highest density."""
    with torch.no_grad():
        return theta[target.log_joint(theta).nan_to_num(-torch.inf, -torch.inf, -torch.inf).argmax()]
