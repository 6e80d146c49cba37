"""Sparse Gaussian processes as codes (Hensman, Matthews & Ghahramani, 2015), and deep kernels (Wilson et al., 2016)."""

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
from probmodel.families.gaussian_processes.identifiability import check_identifiable
from probmodel.families.gaussian_processes.nystrom import ObservedValues
from probmodel.families.gaussian_processes.sparse import interpolation
from probmodel.layers.representations.gaussian_process.hyperparameters import (
    hyperparameters,
    sampled,
    sampled_with_scales,
)
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.integers import integer
from probmodel.protocols.structural import Structural

Q_START_LOG_SCALE = -2.0
"""Initial log standard deviation of q around a draw of the prior: a code that is all noise cannot train features."""


class InducingNormal(NamedTuple):
    """Distribution q(u) = N(loc, T Tᵀ) of the inducing values, one per output."""

    loc: Float[Tensor, "K M"]
    scale_tril: Float[Tensor, "K M M"]


class CodeMarginals(NamedTuple):
    """Normal marginals z_nk ~ N(loc_nk, variance_nk) of the codes."""

    loc: Float[Tensor, "N K"]
    variance: Float[Tensor, "N K"]


@runtime_checkable
class AffineDecision(Protocol, metaclass=Structural):
    """A decision whose likelihood is normal around an affine map of the code."""

    def affine(self) -> tuple[Float[Tensor, "P K"], Float[Tensor, " P"], Float[Tensor, ""]]:
        """Weight and bias of the map, and the variance of the noise."""
        ...


