"""The architecture of `probmodel`: every protocol and every value that passes between its rooms.

Layers compose into one Pyro model; the model is traced once into a pure tensor program; inference, evidence and
diagnosis are functions of values.  Nothing here computes; read this file first.
"""

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
    """Differentiable loss in nats over the whole data set, never per datum."""

    def __call__(self, model: Model, guide: Model, data: Dataset) -> Float[Tensor, ""]: ...


@runtime_checkable
class Inference(Protocol, metaclass=Structural):
    """Frozen settings, called once; leaves no global behind."""

    def __call__(self, model: Model, data: Dataset, *, seed: int) -> "Posterior": ...


@runtime_checkable
class Estimator(Protocol, metaclass=Structural):
    """Of the evidence of a model and its data: from a fit, or straight from a target where no fit is needed."""

    def __call__(self, subject: "Posterior | Target", *, seed: int = 0) -> "Evidence": ...
