"""Protocols of a model: a stochastic function in Pyro, and the further methods that it may supply."""

from collections.abc import Mapping, Sequence
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
    """A model with its own guide, called with the model's arguments."""

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        """Sample the model's latents from the variational distribution."""
        ...


@runtime_checkable
class ChecksData(Protocol, metaclass=Structural):
    """A model that detects invalid data before anything runs: `check` raises a ValueError with expected, got, remedy."""

    def check(self, data: Dataset) -> None:
        """Raise ValueError for invalid data."""
        ...


@runtime_checkable
class ChecksTrainingData(Protocol, metaclass=Structural):
    """A model that detects data it could score but learn nothing from: `check_training` raises as `check` does."""

    def check_training(self, data: Dataset) -> None:
        """Raise ValueError for data from which nothing can be learned."""
        ...


@runtime_checkable
class StartsAtData(Protocol, metaclass=Structural):
    """A model whose parameters can start a fit at values in the units of the data."""

    def starting_values(self, data: Dataset, number: int | None = None) -> Sequence[Mapping[str, Tensor]]:
        """Values of parameters by name for each start of a fit, best first; parameters that are not named stay.

        Args:
            data: the data to be fitted.
            number: number of starts; None for as many as the model has reason to try.
        """
        ...

    def parameter_units(self, data: Dataset) -> Mapping[str, Tensor]:
        """Natural steps of parameters by name at their present values; 1 for those that are not named."""
        ...

    def check_fit(self, data: Dataset) -> None:
        """Warn where the fitted parameters are not to be trusted."""
        ...


NOISE_VARIANCE = "variance of the noise"
"""Name of the deterministic Pyro site, (m,), with the noise variance of y under a model that has integrated out a function."""


@runtime_checkable
class ConditionsOnRows(Protocol, metaclass=Structural):
    """A model that has integrated out what couples its rows, so that new rows depend on the observed ones."""

    def given(self, data: Dataset) -> Model:
        """The model of new rows given the observed rows in `data`; its arguments and latents are the same."""
        ...


@runtime_checkable
class KnowsRows(Protocol, metaclass=Structural):
    """A model that holds something about each row of its data itself, such as known errors of measurement."""

    def known_by_row(self, data: Dataset) -> Dataset:
        """The data with what the model knows of each row as tensors of their own, so that some rows can be taken."""
        ...


@runtime_checkable
class HasLeaveOneOut(Protocol, metaclass=Structural):
    """A model with a closed form of the density of each row given all others."""

    def log_leave_one_out(self, data: Dataset) -> Float[Tensor, " n"]:
        """Log p(y_i | all other y) by row, in nats, at the latents drawn in the call."""
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
        log_evidence: log evidence of the data, in nats.
        guide: guide that samples from the posterior.
    """

    log_evidence: float
    guide: ExactGuide


@runtime_checkable
class ClosedForm(Protocol, metaclass=Structural):
    """A model that may supply its evidence and posterior in closed form, which then replaces any computation."""

    def exact_posterior(self, data: Dataset) -> ExactPosterior | None:
        """Evidence and posterior; None where the data or the layers of the model permit no closed form."""
        ...
