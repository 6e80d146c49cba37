"""Protocols of methods: objective of an optimization, inference of a posterior, estimator of the evidence."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Posterior, Target
from probmodel.protocols.structural import Structural


@runtime_checkable
class Objective(Protocol, metaclass=Structural):
    """Differentiable loss in nats for the whole data set, never per datum."""

    def __call__(self, model: Model, guide: Model, data: Dataset) -> Float[Tensor, ""]: ...


@runtime_checkable
class Inference(Protocol, metaclass=Structural):
    """Inference method: frozen settings, called with a model and its data; it leaves no global state behind."""

    def __call__(self, model: Model, data: Dataset, *, seed: int) -> "Posterior": ...


@runtime_checkable
class Estimator(Protocol, metaclass=Structural):
    """Estimator of the evidence of a model and its data: from a fit, or from a target where no fit is needed."""

    def __call__(self, subject: "Posterior | Target", *, seed: int = 0) -> "Evidence": ...
