"""A code of sparse Gaussian processes (Hensman, Matthews & Ghahramani, 2015), of deep features too (Wilson et al., 2016)."""

import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import pyro
import pyro.distributions as dist
import torch
from gpytorch.kernels import Kernel, MaternKernel, ScaleKernel
from gpytorch.means import Mean, ZeroMean
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from probmodel.families.gaussian_processes.covariances import mean_at
from probmodel.families.gaussian_processes.identifiability import check_related
from probmodel.families.gaussian_processes.nystrom import ObservedValues
from probmodel.families.gaussian_processes.sparse import interpolation
from probmodel.layers.representations.gaussian_process.hyperparameters import drawn, drawn_by_guide, hyperparameters
from probmodel.protocols.integers import integer
from probmodel.protocols.structural import Structural

START_LOG_SCALE = -2.0
"""Log standard deviation that q starts with, around a draw of the prior: a code that is all noise teaches features nothing."""


class InducingNormal(NamedTuple):
    """q(u) = N(loc, T Tᵀ), one for each output."""

    loc: Float[Tensor, "K M"]
    scale_tril: Float[Tensor, "K M M"]


class CodeMarginals(NamedTuple):
    """z_nk ~ N(loc_nk, variance_nk)."""

    loc: Float[Tensor, "N K"]
    variance: Float[Tensor, "N K"]


@runtime_checkable
class AffineDecision(Protocol, metaclass=Structural):
    """A decision whose likelihood is normal around a map of the code."""

    def affine(self) -> tuple[Float[Tensor, "P K"], Float[Tensor, " P"], Float[Tensor, ""]]: ...


