"""Aggregation of experts' predictions: products of experts and Bayesian committee machines (review: Liu et al., 2018).

Expert k predicts f ~ N(m_k, v_k) at a new row with prior N(0, s); the aggregated prediction is N(m, v).  The prior mean
is subtracted from all means.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.families.gaussian_processes.conditional import NormalMarginals
from probmodel.protocols.arguments.checks import checks_arguments


def own_shards(shards: Sequence[Tensor]) -> list[Tensor]:
    """Conditions each expert on its own shard."""
    return list(shards)


def with_communication_shard(shards: Sequence[Tensor]) -> list[Tensor]:
    """Conditions the first expert on its own shard, and each other expert on the first shard and its own."""
    return [shards[0], *(torch.cat([shards[0], shard]) for shard in shards[1:])]


@dataclass(frozen=True)
class Aggregation:
    """Rule that aggregates experts, called with their means and variances of f and the prior variance.

    A single expert is returned unchanged, whatever the rule.

    >>> two = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5], [0.5]])
    >>> poe(*two, torch.ones(1))
    NormalMarginals(mean=tensor([2.]), variance=tensor([0.2500]))

    Args:
        join: (means (K, m), variances (K, m), prior variance (m,)) → `NormalMarginals` of the m rows.
        rows: row numbers of each shard → row numbers that each expert is conditioned on.
    """

    join: Callable[[Tensor, Tensor, Tensor], NormalMarginals]
    rows: Callable[[Sequence[Tensor]], list[Tensor]] = own_shards

    @checks_arguments
    def __call__(
        self, mean: Float[Tensor, "K m"], variance: Float[Tensor, "K m"], prior: Float[Tensor, " m"]
    ) -> NormalMarginals:
        return NormalMarginals(mean[0], variance[0]) if len(mean) == 1 else self.join(mean, variance, prior)

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"join": self.join, "rows": self.rows}


def product_of_experts(mean: Tensor, variance: Tensor, prior: Tensor) -> NormalMarginals:
    """Product of experts, 1/v = Σ_k 1/v_k and m = v Σ_k m_k / v_k: overconfident, and more so with more experts.

    Reference:
        Hinton (2002), Training Products of Experts by Minimizing Contrastive Divergence, Neural Computation 14.
    """
    return _weighted(mean, variance, torch.ones_like(variance))


def generalized_product_of_experts(mean: Tensor, variance: Tensor, prior: Tensor) -> NormalMarginals:
    """Generalized product of experts, 1/v = Σ_k β_k / v_k and m = v Σ_k β_k m_k / v_k with Σ_k β_k = 1.

    β_k is proportional to ½ (log s − log v_k), the entropy in nats that expert k removes from the prior; all are equal
    where no expert removes any.  Far from all data v = s.

    Reference:
        Cao & Fleet (2014), Generalized Product of Experts for Automatic and Principled Fusion of Gaussian Process
        Predictions.
    """
    taken = _entropy_taken(variance, prior)
    total = taken.sum(0)
    weights = torch.where(total > 0.0, taken / torch.where(total > 0.0, total, 1.0), 1.0 / len(taken))
    return _weighted(mean, variance, weights)


def bayesian_committee(mean: Tensor, variance: Tensor, prior: Tensor) -> NormalMarginals:
    """Bayesian committee machine, 1/v = Σ_k 1/v_k − (K − 1) / s and m = v Σ_k m_k / v_k, which counts the prior once.

    Reference:
        Tresp (2000), A Bayesian Committee Machine, Neural Computation 12.
    """
    return _corrected(mean, variance, torch.ones_like(variance), prior)


def robust_bayesian_committee(mean: Tensor, variance: Tensor, prior: Tensor) -> NormalMarginals:
    """Robust Bayesian committee machine, 1/v = Σ_k β_k / v_k + (1 − Σ_k β_k) / s and m = v Σ_k β_k m_k / v_k.

    β_k = ½ (log s − log v_k), the entropy in nats that expert k removes from the prior.  Far from all data v = s.

    Reference:
        Deisenroth & Ng (2015), Distributed Gaussian Processes, ICML, eqs. (20) to (22).
    """
    return _corrected(mean, variance, _entropy_taken(variance, prior), prior)


def generalized_robust_bayesian_committee(mean: Tensor, variance: Tensor, prior: Tensor) -> NormalMarginals:
    """Generalized robust Bayesian committee machine, whose first expert takes the place of the prior.

    1/v = Σ_k β_k / v_k + (1 − Σ_k β_k) / v_c and m = v (Σ_k β_k m_k / v_k + (1 − Σ_k β_k) m_c / v_c).  Expert c, the
    first, is conditioned on the communication shard, and each other expert on that shard and its own.  β is 1 for the
    second expert, so that two experts give the exact process, and ½ (log v_c − log v_k) for the others.  Unlike the
    other aggregations it is consistent: it tends to the exact process as the number of rows grows.

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
generalized_robust_bcm = Aggregation(generalized_robust_bayesian_committee, rows=with_communication_shard)


def _entropy_taken(variance: Float[Tensor, "K m"], prior: Float[Tensor, " m"]) -> Float[Tensor, "K m"]:
    """Entropy ½ (log s − log v_k) in nats that each expert removes from the prior, rounding errors below 0 cut off."""
    return (0.5 * (prior.log() - variance.log())).clamp(min=0.0)


def _weighted(mean: Tensor, variance: Tensor, weights: Tensor) -> NormalMarginals:
    precisions = weights / variance
    joined = 1.0 / precisions.sum(0)
    return NormalMarginals(joined * (precisions * mean).sum(0), joined)


def _corrected(mean: Tensor, variance: Tensor, weights: Tensor, prior: Tensor) -> NormalMarginals:
    # In this order of sums the precision is at least the prior's, since no v_k exceeds s.
    joined = 1.0 / (1.0 / prior + (weights * (1.0 / variance - 1.0 / prior)).sum(0))
    return NormalMarginals(joined * (weights * mean / variance).sum(0), joined)
