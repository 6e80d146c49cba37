"""Overfitting of models of whole rows, such as Bayesian networks and Boltzmann machines.

It is judged by the log scores of rows, and by the gain from mixing the model with independent columns (Genest & Zidek, 1986,
"Combining probability distributions").
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Distribution, Normal

from probmodel.diagnosis.findings import Finding, Verdict, finding
from probmodel.diagnosis.integrated import integrated_at_new_rows
from probmodel.diagnosis.scored import (
    SIGNIFICANT,
    Gain,
    cross_fitted,
    difference,
    is_material,
    overconfidence_verdict,
    paired,
    refuse_too_few,
    score_findings,
)
from probmodel.evidence.weighing.weights import theta_draws
from probmodel.prediction.averages import unwrapped
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.layers import HasDecision
from probmodel.protocols.model import ConditionsOnRows, Model
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.devices import on_device_of, traced_run
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import sites
from probmodel.tracing.target import target, target_of

NUM_SCORED_DRAWS, NUM_INTEGRATED_DRAWS = 500, 200
SHARES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Weights of the independent columns in the mixture with the model."""


class ScoredRows(NamedTuple):
    """Log density of each row under a fit and under independent columns, nats per row."""

    log_score: Float[Tensor, " N"]
    base_rate: Float[Tensor, " N"]


def predicts_one_site(posterior: Posterior) -> bool:
    """Return whether one observed site is predicted from the other data; else the model is a density of whole rows."""
    if isinstance(posterior.model, HasDecision | ConditionsOnRows):
        return True
    observed = observed_sites(posterior.model, posterior.data)
    return len(observed) == 1 and (_has_parameters(observed[0].fn) or len(observed[0].fn.batch_shape) != 1)


def row_findings(posterior: Posterior, held_out: Dataset) -> list[Finding]:
    """Mean log scores of training and held-out rows, their gap, and the gain from a mixture with independent columns.

    An overconfident density is improved by a mixture with the frequencies of the columns, whose weight is chosen on one half
    of the rows and scored on the other.  If the mixture gains on the held-out rows only, the model overfits; if it gains on
    the training rows too, or they are described worse than by independent columns, the model has not learned them: it
    underfits.

    Raises:
        ValueError: for fewer than two held-out rows, or latents local to a row.
    """
    train, test = scored_rows(posterior, posterior.data), scored_rows(posterior, held_out)
    refuse_too_few(test.log_score)
    if not (torch.isfinite(train.log_score).all() and torch.isfinite(test.log_score).all()):
        message = "nats per row; not finite: a row has probability zero or a density that is NaN"
        return [finding("held-out log score", float(test.log_score.mean()), message, flag=Verdict.FAILED)]
    gap, gap_error = difference(train.log_score, test.log_score)
    over, over_error = paired(test.log_score - test.base_rate)
    learned, learned_error = paired(train.log_score - train.base_rate)
    mixing = Gain(*paired(mixing_gain(test)), is_material(*paired(mixing_gain(train))))
    # Differences of nearly equal densities vary so little between rows that a hundredth of a nat would be significant.
    worse, behind = is_material(-over, over_error), is_material(-learned, learned_error)
    flag = overconfidence_verdict(
        mixing, gap_is_significant=gap > SIGNIFICANT * gap_error, narrow=not mixing.on_training_rows
    )
    overfits = flag == Verdict.OVERFITS
    return [
        *score_findings(train.log_score, test.log_score, flag if overfits else ""),
        finding(
            "overconfidence",
            mixing.mean,
            "nats per row that a mixture with independent columns gains on the held-out rows",
            stderr=mixing.stderr,
            flag=flag,
        ),
        finding(
            "gain over base rate",
            over,
            f"held-out nats per row over independent columns; {learned:.3g} on the training rows",
            stderr=over_error,
            flag=Verdict.UNDERFITS if behind else Verdict.OVERFITS if worse else "",
        ),
    ]


