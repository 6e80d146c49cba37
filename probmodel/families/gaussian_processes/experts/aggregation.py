"""Experts' predictions joined into one: products of experts and Bayesian committee machines (Liu et al., 2018, review them all).

Expert k says f ~ N(m_k, v_k) at a new row whose prior is N(0, s); the joined one is N(m, v).  Means are above the prior's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.families.gaussian_processes.conditional import NormalMarginals


def separate(shards: Sequence[Tensor]) -> list[Tensor]:
    """Each expert sees its own shard."""
    return list(shards)


def communicating(shards: Sequence[Tensor]) -> list[Tensor]:
    """The first expert sees its own shard; each other one the first shard and its own."""
    return [shards[0], *(torch.cat([shards[0], shard]) for shard in shards[1:])]


@dataclass(frozen=True)
class Aggregation:
    """A way to join experts, called with their means and variances of f and the prior variance.

    A single expert is returned as it is, whatever `join` would make of it.

    >>> two = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5], [0.5]])
    >>> poe(*two, torch.ones(1))
    Marginals(mean=tensor([2.]), variance=tensor([0.2500]))

    Args:
        join: (means (K, m), variances (K, m), prior variance (m,)) → Marginals.
        rows: the shards' row numbers → those that each expert sees.
    """

    join: Callable[[Tensor, Tensor, Tensor], NormalMarginals]
    rows: Callable[[Sequence[Tensor]], list[Tensor]] = separate

    def __call__(
        self, mean: Float[Tensor, "K m"], variance: Float[Tensor, "K m"], prior: Float[Tensor, " m"]
    ) -> NormalMarginals:
        return NormalMarginals(mean[0], variance[0]) if len(mean) == 1 else self.join(mean, variance, prior)


def product_of_experts(mean: Tensor, variance: Tensor, prior: Tensor) -> NormalMarginals:
    """1/v = Σ_k 1/v_k and m = v Σ_k m_k / v_k: overconfident, more so the more experts there are.

    Reference:
        Hinton (2002), Training Products of Experts by Minimizing Contrastive Divergence, Neural Computation 14.
    """
    return _weighted(mean, variance, torch.ones_like(variance))


def generalized_product_of_experts(mean: Tensor, variance: Tensor, prior: Tensor) -> NormalMarginals:
    """1/v = Σ_k β_k / v_k and m = v Σ_k β_k m_k / v_k with Σ_k β_k = 1.

    β_k is proportional to ½ (log s − log v_k), the entropy in nats that expert k takes away from the prior; equal where
    none takes any.  Far from all data v = s.

    Reference:
        Cao & Fleet (2014), Generalized Product of Experts for Automatic and Principled Fusion of Gaussian Process Predictions.
    """
    taken = _entropy_taken(variance, prior)
    total = taken.sum(0)
    weights = torch.where(total > 0.0, taken / torch.where(total > 0.0, total, 1.0), 1.0 / len(taken))
    return _weighted(mean, variance, weights)


def bayesian_committee(mean: Tensor, variance: Tensor, prior: Tensor) -> NormalMarginals:
    """1/v = Σ_k 1/v_k − (K − 1) / s and m = v Σ_k m_k / v_k: the prior is counted once.

    Reference:
        Tresp (2000), A Bayesian Committee Machine, Neural Computation 12.
    """
    return _corrected(mean, variance, torch.ones_like(variance), prior)


def robust_bayesian_committee(mean: Tensor, variance: Tensor, prior: Tensor) -> NormalMarginals:
    """1/v = Σ_k β_k / v_k + (1 − Σ_k β_k) / s and m = v Σ_k β_k m_k / v_k.

    β_k = ½ (log s − log v_k), the entropy in nats that expert k takes away from the prior.  Far from all data v = s.

    Reference:
        Deisenroth & Ng (2015), Distributed Gaussian Processes, ICML, eqs. (20) to (22).
    """
    return _corrected(mean, variance, _entropy_taken(variance, prior), prior)


def generalized_robust_bayesian_committee(mean: Tensor, variance: Tensor, prior: Tensor) -> NormalMarginals:
    """1/v = Σ_k β_k / v_k + (1 − Σ_k β_k) / v_c and m = v (Σ_k β_k m_k / v_k + (1 − Σ_k β_k) m_c / v_c).

    Expert c, the first, sees the communication shard and takes the prior's place; each other one sees that shard and its
    own.  β of the second expert is 1, so that two are the exact process; of the others ½ (log v_c − log v_k).  Unlike
    the others it is consistent: it tends to the exact process as the rows grow in number.

    Reference:
        Liu, Cai, Wang & Ong (2018), Generalized Robust Bayesian Committee Machine for Large-scale Gaussian Process
        Regression, ICML, eqs. (10) to (12).
    """
    weights = torch.cat([torch.ones_like(variance[1:2]), _entropy_taken(variance[2:], variance[0])])
    above = _corrected(mean[1:] - mean[0], variance[1:], weights, variance[0])
    return NormalMarginals(mean[0] + above.mean, above.variance)


poe = Aggregation(product_of_experts)
gpoe = Aggregation(generalized_product_of_experts)
bcm = Aggregation(bayesian_committee)
robust_bcm = Aggregation(robust_bayesian_committee)
generalized_robust_bcm = Aggregation(generalized_robust_bayesian_committee, rows=communicating)


def _entropy_taken(variance: Float[Tensor, "K m"], prior: Float[Tensor, " m"]) -> Float[Tensor, "K m"]:
    """½ (log s − log v_k), nats; not below 0, where only rounding can bring it."""
    return (0.5 * (prior.log() - variance.log())).clamp(min=0.0)


def _weighted(mean: Tensor, variance: Tensor, weights: Tensor) -> NormalMarginals:
    precisions = weights / variance
    joined = 1.0 / precisions.sum(0)
    return NormalMarginals(joined * (precisions * mean).sum(0), joined)


def _corrected(mean: Tensor, variance: Tensor, weights: Tensor, prior: Tensor) -> NormalMarginals:
    # In this order of sums the precision is not below the prior's, as no v_k exceeds s.
    joined = 1.0 / (1.0 / prior + (weights * (1.0 / variance - 1.0 / prior)).sum(0))
    return NormalMarginals(joined * (weights * mean / variance).sum(0), joined)
