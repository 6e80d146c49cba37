"""Evidence lower bound as a loss (Jordan et al., 1999; Kingma & Welling, 2014)."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from probmodel.protocols import Dataset, Model
from probmodel.sites import guide_sites, guided_runs, unreparametrised


def elbo(model: Model, guide: Model, data: Dataset) -> Float[Tensor, ""]:
    """−ELBO = E_q[log q(z) − log p(z)] − E_q[log p(data | z)], one draw of z, in nats over the whole data set.

    The first term is the closed-form Kullback–Leibler divergence for each site where PyTorch knows one and a difference
    of log-probabilities elsewhere.  Discrete latents without a guide are summed out; those a guide draws, as all that
    cannot be reparametrised, get the score-function gradient (Williams, 1992): unbiased, and noisier.

    Args:
        model: Pyro model.
        guide: Pyro guide for its continuous latents.
        data: all rows or a minibatch; the rows' terms are scaled by size / rows.

    Raises:
        ValueError: naming a latent that the guide does not draw, or for a minibatch of a model without a plate over rows.
    """
    drawn, replayed, joint = guided_runs(model, guide, data)
    loss = -joint
    for name, q in guide_sites(drawn).items():
        p = replayed.nodes.get(name)
        divergence = None if p is None else _closed_form(q, p)
        closed = None if p is None or divergence is None else divergence + p["log_prob"].sum()
        # The joint already holds log p(z); the closed form replaces it and log q(z) together.
        loss = loss + (q["log_prob"].sum() if closed is None else closed)
    fixed = unreparametrised(drawn)
    if not fixed:
        return loss
    # The draw's own probability, unscaled: the expectation is over this draw, however many rows it stands for.
    score = sum(q["unscaled_log_prob"].sum() for q in fixed.values())
    return loss + loss.detach() * (score - score.detach())


def _closed_form(q: Mapping[str, Any], p: Mapping[str, Any]) -> Tensor | None:
    if isinstance(q["fn"], Delta):
        return None  # Pyro's divergence of a Delta leaves out its log density: the Jacobian of an automatic guide.
    try:
        divergence = kl_divergence(q["fn"], p["fn"])
    except NotImplementedError:
        return None
    # A divergence of batch shape means the sites' plates agree; anything else is left to log-probabilities.
    if divergence.shape != torch.Size(p["fn"].batch_shape):
        return None
    return scale_and_mask(divergence, p["scale"], p["mask"]).sum()
