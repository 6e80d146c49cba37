"""Models as they are fitted: masked latents keep their prior, and the terms of a minibatch are multiplied by size / rows."""

import math
from contextlib import nullcontext
from typing import Any

from pyro.poutine.messenger import Messenger

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model
from probmodel.protocols.sites import Sites
from probmodel.tracing.latents.bounds import BoundedObservations
from probmodel.tracing.latents.masks import KeptPriors
from probmodel.tracing.sites import row_axis


class _RowScale(Messenger):
    """Scales every site inside a plate over the batch's rows by size / rows: an unbiased estimate of the full sum."""

    def __init__(self, found: Sites, rows: int, size: int) -> None:
        super().__init__()
        self.sites, self.factor, self.found = found, size / rows, False
        # A guide may name its plates differently; latents shared by all rows have the same names in guide and model.
        self.shared = {latent.name for latent in found.latents if latent.row_dim is None}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.shared and row_axis(msg, self.sites) is not None:
            if isinstance(msg["scale"], float | int) and math.isclose(msg["scale"], self.factor):
                raise ValueError(
                    f"expected unscaled sites, since the fit scales a minibatch to all rows, got site {msg['name']!r} scaled "
                    f"by {msg['scale']:g} already; remove poutine.scale from the model"
                )
            msg["scale"] = msg["scale"] * self.factor
            self.found = True


def row_scaled(model: Model, found: Sites, data: Dataset) -> Model:
    """The model with the sites of its rows scaled from the minibatch to the full data set, and priors kept under masks.

    Args:
        model: model or guide.
        found: sites of the model.
        data: all rows, which are not scaled, or a minibatch.

    Raises:
        ValueError: on the call, when no plate runs over the rows of a minibatch, so that nothing could be scaled.
    """
    return scaled_to_rows(model, found, data, required=True)


def scaled_to_rows(model: Model, found: Sites, data: Dataset, *, required: bool) -> Model:
    """The model scaled as by `row_scaled`; a missing plate over rows is an error only where scaling is required."""
    rows, size = data.num_rows, data.size
    scale = None if rows is None or size is None or rows == size else (rows, size)

    def prepared(*args: Any, **kwargs: Any) -> Any:
        scaling = nullcontext() if scale is None else _RowScale(found, *scale)
        with KeptPriors(found), BoundedObservations(), scaling as scaled:
            value = model(*args, **kwargs)
        if required and scaled is not None and not scaled.found:
            raise ValueError(
                f"expected a plate over the {rows} rows of the minibatch, got none; write "
                "`with pyro.plate('rows', len(x)):` (without subsample) around the observations, or fit without batch_size"
            )
        return value

    return prepared
