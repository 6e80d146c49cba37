"""Importance-weighted bound as a loss (Burda, Grosse & Salakhutdinov, 2016)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.integers import integer
from probmodel.protocols.model import Model
from probmodel.tracing.guided_runs import log_weights


@checks_arguments
def iwae(num_particles: int) -> Callable[[Model, Model, Dataset], Float[Tensor, ""]]:
    """Objective of the importance-weighted bound: −Σ log (1/k Σ_j w_j) with w_j = p(data, z_j) / q(z_j).

    Where every latent is local to a row the outer sum runs over rows, which is far tighter than one weight for all.

    Args:
        num_particles: number k of draws; 1 gives the ELBO without closed-form divergences.

    Returns:
        Objective: (model, guide, data) → loss in nats over the whole data set.

    Raises:
        ValueError: for `num_particles` that is not an integer of 1 or more; when the objective is called, for a site of
            the guide that is not reparametrized, or for a minibatch where rows share latents.
    """
    num_particles = integer("num_particles", num_particles)

    def objective(model: Model, guide: Model, data: Dataset) -> Float[Tensor, ""]:
        # Pyro's handlers take one draw per run; the loop is unrolled into the traced graph.
        particles = [log_weights(model, guide, data) for _ in range(num_particles)]
        if particles[0].unreparametrized:
            raise ValueError(
                f"expected a guide with reparametrized draws, got site(s) {list(particles[0].unreparametrized)} "
                "that cannot be reparametrized; use the elbo"
            )
        if num_particles > 1 and particles[0].values.numel() == 1 and data.num_rows != data.size:
            raise ValueError(
                f"expected all {data.size} rows, got a minibatch of {data.num_rows} for latents that rows share: the "
                "logarithm of an average cannot be scaled; fit without batch_size, or use the elbo"
            )
        log_w = torch.stack([particle.values for particle in particles])
        return -particles[0].scale * (torch.logsumexp(log_w, 0) - math.log(num_particles)).sum()

    return objective
