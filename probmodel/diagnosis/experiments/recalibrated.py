"""Model with rescaled priors: every normal latent keeps its mean and has its standard deviation multiplied."""

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from torch import nn

from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.dataset_checks import check_by_model
from probmodel.protocols.model import Model


def every(name: str) -> bool:
    """Select every latent."""
    return True


@checks_arguments
def recalibrated(model: Model, factor: float, *, where: Callable[[str], bool] = every) -> "Recalibrated":
    """Multiply the standard deviations of the normal priors of a model, for `prior_sensitivity`.

    Priors of other families stay unchanged, and so do the conditional means: z ~ N(m, s²) becomes N(m, factor² s²), even if m
    and s depend on other latents.  A guide of the model can be used unchanged: `SVI(guide=model.guide)`.

    Args:
        model: any model with normal latents.
        factor: factor of the standard deviations; below 1 it narrows the priors.
        where: function from the name of a latent to whether its prior is rescaled; codes of rows are latents too.

    Returns:
        Model with the arguments of `model`; its calls raise ValueError if no selected latent is normal.

    Raises:
        ValueError: for a factor that is not positive.
    """
    if not 0 < factor < float("inf"):
        raise ValueError(
            f"expected factor to be positive and finite, got {factor}; pass 10.0 to make priors ten times as wide"
        )
    return Recalibrated(model, factor, where)


class Recalibrated(nn.Module):
    """Model with rescaled normal priors, made by `recalibrated`."""

    def __init__(self, model: Model, factor: float, where: Callable[[str], bool]) -> None:
        super().__init__()
        self.model, self.factor, self.where = model, factor, where

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _Widen(self.factor, self.where) as handler:
            value = self.model(*args, **kwargs)
        if not handler.found:
            raise ValueError(
                "expected normal latents to rescale, got none; select others by `where`, or write the model with another prior"
            )
        return value

    def check(self, data: Dataset) -> None:
        """Check the data as the model does."""
        check_by_model(self.model, data)


class _Widen(Messenger):
    def __init__(self, factor: float, where: Callable[[str], bool]) -> None:
        super().__init__()
        self.factor, self.where, self.found = factor, where, False

    def _pyro_sample(self, msg: Any) -> None:
        # Handlers around this one (condition, replay) act later, so that only observations of the model itself are marked here.
        if msg["is_observed"] or not self.where(msg["name"]):
            return
        wide = _wide(msg["fn"], self.factor)
        if wide is not None:
            msg["fn"], self.found = wide, True


@singledispatch
def _wide(prior: Any, factor: float) -> TorchDistributionMixin | None:
    """Normal distribution with `factor` times the scale; None for another family."""
    return None


@_wide.register
def _(prior: dist.Independent, factor: float) -> TorchDistributionMixin | None:
    base = _wide(prior.base_dist, factor)
    return None if base is None else base.to_event(prior.reinterpreted_batch_ndims)


@_wide.register
def _(prior: dist.Normal, factor: float) -> TorchDistributionMixin | None:
    return dist.Normal(prior.loc, factor * prior.scale)


@_wide.register
def _(prior: dist.MultivariateNormal, factor: float) -> TorchDistributionMixin | None:
    return dist.MultivariateNormal(prior.loc, scale_tril=factor * prior.scale_tril)
