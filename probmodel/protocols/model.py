"""Protocols of a model: a stochastic function in Pyro, and what it may supply besides."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.structural import Structural


@runtime_checkable
class Model(Protocol, metaclass=Structural):
    """A stochastic function in Pyro: latents are `pyro.sample`, observations carry `obs=`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


@runtime_checkable
class Guided(Protocol, metaclass=Structural):
    """A model that brings its own guide, called as the model is."""

    def guide(self, *args: Any, **kwargs: Any) -> Any: ...


@runtime_checkable
class Checked(Protocol, metaclass=Structural):
    """A model that can tell bad data before anything runs; `check` raises ValueError saying expected, got, remedy."""

    def check(self, data: Dataset) -> None: ...


@runtime_checkable
class ChecksTrainingData(Protocol, metaclass=Structural):
    """A model that can tell data it could score but learn nothing from; `check_training` raises ValueError as `check` does."""

    def check_training(self, data: Dataset) -> None: ...


NOISE_VARIANCE = "variance of the noise"
"""Deterministic Pyro site at which a model that has integrated a function out says how much of y's variance is noise, (m,)."""


@runtime_checkable
class Marginal(Protocol, metaclass=Structural):
    """A model that has integrated out what links its rows, so that new ones depend on the observed ones."""

    def given(self, data: Dataset) -> Model:
        """The model of new rows, called with the same arguments; its latents are the same."""
        ...


@runtime_checkable
class LeavesOneOut(Protocol, metaclass=Structural):
    """A model that has each row's density given all others in closed form."""

    def log_leave_one_out(self, data: Dataset) -> Float[Tensor, " n"]:
        """Log p(y_i | all other y), nats, at the latents drawn in the call."""
        ...


@runtime_checkable
class ExactGuide(Protocol, metaclass=Structural):
    """A guide that is the posterior itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def draws(self, num_samples: int) -> dict[str, Tensor]:
        """Independent draws by site, (num_samples, *event), in the model's own (constrained) space."""
        ...


class ExactPosterior(NamedTuple):
    """A posterior in closed form.

    Args:
        log_evidence: of the data, in nats.
        guide: draws from the posterior.
    """

    log_evidence: float
    guide: ExactGuide


@runtime_checkable
class ClosedForm(Protocol, metaclass=Structural):
    """A model that may know its evidence and posterior in closed form, and is asked before anything is computed."""

    def exact_posterior(self, data: Dataset) -> ExactPosterior | None:
        """None where these data, or the pieces that the model is made of, leave no closed form."""
        ...
