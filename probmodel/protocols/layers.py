"""Protocols of the layers of a pipeline: representation and decision."""

from typing import Any, Protocol, TypeGuard, runtime_checkable

import pyro
from jaxtyping import Float, Int
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Distribution

from probmodel.protocols.model import ExactPosterior, Guided, Model
from probmodel.protocols.structural import Structural


@runtime_checkable
class Representation(Protocol, metaclass=Structural):
    """Latent code of the features; `rows` is the plate over data, passed in as an object."""

    out_features: int

    def model(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> Float[Tensor, "N K"]: ...

    def guide(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> None: ...


def brings_guide(model: Model) -> TypeGuard[Guided]:
    """Whether a model has a guide that is called as the model is; a representation's is for its codes."""
    return isinstance(model, Guided) and not isinstance(model, Representation)


@runtime_checkable
class Decision(Protocol, metaclass=Structural):
    """Likelihood of y given the code, and the action of least expected loss."""

    def likelihood(self, z: Float[Tensor, "*S N K"]) -> TorchDistributionMixin: ...

    def act(self, predictive: Distribution) -> Tensor: ...

    def observed(self, y: Tensor) -> Tensor:
        """Y in the form the likelihood scores (class numbers for one-hot rows)."""
        ...

    def check(self, y: Tensor) -> None:
        """Raise ValueError for y that cannot be scored."""
        ...

    def check_training(self, y: Tensor) -> None:
        """Raise ValueError for y that could be scored but nothing can be learnt from."""
        ...


@runtime_checkable
class Deciding(Protocol, metaclass=Structural):
    """A model that ends in a decision layer."""

    decision: Decision


@runtime_checkable
class DependentRows(Protocol, metaclass=Structural):
    """A representation whose rows depend on each other: codes of new rows follow from those of the known ones."""

    def continued(
        self, known: Float[Tensor, "n D"], new: Float[Tensor, "m D"], rows: pyro.plate
    ) -> Float[Tensor, "m K"]: ...


@runtime_checkable
class Generative(Protocol, metaclass=Structural):
    """A representation that is a density of its features and the class together: the features have to be fixed."""

    def exact_codes(self, h: Float[Tensor, "N D"], y: Int[Tensor, " N"]) -> ExactPosterior: ...

    def check_codes(self, h: Float[Tensor, "N D"]) -> None:
        """Raise ValueError for features that the density is not for."""
        ...


@runtime_checkable
class CodesByProcess(Protocol, metaclass=Structural):
    """A representation by a Gaussian process that an affine decision with normal noise leaves one."""

    def process(self, h: Float[Tensor, "N D"], y: Tensor, decision: Any) -> Any: ...
