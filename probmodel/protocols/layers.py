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
    """Layer from features h to a latent code z; `rows` is Pyro's plate over the rows of the data."""

    out_features: int

    def model(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> Float[Tensor, "N K"]:
        """Sample the codes from their prior, and return them."""
        ...

    def guide(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> None:
        """Sample the latents of `model` from the variational distribution."""
        ...


def has_own_guide(model: Model) -> TypeGuard[Guided]:
    """Return whether a model has a guide with the model's own call signature, unlike the guide of a representation."""
    return isinstance(model, Guided) and not isinstance(model, Representation)


@runtime_checkable
class Decision(Protocol, metaclass=Structural):
    """Layer with the likelihood of y given the code, and the action of least expected loss."""

    def likelihood(self, z: Float[Tensor, "*S N K"]) -> TorchDistributionMixin:
        """Distribution of y given the codes."""
        ...

    def act(self, predictive: Distribution) -> Tensor:
        """Action of least expected loss under the predictive distribution."""
        ...

    def observed(self, y: Tensor) -> Tensor:
        """Observations y in the form that the likelihood scores (class indices for one-hot rows)."""
        ...

    def check(self, y: Tensor) -> None:
        """Raise ValueError for y that cannot be scored."""
        ...

    def check_training(self, y: Tensor) -> None:
        """Raise ValueError for y that could be scored but from which nothing can be learned."""
        ...


@runtime_checkable
class HasDecision(Protocol, metaclass=Structural):
    """A model that ends in a decision layer."""

    decision: Decision


@runtime_checkable
class DependentRows(Protocol, metaclass=Structural):
    """A representation with dependent rows: the latent function values of new rows depend on those of the known rows."""

    def codes_of_new_rows(
        self, known: Float[Tensor, "n D"], new: Float[Tensor, "m D"], rows: pyro.plate
    ) -> Float[Tensor, "m K"]:
        """Sample the codes of the new rows given those of the known rows."""
        ...


@runtime_checkable
class Generative(Protocol, metaclass=Structural):
    """A representation that is a joint density of its features and the class, so that the features may not be trained."""

    def exact_codes(self, h: Float[Tensor, "N D"], y: Int[Tensor, " N"]) -> ExactPosterior:
        """Evidence and posterior in closed form, given features and classes."""
        ...

    def check_codes(self, h: Float[Tensor, "N D"]) -> None:
        """Raise ValueError for features on which the density is not defined."""
        ...


@runtime_checkable
class GaussianProcessCodes(Protocol, metaclass=Structural):
    """A Gaussian process representation that remains a Gaussian process under an affine decision with normal noise."""

    def process(self, h: Float[Tensor, "N D"], y: Tensor, decision: Any) -> Any:
        """Gaussian process of the observations y under the decision."""
        ...
