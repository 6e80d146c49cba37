"""Evidence in closed form: supplied by the model, or recognized as that of a conjugate model."""

import torch

from probmodel.evidence.weighing.starting_point import starting_point
from probmodel.evidence.weighing.weights import plain
from probmodel.protocols.errors import NotConjugateError
from probmodel.protocols.posterior import Subject, Target
from probmodel.tracing.conjugate import Conjugate, conjugate_target, normal_posterior, supplied
from probmodel.tracing.curvature import block_index

MAX_CURVATURE = 200
"""Largest number of coordinates per block for which a closed form is sought, at the cost of a Hessian."""


def closed_form(subject: Subject) -> Conjugate:
    """Exact posterior of a conjugate model, supplied in closed form by the model or recognized.

    For a target, which comes without its model, only a normal posterior is recognized.

    Args:
        subject: a fit, or a target.

    Raises:
        NotConjugateError: if there is no closed form, or there are too many coordinates to recognize one.
    """
    point = starting_point(subject)
    known = None if point.model is None or point.data is None else supplied(point.model, point.data)
    if known is not None:
        return known
    target = point.target
    if target.dim == 0:
        return Conjugate(plain(target), None, {})
    size = block_index(target).shape[1]
    if size > MAX_CURVATURE:
        raise NotConjugateError(
            f"expected {MAX_CURVATURE} coordinates per block or fewer, got {size}; use evidence.ais, or evidence.iwae of "
            "an SVI fit"
        )
    try:
        if point.model is not None:
            return conjugate_target(target)
        if not _is_unconstrained(target):
            raise NotConjugateError(
                "expected normal latents alone, got constrained ones; pass a fit, whose model states their priors"
            )
        return normal_posterior(target)
    except ArithmeticError as error:
        raise NotConjugateError(f"expected a posterior in closed form, got: {error}; use evidence.sandwich") from error


def _is_unconstrained(target: Target) -> bool:
    theta = torch.linspace(-2, 2, target.dim, dtype=target.dtype, device=target.device)[None]
    values = [value.reshape(1, -1) for value in target.constrain(theta).values()]
    return not values or torch.equal(torch.cat(values, -1), theta)
