"""Estimators of the evidence that a model or its family brings, in place of those for every model."""

from probmodel.evidence.by_family.gp_mixtures import assignments, by_size, sandwich_of_mixture
from probmodel.evidence.weighing.starting_point import starting_point
from probmodel.families.gaussian_processes.mixtures.assignments import ProcessMixture
from probmodel.protocols.evidence import OwnEstimators, SuppliesEstimators
from probmodel.protocols.posterior import Subject


def own_estimators(subject: Subject) -> OwnEstimators | None:
    """Estimators that the model brings by `evidence_estimators()` or has by its family; None for every other model."""
    model = starting_point(subject).model
    if isinstance(model, SuppliesEstimators):
        return model.evidence_estimators()
    return OwnEstimators(assignments, by_size, sandwich_of_mixture) if isinstance(model, ProcessMixture) else None