class SparseGP(nn.Module):
    """Sparse Gaussian processes z_k ~ GP(m, k) of h, with M inducing values per output.

    `Pipeline(CNN, SparseGP, Classify)` is a deep kernel.  With Kuu = L Lᵀ at the inducing inputs, A = L⁻¹ Kuh, and the
    site "u" whitened and shared by all rows, the model is

        u_k ~ N(0, I),   z_nk | u ~ N(m(h_n) + a_nᵀ u_k, k(h_n, h_n) − a_nᵀ a_n), independent by row.

    The guide draws u_k from N(m_k, T_k T_kᵀ) and z from the same conditional, which cancels: the ELBO is
    Σ_n E_q[log p(y_n | z_n)] − Σ_k KL(q(u_k) ‖ N(0, I)), in expectation that of SVGP.  Rows are independent given u, so
    that minibatches can be scaled.  The evidence that it bounds is therefore that of independent conditionals (Snelson
    & Ghahramani, 2006), and equals that of the exact process where the inducing inputs are all the rows.

    A parameter of kernel or mean with a GPyTorch prior is a latent at the site of its dotted name, such as
    `kernel.base_kernel.lengthscale`.  Its guide is a normal transformed to the prior's support, log-normal where that
    is positive, centered at the present value of the parameter.  The jitter is that of `svgp_elbo`.

    Args:
        in_features: width of h.
        out_features: width of z, the number of processes, which share one kernel.
        inducing: inducing inputs (M, in_features); a tensor stays fixed and an nn.Parameter is trained; an integer M
            stands for M standard normal inputs, which are trained.
        kernel: GPyTorch kernel without batch dimensions; by default Matérn 5/2 with one lengthscale per feature,
            initially √in_features, so that standard normal features are neither all alike nor all uncorrelated.
        mean: GPyTorch mean; zero by default.

    Raises:
        ValueError: for inducing inputs of a wrong shape or dtype or with values that are not finite, a kernel with
            batch dimensions, or priors that cannot be latents.

    Reference:
        Hensman, Matthews & Ghahramani (2015), Scalable Variational Gaussian Process Classification, AISTATS; Wilson,
        Hu, Salakhutdinov & Xing (2016), Stochastic Variational Deep Kernel Learning, NeurIPS.
    """

    @checks_arguments
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
        inputs = inducing if torch.is_tensor(inducing) else _standard_normal(inducing, in_features)
        if not inputs.is_floating_point() or not bool(inputs.isfinite().all()):
            raise ValueError(
                f"expected finite inducing inputs of a float type, got {inputs.dtype}; convert or drop those rows"
            )
        if inputs.dim() != 2 or len(inputs) == 0 or inputs.shape[1] != in_features:
            raise ValueError(
                f"expected inducing inputs (M, {in_features}), got {tuple(inputs.shape)}; give one input per row"
            )
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
        # T, with the logarithm of its diagonal; entries above the diagonal are not read.
        self.q_raw_scale = nn.Parameter(torch.diag_embed(torch.full_like(loc, Q_START_LOG_SCALE)))
        self.log_scales = nn.ParameterList(
            nn.Parameter(inputs.new_full(each.shape, Q_START_LOG_SCALE)) for each in self.hyperparameters
        )

    def model(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> Float[Tensor, "N K"]:
        """Draw the inducing values at the site "u", and the codes of the rows given them at the site "z"."""
        parts = sampled(self, self.hyperparameters)
        zeros = torch.zeros_like(self.q_loc)
        u = pyro.sample("u", _normals(zeros, torch.eye(zeros.shape[1]).to(zeros).expand_as(self.q_raw_scale)))
        with rows:
            return pyro.sample("z", self._given(parts, u, h))

    def guide(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> None:
        """Draw the inducing values from q(u), and the codes of the rows from the model's conditional."""
        parts = sampled_with_scales(self, self.hyperparameters, list(self.log_scales))
        u = pyro.sample("u", _normals(*self.q))
        with rows:
            pyro.sample("z", self._given(parts, u, h))

    def check_codes(self, h: Float[Tensor, "N D"]) -> None:
        """Raise ValueError if the initial kernel makes features and inducing inputs all uncorrelated or all alike."""
        if not self.hyperparameters:
            check_identifiable(self.kernel, h, self.inducing, what="features and inducing inputs")

    @property
    def q(self) -> InducingNormal:
        """Normal distribution of the whitened inducing values."""
        raw = self.q_raw_scale
        return InducingNormal(self.q_loc, raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp()))

    def replace_q(self, loc: Float[Tensor, "K M"], scale_tril: Float[Tensor, "K M M"]) -> None:
        """Replace the parameters of q(u), in place.

        Args:
            loc: means m_k.
            scale_tril: lower triangular factors T_k.
        """
        with torch.no_grad():
            self.q_loc.copy_(loc)
            log_diagonal = scale_tril.diagonal(dim1=-2, dim2=-1).abs().log()
            self.q_raw_scale.copy_(scale_tril.tril(-1) + torch.diag_embed(log_diagonal))

    def code_marginals(
        self, h: Float[Tensor, "N D"], q_loc: Float[Tensor, "K M"], q_scale_tril: Float[Tensor, "K M M"]
    ) -> CodeMarginals:
        """Normal marginal of each code for u_k ~ N(m_k, T_k T_kᵀ), at the present hyperparameters.

        Args:
            h: features of the rows.
            q_loc: means m_k.
            q_scale_tril: lower triangular factors T_k.
        """
        at = interpolation(self.kernel, self.inducing, h)
        loc = mean_at(self.mean, h)[:, None] + (q_loc @ at.weights).mT
        spread = (q_scale_tril.tril().mT @ at.weights).square().sum(-2)
        return CodeMarginals(loc, at.variance[:, None] + spread.mT)

    def sample_inducing_values(self, num_samples: int) -> Float[Tensor, "S K M"]:
        """Draws from q(u) by the global random state."""
        loc, scale = self.q
        return loc + (scale @ torch.randn(num_samples, *loc.shape, 1, dtype=loc.dtype, device=loc.device))[..., 0]

    def sample_codes(self, h: Float[Tensor, "N D"], u: Float[Tensor, "S K M"]) -> Float[Tensor, "S N K"]:
        """Draws of the codes, one per draw of the inducing values, at the present hyperparameters."""
        at = interpolation(self.kernel, self.inducing, h)
        loc = mean_at(self.mean, h)[:, None] + (u @ at.weights).mT
        return loc + at.variance.sqrt()[:, None] * torch.randn_like(loc)

    def process(self, h: Float[Tensor, "N D"], y: Tensor, decision: AffineDecision) -> ObservedValues:
        """Exact Gaussian process that the code approximates, observed through the decision's weights and normal noise.

        Raises:
            ValueError: if hyperparameters are latents, the decision has more than one output or a noise that depends on z.
        """
        latents = [each.site for each in self.hyperparameters]
        weight, bias, noise = decision.affine()
        if latents or len(weight) != 1:
            raise ValueError(
                f"expected point estimates of hyperparameters and one response per row, got latents {latents} and "
                f"{len(weight)} responses; use evidence.elbo"
            )
        y = y.reshape(len(h)).to(h)
        mean = weight.sum() * mean_at(self.mean, h) + bias
        return ObservedValues(h, y, mean, noise.to(h).expand(len(h)), self.kernel, weight.square().sum())

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
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
    # Prior and guide are of one family, so that their KL divergence has a closed form.
    return dist.MultivariateNormal(loc, scale_tril=scale_tril).to_event(1)


def _matern(in_features: int) -> ScaleKernel:
    kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=in_features))
    kernel.base_kernel.lengthscale = math.sqrt(in_features)
    return kernel
