"""Exact and normal posteriors as Pyro guides, so that every estimator for guided models applies to them."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from probmodel.protocols.sites import Latent
from probmodel.tracing.curvature import NormalApproximation


class GaussianGuide(nn.Module):
    """Guide theta ~ N(loc, scale_tril scale_trilᵀ), mapped to the latents; by row where rows are independent."""

    def __init__(self, gaussian: NormalApproximation, latents: tuple[Latent, ...]) -> None:
        super().__init__()
        self.latents = latents
        self.by_row = all(latent.row_dim == -len(latent.shape) for latent in latents) and len(gaussian.coordinates) > 1
        self.register_buffer("index", gaussian.coordinates)
        self.register_buffer("loc", gaussian.loc)
        self.register_buffer("scale_tril", gaussian.scale_tril)

    def forward(self, *args: object, **kwargs: object) -> None:
        index, loc = self.get_buffer("index"), self.get_buffer("loc")
        block = dist.MultivariateNormal(loc[index], scale_tril=self.get_buffer("scale_tril"))
        if not self.by_row:
            block = block.to_event(1)
            theta = pyro.sample("theta_of_guide", block, infer={"is_auxiliary": True})
            return self._deliver(torch.zeros_like(loc).scatter(0, index.flatten(), theta.flatten()))
        with pyro.plate("rows_of_guide", len(index), dim=-1):
            theta = pyro.sample("theta_of_guide", block, infer={"is_auxiliary": True})
            return self._deliver(torch.zeros_like(loc).scatter(0, index.flatten(), theta.flatten()))

    def _deliver(self, theta: Tensor) -> None:
        sizes = [latent.unconstrained_shape.numel() for latent in self.latents]
        for latent, piece in zip(self.latents, theta.split(sizes), strict=True):
            u = piece.reshape(latent.unconstrained_shape)
            value = latent.transform(u)
            log_jacobian = latent.transform.log_abs_det_jacobian(u, value)
            kept = 1 if self.by_row else 0
            log_density = -log_jacobian.reshape(*log_jacobian.shape[:kept], -1).sum(-1)
            pyro.sample(latent.name, dist.Delta(value, log_density=log_density, event_dim=value.dim() - kept))


class SiteGuide(nn.Module):
    """Guide of independent posteriors, one per site."""

    def __init__(self, by_site: dict[str, TorchDistributionMixin]) -> None:
        super().__init__()
        self.by_site = by_site

    def forward(self, *args: object, **kwargs: object) -> None:
        for name, posterior in self.by_site.items():
            pyro.sample(name, posterior.to_event(len(posterior.batch_shape)))