class SparseGP(nn.Module):
    """z_k ~ GP(m, k) on h, by M inducing values an output; `Pipeline(CNN, SparseGP, Classify)` is a deep kernel.

    Model, with Kuu = L Lᵀ at the inducing inputs and A = L⁻¹ Kuh, the site "u" whitened and shared by all rows:

        u_k ~ N(0, I),   z_nk | u ~ N(m(h_n) + a_nᵀ u_k, k(h_n, h_n) − a_nᵀ a_n), independent by row.

    The guide draws u_k from N(m_k, T_k T_kᵀ) and z from that same conditional, which cancels: the ELBO is
    Σ_n E_q[log p(y_n | z_n)] − Σ_k KL(q(u_k) ‖ N(0, I)), in expectation that of SVGP.  Rows are independent given u, so that
    minibatches scale; the evidence that this bounds is therefore the one of independent conditionals (Snelson & Ghahramani,
    2006), which is the exact process's where the inducing inputs are all the rows.

    A parameter of kernel or mean with a prior of GPyTorch's is a latent at its dotted name, as
    `kernel.base_kernel.lengthscale`.  Its guide is the normal image on the prior's support, log-normal where that is
    positive, centered at GPyTorch's own parameter.  Jitter is that of `svgp_elbo`.

    Args:
        in_features: width of h.
        out_features: width of z, processes with one kernel between them.
        inducing: inputs (M, in_features); a tensor stays fixed, an nn.Parameter is learnt, and a number M takes that many
            standard normal ones, learnt.
        kernel: of GPyTorch, without batch dimensions; Matérn 5/2 by default, a lengthscale for each feature that starts
            at √in_features, so that standard normal features are neither all alike nor all unrelated.
        mean: of GPyTorch; zero by default.

    Reference:
        Hensman, Matthews & Ghahramani (2015), Scalable Variational Gaussian Process Classification, AISTATS; Wilson, Hu,
        Salakhutdinov & Xing (2016), Stochastic Variational Deep Kernel Learning, NeurIPS.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        inducing: Tensor | int,
        kernel: Kernel | None = None,
        mean: Mean | None = None,
    ) -> None:
        super().__init__()
        inputs = inducing if isinstance(inducing, Tensor) else _standard_normal(inducing, in_features)
        if not inputs.is_floating_point() or not bool(inputs.isfinite().all()):
            raise ValueError(
                f"expected finite inducing inputs of a float type, got {inputs.dtype}; convert or drop those rows"
            )
        if inputs.dim() != 2 or len(inputs) == 0 or inputs.shape[1] != in_features:
            raise ValueError(f"expected inducing inputs (M, {in_features}), got {tuple(inputs.shape)}; one a row")
        self.in_features, self.out_features = in_features, out_features
        self.kernel = _matern(in_features) if kernel is None else kernel
        self.mean = ZeroMean() if mean is None else mean
        if self.kernel.batch_shape:
            raise ValueError(
                f"expected one kernel for all outputs, got a batch {tuple(self.kernel.batch_shape)}; leave batch_shape out"
            )
        if isinstance(inputs, nn.Parameter):
            self.inducing = inputs
        else:
            self.register_buffer("inducing", inputs)
        self.hyperparameters = hyperparameters(self)
        loc = torch.randn(out_features, len(inputs)).to(inputs.detach())
        self.q_loc = nn.Parameter(loc)
        # T, with the logarithm of its diagonal; nothing above is read.
        self.q_raw_scale = nn.Parameter(torch.diag_embed(torch.full_like(loc, START_LOG_SCALE)))
        self.log_scales = nn.ParameterList(
            nn.Parameter(inputs.new_full(each.shape, START_LOG_SCALE)) for each in self.hyperparameters
        )

    def model(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> Float[Tensor, "N K"]:
        parts = drawn(self, self.hyperparameters)
        zeros = torch.zeros_like(self.q_loc)
        u = pyro.sample("u", _normals(zeros, torch.eye(zeros.shape[1]).to(zeros).expand_as(self.q_raw_scale)))
        with rows:
            return pyro.sample("z", self._given(parts, u, h))

    def guide(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> None:
        parts = drawn_by_guide(self, self.hyperparameters, list(self.log_scales))
        u = pyro.sample("u", _normals(*self.q))
        with rows:
            pyro.sample("z", self._given(parts, u, h))

    def check_codes(self, h: Float[Tensor, "N D"]) -> None:
        """Raise ValueError for features that the kernel, as it starts, relates to no inducing input."""
        if not self.hyperparameters:
            check_related(self.kernel, h, self.inducing, what="features and inducing inputs")

    @property
    def q(self) -> InducingNormal:
        """Of the whitened inducing values."""
        raw = self.q_raw_scale
        return InducingNormal(self.q_loc, raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp()))

    def set_q(self, loc: Float[Tensor, "K M"], scale_tril: Float[Tensor, "K M M"]) -> None:
        """Put other values in the place of q's, in this module."""
        with torch.no_grad():
            self.q_loc.copy_(loc)
            log_diagonal = scale_tril.diagonal(dim1=-2, dim2=-1).abs().log()
            self.q_raw_scale.copy_(scale_tril.tril(-1) + torch.diag_embed(log_diagonal))

    def code_marginals(
        self, h: Float[Tensor, "N D"], q_loc: Float[Tensor, "K M"], q_scale_tril: Float[Tensor, "K M M"]
    ) -> CodeMarginals:
        """Each code's normal marginal when u_k ~ N(m_k, T_k T_kᵀ) and hyperparameters are as they are."""
        at = interpolation(self.kernel, self.inducing, h)
        loc = mean_at(self.mean, h)[:, None] + (q_loc @ at.weights).mT
        spread = (q_scale_tril.tril().mT @ at.weights).square().sum(-2)
        return CodeMarginals(loc, at.variance[:, None] + spread.mT)

    def drawn_u(self, num_samples: int) -> Float[Tensor, "S K M"]:
        """Draws of q(u)."""
        loc, scale = self.q
        return loc + (scale @ torch.randn(num_samples, *loc.shape, 1, dtype=loc.dtype, device=loc.device))[..., 0]

    def drawn_codes(self, h: Float[Tensor, "N D"], u: Float[Tensor, "S K M"]) -> Float[Tensor, "S N K"]:
        """Draws of the codes, one for each draw of the inducing values, at hyperparameters as they are."""
        at = interpolation(self.kernel, self.inducing, h)
        loc = mean_at(self.mean, h)[:, None] + (u @ at.weights).mT
        return loc + at.variance.sqrt()[:, None] * torch.randn_like(loc)

    def process(self, h: Float[Tensor, "N D"], y: Tensor, decision: AffineDecision) -> ObservedValues:
        """The exact process that the code approximates, as observed through weights and normal noise.

        Raises:
            ValueError: for hyperparameters that are latents, more than one number a row, or noise that depends on z.
        """
        latents = [each.site for each in self.hyperparameters]
        weight, bias, noise = decision.affine()
        if latents or len(weight) != 1:
            raise ValueError(
                f"expected point estimates of hyperparameters and one number a row, got latents {latents} and {len(weight)} "
                "numbers; take evidence.elbo"
            )
        y = y.reshape(len(h)).to(h)
        mean = weight.sum() * mean_at(self.mean, h) + bias
        return ObservedValues(h, y, mean, noise.to(h).expand(len(h)), self.kernel, weight.square().sum())

    def settings(self) -> dict[str, object]:
        """Arguments that build the same piece again."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "inducing": self.inducing,
            "kernel": self.kernel,
            "mean": self.mean,
        }

    def _given(self, parts: Any, u: Float[Tensor, "K M"], h: Float[Tensor, "N D"]) -> TorchDistributionMixin:
        if h.dim() != 2:
            raise ValueError(
                f"expected features (N, {self.in_features}), got {tuple(h.shape)}; reshape x to one row each"
            )
        if h.shape[-1] != self.in_features:
            raise ValueError(f"expected {self.in_features} features, got {h.shape[-1]}; set in_features={h.shape[-1]}")
        at = interpolation(parts.kernel, parts.inducing, h)
        loc = mean_at(parts.mean, h)[:, None] + (u @ at.weights).mT
        return dist.Normal(loc, at.variance.sqrt()[:, None].expand_as(loc)).to_event(1)


def _standard_normal(number: Any, in_features: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(integer("inducing", number), in_features))


def _normals(loc: Float[Tensor, "K M"], scale_tril: Float[Tensor, "K M M"]) -> TorchDistributionMixin:
    # Prior and guide of one family: their divergence is in closed form.
    return dist.MultivariateNormal(loc, scale_tril=scale_tril).to_event(1)


def _matern(in_features: int) -> ScaleKernel:
    kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=in_features))
    kernel.base_kernel.lengthscale = math.sqrt(in_features)
    return kernel
