"""A model under wider priors: every normal latent keeps its mean and has its standard deviation multiplied."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from torch import nn

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Checked, Model


def every(name: str) -> bool:
    """All latents."""
    return True


def recalibrated(model: Model, factor: float, *, where: Callable[[str], bool] = every) -> "Widened":
    """The model with the standard deviations of its normal priors multiplied, for `prior_sensitivity`.

    Priors of other families stay as they are, and so do the conditional means: z ~ N(m, s²) becomes N(m, factor² s²), also
    where m and s depend on other latents.  A guide of the model serves as it is: `SVI(guide=model.guide)`.

    Args:
        model: any model with normal latents.
        factor: of the standard deviations; below 1 it narrows.
        where: name of a latent → whether to widen it; codes of rows are latents too.

    Returns:
        A model called as `model` is; its calls raise ValueError where no latent was normal.

    Raises:
        ValueError: for a factor that is not positive.
    """
    if not 0 < factor < float("inf"):
        raise ValueError(f"factor needs to be positive and finite, got {factor}; 10.0 makes priors ten times as wide")
    return Recalibrated(model, factor, where)


class Recalibrated(nn.Module):
    """A model run under wider normal priors.  Made by `recalibrated`."""

    def __init__(self, model: Model, factor: float, where: Callable[[str], bool]) -> None:
        super().__init__()
        self.model, self.factor, self.where = model, factor, where

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _Widen(self.factor, self.where) as handler:
            value = self.model(*args, **kwargs)
        if not handler.found:
            raise ValueError("expected normal latents to widen, got none; write the model with another prior by hand")
        return value

    def check(self, data: Dataset) -> None:
        """As the model checks."""
        if isinstance(self.model, Checked):
            self.model.check(data)


class _Widen(Messenger):
    def __init__(self, factor: float, where: Callable[[str], bool]) -> None:
        super().__init__()
        self.factor, self.where, self.found = factor, where, False

    def _pyro_sample(self, msg: Any) -> None:
        # Handlers around this one (condition, replay) act later: only what the model itself observes is marked here.
        if msg["is_observed"] or not self.where(msg["name"]):
            return
        wide = _wide(msg["fn"], self.factor)
        if wide is not None:
            msg["fn"], self.found = wide, True


def _wide(prior: Any, factor: float) -> TorchDistributionMixin | None:
    """The normal of `factor` times the scale; None for another family."""
    if isinstance(prior, dist.Independent):
        base = _wide(prior.base_dist, factor)
        return None if base is None else base.to_event(prior.reinterpreted_batch_ndims)
    if isinstance(prior, dist.Normal):
        return dist.Normal(prior.loc, factor * prior.scale)
    if isinstance(prior, dist.MultivariateNormal):
        return dist.MultivariateNormal(prior.loc, scale_tril=factor * prior.scale_tril)
    return None
