"""The value that every problem of known evidence is."""

from typing import NamedTuple

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model


class Problem(NamedTuple):
    """A model, its data, and the log evidence that an estimator has to find.

    Args:
        name: as a table names it.
        model: a Pyro function; every latent is continuous, everything is float64.
        data: how to call it.
        log_z: log evidence, nats.
        uncertainty: standard error of `log_z` in nats; 0 where it is exact to the digits given.
        source: how the value was found, and where the problem comes from.
    """

    name: str
    model: Model
    data: Dataset
    log_z: float
    uncertainty: float = 0.0
    source: str = ""
