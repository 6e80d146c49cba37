"""Verdict on a fit from all of its checks.

Each rule stands here once.  A finding is flagged with the verdict that it supports; the first verdict of *inference failed*,
*overfits*, *underfits* that flags any finding is that of the fit, and *fits* is left where none does.  A caution says of a
number that it is not to be relied on, and decides nothing.  n is the number of rows; significant is above two standard
errors; material also above 0.05 nats per row.

| finding | inference failed if |
|---|---|
| `loss`, `descent` | not finite; higher at the end than at the start |
| `plateau` | a line through the last half of the losses (of 500 at most) falls, significantly and by more than 1 nat and 0.05 n |
| `plateau` | fewer than 100 steps; or the log likelihood of a Boltzmann machine still rises by the same rule |
| `converged` | the optimizer stopped before its tolerance, and the estimate does not overfit already |
| `R-hat`, `ESS` | above 1.01, or a single chain; below 400 |
| `divergences`, `stuck chains` | above 0.01 of the transitions; any |
| `guide k-hat` | above 0.7, where weights are not even, on more than 0.05 of the rows (with shared latents: at all) |
| `loo k-hat` | above 0.7 on more than 0.05 of the rows, without held-out rows and with p_loo below n / 2 |
| `agreement`, `evidence bounds` | p below 1e-5; lower above upper |

| finding | overfits if |
|---|---|
| `gap`, `overconfidence` | widening gains on new rows, materially, and the gap is significant or the training rows do not gain |
| `gap` | significant and material, of point estimates with an effective dimension above n / 2, and `lost gain` above 0.5 |
| `gain over base rate` | significantly below zero on new rows, though above it on the training rows |
| `p_loo` | above n / 2, without held-out rows |
| `refitting`, `permuted` | of a Gaussian process: its score rests on fitting the hyperparameters (`refitted`) |
| `smaller model` | ahead in conditional evidence, given a symptom: any of these, or `p_loo ratio` above 1.5 |

| finding | underfits if |
|---|---|
| `gain over base rate` | nothing is gained on the training rows, though they have features |
| `overconfidence` | the same widening gains on the training rows and the gap is not significant, or sharpening gains |

| finding | caution, and a mark † at the number, if |
|---|---|
| `negative curvature` | above 0.1 at point estimates: `effective dimension` |
| `loo k-hat` | above 0.7 on any row: `elpd_loo`, `p_loo` |
| `evidence k-hat`, `refused estimates` | above 0.7, where weights are not even; any: `log evidence` |
| `new rows` | no check of new rows is possible without held-out ones |
| any flagged *inference failed* | all numbers that rest on the fit |
"""

from collections.abc import Hashable, Mapping

from probmodel.diagnosis.agreement import check_same_observations, evidence_findings
from probmodel.diagnosis.complexity import complexity
from probmodel.diagnosis.convergence import convergence
from probmodel.diagnosis.findings import Diagnosis, Verdict
from probmodel.diagnosis.overfitting import overfitting
from probmodel.diagnosis.rule import against_smaller, doubted, follows_rows, overfits_already, p_loo_ratio
from probmodel.prediction.new_rows import check_columns
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Posterior
from probmodel.protocols.session.progress import shows_progress
from probmodel.tracing.checks import check
from probmodel.tracing.devices import on_device_of
from probmodel.tracing.target import target_of

ORDER = (Verdict.FAILED, Verdict.OVERFITS, Verdict.UNDERFITS)
"""Verdicts by priority: the first one that flags any finding is the verdict."""


@checks_arguments
@shows_progress
def diagnose(
    posterior: Posterior,
    held_out: Dataset | None = None,
    *,
    evidence: Evidence | None = None,
    conditional: Evidence | None = None,
    smaller: Mapping[Hashable, Evidence] | None = None,
    progress: bool = True,
) -> Diagnosis:
    """Check whether a fit converged, how complex it is, and whether it overfits or underfits.

    The rules stand at the head of this module.  If the conditional evidence of smaller models is given, a symptom of
    overfitting counts only if one of them has the higher conditional evidence: a large model whose parameters the data
    support has a gap, but does not overfit.

    Args:
        posterior: fit by any inference.
        held_out: rows that the fit has not used; required for point estimates alone.
        evidence: estimate of the evidence if there is one; it is listed among the findings.
        conditional: `conditional_evidence` of this model.
        smaller: name → `conditional_evidence` of a model with fewer parameters, for the same rows given the same rows.
        progress: whether to show what is being computed.

    Returns:
        Diagnosis: a verdict, *inference failed* before *overfits* before *underfits* before *fits*, and the findings.

    Raises:
        ValueError: for held-out rows with other columns, fewer than two of them, or none where they are required; for
            conditional evidences that cannot be compared.

    Reference:
        Lotfi et al. (2022), "Bayesian model selection, the marginal likelihood, and generalization"; Vehtari, Gelman &
        Gabry (2017), "Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC".
    """
    if held_out is not None:
        held_out = on_device_of(held_out.in_columns_of(posterior.data), posterior.data)
        check_columns(posterior, held_out)
        check(posterior.model, held_out)
    check_same_observations(posterior, evidence)
    found = [*convergence(posterior, evidence), *complexity(posterior), *evidence_findings(evidence)]
    found += overfitting(posterior, held_out)
    if not _has_shared_latents(posterior):
        found = follows_rows(found, posterior.data.num_rows)
    found += p_loo_ratio(found)
    found = doubted(overfits_already(against_smaller(found, conditional, smaller or {})))
    flags = {each.flag for each in found}
    return Diagnosis(next((verdict for verdict in ORDER if verdict in flags), Verdict.FITS), tuple(found))


def _has_shared_latents(posterior: Posterior) -> bool:
    return any(latent.row_dim is None for latent in target_of(posterior).sites.latents)