def scored_rows(posterior: Posterior, data: Dataset) -> ScoredRows:
    """Log densities of rows under the fit, and under independent columns fitted to the training rows."""
    data = on_device_of(data, posterior.data)
    known = observed_sites(posterior.model, posterior.data)
    new = observed_sites(posterior.model, data)
    base = [_base_rate(old, each.value) for old, each in zip(known, new, strict=True)]
    return ScoredRows(row_scores(posterior, data), torch.stack(base).sum(0))


def row_scores(posterior: Posterior, data: Dataset) -> Float[Tensor, " N"]:
    """Log E_posterior[p(row | θ)] over all observed sites together, nats per row.

    Raises:
        ValueError: for latents local to a row that importance sampling cannot integrate.
    """
    trained = target_of(posterior)
    if any(latent.row_dim is not None for latent in trained.sites.latents):
        return _integrated_scores(posterior, data)
    new = trained if data is posterior.data else target(posterior.model, data._replace(size=data.num_rows))
    none = torch.zeros(1, 0, dtype=trained.dtype, device=trained.device)
    theta = theta_draws(posterior, trained) if trained.dim else none
    with torch.no_grad():
        by_row = new.log_likelihood_by_row(some(theta)).double()
    return torch.logsumexp(by_row, 0) - math.log(len(by_row))


def _integrated_scores(posterior: Posterior, data: Dataset) -> Float[Tensor, " N"]:
    by_row, reason = integrated_at_new_rows(posterior, data, NUM_INTEGRATED_DRAWS)
    if by_row is None:
        raise ValueError(
            f"expected latents that can be integrated in a model of several observed sites, got {reason}; sum them out, or "
            "observe a single site"
        )
    return torch.logsumexp(by_row.double(), 0) - math.log(len(by_row))


def some(theta: Float[Tensor, "S D"]) -> Float[Tensor, "T D"]:
    """Up to 500 draws at equal distances."""
    return theta[torch.linspace(0, len(theta) - 1, min(NUM_SCORED_DRAWS, len(theta)), device=theta.device).long()]


class ObservedSite(NamedTuple):
    """Distribution and observed value of a site."""

    fn: Distribution
    value: Tensor


def observed_sites(model: Model, data: Dataset) -> list[ObservedSite]:
    """Observed sites of the model, in the order of its statements."""
    with isolated(seed=0), torch.no_grad():
        found, run = sites(model, data), traced_run(model, data)
    nodes: list[Any] = [run.nodes[name] for name in found.observed if name not in found.factors]
    return [ObservedSite(node["fn"], node["value"]) for node in nodes]


def _has_parameters(distribution: Distribution) -> bool:
    inner = unwrapped(distribution)
    return bool(inner.arg_constraints)


def mixing_gain(test: ScoredRows) -> Float[Tensor, " N"]:
    """Gain per row in nats at the best mixture weight, chosen on the even rows and scored on the odd ones, and the reverse."""
    share = torch.tensor(SHARES, dtype=torch.float64, device=test.log_score.device)[:, None]
    mixed = torch.logaddexp(torch.log1p(-share) + test.log_score, torch.log(share) + test.base_rate)
    return cross_fitted(mixed)[0] - test.log_score


def _base_rate(known: ObservedSite, value: Tensor) -> Float[Tensor, " N"]:
    """Log score per row of independent columns: frequencies of integers with one added to each count, or normal densities."""
    columns = [each.reshape(len(each), -1).double().unbind(1) for each in (known.value, value)]
    return torch.stack([_column_score(old, new) for old, new in zip(*columns, strict=True)]).sum(0)


def _column_score(old: Float[Tensor, " N"], new: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
    both = torch.cat([old, new])
    if bool((both == both.round()).all()) and float(both.min()) >= 0 and float(both.max()) < len(old):
        counts = torch.bincount(old.long(), minlength=int(both.max()) + 1).double() + 1
        return Categorical(probs=counts / counts.sum()).log_prob(new.long())
    return Normal(old.mean(), old.std().clamp_min(1e-6)).log_prob(new)
