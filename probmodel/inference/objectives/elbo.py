"""Evidence lower bound as a loss (Jordan et al., 1999; Kingma & Welling, 2014)."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import MultiFrameTensor
from torch import Tensor
from torch.distributions import kl_divergence

from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model
from probmodel.tracing.guided_runs import guide_sites, guided_runs, unreparametrized
from probmodel.tracing.internals import is_subsample


@checks_arguments
def elbo(model: Model, guide: Model, data: Dataset) -> Float[Tensor, ""]:
    """Negative evidence lower bound by one draw of z, in nats over the whole data set.

    −ELBO = E_q[log q(z) − log p(z)] − E_q[log p(data | z)], where the first term is the closed-form Kullback–Leibler
    divergence for each site where PyTorch knows one, and a difference of log-probabilities elsewhere.  Discrete latents
    without a guide are summed out; those that a guide draws, like all draws that cannot be reparametrized, get the
    score-function gradient (Williams, 1992), which is unbiased but noisier.

    Args:
        model: Pyro model.
        guide: Pyro guide for its continuous latents.
        data: all rows or a minibatch; the rows' terms are scaled by size / rows.

    Returns:
        Loss, a scalar with gradients.

    Raises:
        ValueError: for a latent that the guide does not draw, or for a minibatch of a model without a plate over rows.
    """
    drawn, replayed, joint = guided_runs(model, guide, data)
    loss = -joint
    for name, q in guide_sites(drawn).items():
        p = replayed.nodes.get(name)
        divergence = None if p is None else _closed_form(q, p)
        closed = None if p is None or divergence is None else divergence + p["log_prob"].sum()
        # The joint already holds log p(z); the closed form replaces it and log q(z) together.
        loss = loss + (q["log_prob"].sum() if closed is None else closed)
    return loss + _score_terms(drawn, replayed, loss)


def _score_terms(drawn: poutine.Trace, replayed: poutine.Trace, loss: Tensor) -> Tensor:
    """Zero in value, with the gradient that draws which cannot be reparametrized would miss (Ranganath et al., 2014).

    The score of each draw is multiplied by the terms inside its own plates and those outside of all plates, since rows
    do not affect each other's terms.  Where discrete latents are summed out as well, the terms are not separate, and
    the score of each draw is multiplied by all of them.
    """
    fixed, total = unreparametrized(drawn), torch.zeros_like(loss)
    if not fixed:
        return total
    model = [n for n in replayed.nodes.values() if "log_prob" in n and not is_subsample(n["fn"])]
    summed_out = any((n["infer"] or {}).get("_enumerate_dim") is not None for n in model)
    costs = MultiFrameTensor(*((n["cond_indep_stack"], -_by_plate(n)) for n in model))
    costs.add(*((q["cond_indep_stack"], _by_plate(q)) for q in guide_sites(drawn).values()))
    for q in fixed.values():
        # The draw's own probability, unscaled: the expectation is over this draw, however many rows it stands for.
        score = q["unscaled_log_prob"]
        cost = loss.detach() if summed_out else costs.sum_to(q["cond_indep_stack"])
        total = total + (cost * (score - score.detach())).sum()
    return total


def _by_plate(node: Mapping[str, Any]) -> Tensor:
    """Log-probability of a site without gradient, summed over the axes that no plate declares."""
    log_prob: Tensor = node["log_prob"].detach()
    declared = {frame.dim for frame in node["cond_indep_stack"] if frame.vectorized}
    open_axes = [axis for axis in range(-log_prob.dim(), 0) if axis not in declared]
    return log_prob.sum(open_axes, keepdim=True) if open_axes else log_prob


def _closed_form(q: Mapping[str, Any], p: Mapping[str, Any]) -> Tensor | None:
    if isinstance(q["fn"], Delta):
        return None  # Pyro's divergence of a Delta leaves out its log density: the Jacobian of an automatic guide.
    try:
        divergence = kl_divergence(q["fn"], p["fn"])
    except NotImplementedError:
        return None
    # Only a divergence of the prior's batch shape has the same plates on both sides; others use log-probabilities.
    if divergence.shape != torch.Size(p["fn"].batch_shape):
        return None
    return scale_and_mask(divergence, p["scale"], p["mask"]).sum()
