"""Observations of a Gaussian process: their joint distribution, and the tensors of a data set that hold them."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from probmodel.families.gaussian_processes.covariances import covariance, mean_at, noise_by_row
from probmodel.families.gaussian_processes.exact import gp_log_marginal
from probmodel.families.gaussian_processes.positive_definite import factor_with_jitter
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.dataset_checks import inputs_and_observations
from probmodel.protocols.errors import NotPositiveDefiniteError


def observed_rows(data: Dataset) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs, observations, and the known noise variances of the rows where the data have them.

    Raises:
        ValueError: for arguments other than the tensors x, y and noise.
    """
    values = data.named("x", "y", "noise")
    noise = values.pop("noise", None)
    x, y = inputs_and_observations(Dataset((), values, data.size))
    return x, y, noise


class ProcessObservations(TorchDistribution):
    """Distribution N(m(x), K(x, x) + Σ) of all observations; its log density has a gradient in closed form."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, parts: nn.Module, x: Float[Tensor, "n D"], *, is_latent: bool = False) -> None:
        self.parts, self.x, self.is_latent = parts, x, is_latent
        super().__init__(torch.Size(), x.shape[:1], validate_args=False)

    def log_prob(self, value: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Log density in nats; NaN where drawn hyperparameters have no Cholesky factor, for a sampler to reject."""
        try:
            return gp_log_marginal(self.parts.mean, self.parts.kernel, self.parts.likelihood, self.x, value)
        except NotPositiveDefiniteError:
            if not self.is_latent:
                raise
            return value.new_full((), math.nan)

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape (*sample_shape, n)."""
        x, k = self.x, covariance(self.parts.kernel, self.x)
        upper = factor_with_jitter(k, noise_by_row(self.parts.likelihood, x[:, 0]))
        white = torch.randn(*sample_shape, len(x), dtype=x.dtype, device=x.device)
        return mean_at(self.parts.mean, x) + white @ upper
