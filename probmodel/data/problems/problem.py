"""A problem whose evidence is known, as a value."""

from typing import NamedTuple

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model


class Problem(NamedTuple):
    """A model, its data, and the log evidence that an estimator has to reproduce.

    Args:
        name: name of the problem in tables.
        model: Pyro function; all latents are continuous, all tensors float64.
        data: data set for its call.
        log_z: log evidence, in nats.
        uncertainty: standard error of `log_z` in nats; 0 where it is exact to the digits given.
        source: how the value was found, and where the problem comes from.
    """

    name: str
    model: Model
    data: Dataset
    log_z: float
    uncertainty: float = 0.0
    source: str = ""
