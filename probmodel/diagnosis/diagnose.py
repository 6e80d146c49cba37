"""Verdict on a fit from all of its checks."""

from collections.abc import Hashable, Mapping

from probmodel.diagnosis.agreement import evidence_findings
from probmodel.diagnosis.complexity import complexity
from probmodel.diagnosis.convergence import convergence
from probmodel.diagnosis.findings import Diagnosis, Verdict
from probmodel.diagnosis.overfitting import overfitting
from probmodel.diagnosis.rule import against_smaller, p_loo_ratio
from probmodel.prediction.new_rows import check_columns
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.checks import check
from probmodel.tracing.devices import on_device_of

ORDER = (Verdict.FAILED, Verdict.OVERFITS, Verdict.UNDERFITS)
"""Verdicts by priority: the first one that flags any finding is the verdict."""


@checks_arguments
def diagnose(
    posterior: Posterior,
    held_out: Dataset | None = None,
    *,
    evidence: Evidence | None = None,
    conditional: Evidence | None = None,
    smaller: Mapping[Hashable, Evidence] | None = None,
) -> Diagnosis:
    """Check whether a fit converged, how complex it is, and whether it overfits or underfits.

    A fit overfits if the gap to held-out rows is significant and wider predictions would score better.  If the
    conditional evidence of smaller models is given, p_loo above 1.5 times the effective dimension and k-hat above 0.7 on
    more than 5 % of rows are symptoms too, and any symptom counts only if a smaller model has the higher conditional
    evidence: a large model whose parameters the data support has a gap, but does not overfit.

    Args:
        posterior: fit by any inference.
        held_out: rows that the fit has not used; required for a model without latents whose draws can leave rows out.
        evidence: estimate of the evidence if there is one; it is listed among the findings, and its k-hat is reused.
            Inference has failed if its estimators disagree (p < 0.001) or its bounds cross.
        conditional: `conditional_evidence` of this model.
        smaller: name → `conditional_evidence` of a model with fewer parameters, for the same rows given the same rows.

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
    found = [*convergence(posterior, evidence), *complexity(posterior), *evidence_findings(evidence)]
    found += overfitting(posterior, held_out)
    found += p_loo_ratio(found)
    found = against_smaller(found, conditional, smaller or {})
    flags = {each.flag for each in found}
    return Diagnosis(next((verdict for verdict in ORDER if verdict in flags), Verdict.FITS), tuple(found))
