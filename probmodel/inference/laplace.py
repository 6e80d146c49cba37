"""Laplace's normal approximation at the mode (Tierney & Kadane, 1986)."""

import time
from dataclasses import dataclass

import torch

from probmodel.inference.guides.draws import guide_draws
from probmodel.inference.guides.exact import GaussianGuide
from probmodel.inference.interrupts import Reached, until_interrupted, warn_interrupted
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.integers import check_counts, checked_seed, integer
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.checks import check_training
from probmodel.tracing.curvature import gaussian_at, mode
from probmodel.tracing.latents.supports import refuse_moved
from probmodel.tracing.ownership import copied_to_data
from probmodel.tracing.target import density_of


@checks_fields
@dataclass(frozen=True)
class Laplace:
    """Normal approximation N(mode, (−Hessian)⁻¹) in unconstrained coordinates, of the log joint with its Jacobian.

    Args:
        num_samples: number of draws to keep.
        num_starts: number of ascents, each from its own prior draw; the highest mode is used.
    """

    num_samples: int = 1_000
    num_starts: int = 3

    def __post_init__(self) -> None:
        check_counts(self, "num_samples", "num_starts")

    @checks_arguments
    def __call__(self, model: Model, data: Dataset, *, seed: int) -> Posterior:
        """Find the mode, and draw from the normal approximation at it.

        Returns:
            Posterior whose guide is the approximation; `info["log_joint_at_modes"]` has the log joint, in nats, at the
            mode that each ascent reached.

        Raises:
            ValueError: for a model without continuous latents, unsuitable data, or settings out of range.
            ArithmeticError: where no maximum with a negative definite Hessian is found.
        """
        num_samples, num_starts = integer("num_samples", self.num_samples), integer("num_starts", self.num_starts)
        seed = checked_seed(seed)
        check_training(model, data)
        begin = time.perf_counter()
        model = copied_to_data(model, data)
        target = density_of(model, data)
        latents = target.sites.latents
        refuse_moved(target.sites, "a Laplace approximation")
        if not latents:
            raise ValueError(
                "expected continuous latents to integrate, got none; fit parameters by MaximumLikelihood or SVI, "
                "or add priors"
            )
        starts = target.sample_prior(num_starts, seed) if target.dim else torch.zeros(1, 0, dtype=target.dtype)
        modes, reached = list[torch.Tensor](), Reached(())
        with until_interrupted(reached):
            for start in starts:
                modes.append(mode(target, start))
                reached.keep(len(modes))
        if len(modes) < len(starts):
            warn_interrupted("Laplace", len(modes), len(starts), "ascents")
        best = max(modes, key=lambda theta: float(target.log_joint_at(theta).detach()))
        guide = GaussianGuide(gaussian_at(target, best), latents)
        draws = guide_draws(guide, data, latents, num_samples, seed)
        info = {
            "method": "Laplace",
            "seed": seed,
            "log_joint_at_modes": [float(target.log_joint_at(theta).detach()) for theta in modes],
            "interrupted": len(modes) < len(starts),
            "fallback": target.fallback,
            "seconds": time.perf_counter() - begin,
        }
        return Posterior(model, data, draws, info, guide)
