"""Evidence lower bound of a sparse variational Gaussian process, and its optimal q(u) (Hensman et al., 2015)."""

import math
from typing import Any, NamedTuple

import torch
from gpytorch import settings
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood, Likelihood
from gpytorch.means import Mean
from jaxtyping import Float
from linear_operator.operators import DiagLinearOperator
from torch import Tensor

from probmodel.families.gaussian_processes.covariances import (
    check_rows,
    check_tensors,
    dense,
    mean_at,
    noise_by_row,
    prior_variance,
)
from probmodel.families.gaussian_processes.natural_gradients import factor_of_inverse
from probmodel.families.gaussian_processes.positive_definite import factorized, upper_factor
from probmodel.families.gaussian_processes.stationary_kernels import (
    refuse_second_derivative,
    stationary,
    stationary_covariance,
)
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.tracing.programs.graphs import functional

JITTER_MULTIPLES = (1.0, 10.0, 100.0, 1000.0)
"""Multiples of GPyTorch's `variational_cholesky_jitter` added to Kuu in turn; all but the first raise a warning."""


@checks_arguments
def svgp_elbo(
    mean: Mean,
    kernel: Kernel,
    likelihood: Likelihood,
    inducing: Float[Tensor, "M D"],
    q_loc: Float[Tensor, " M"],
    q_scale_tril: Float[Tensor, "M M"],
    x: Float[Tensor, "B D"],
    y: Float[Tensor, " B"],
    size: int,
) -> Float[Tensor, ""]:
    """ELBO = size/B Σ_b E_q[log p(y_b | f_b)] − KL(q(v) ‖ N(0, I)), in nats over all `size` rows; higher is better.

    Inducing values are whitened, u = L v with Kuu = L Lᵀ and q(v) = N(m, T Tᵀ), so with A = L⁻¹ Kux

        E[f] = m(x) + Aᵀ m,   Var[f] = k(x, x) − Σ A² + Σ (Tᵀ A)².

    As in GPyTorch's `VariationalStrategy`, `gpytorch.settings.variational_cholesky_jitter` (1e-6 in float64, 1e-4 in
    float32) is added to the diagonal of Kuu and to the variances; where Kuu needs more, the first multiple in `JITTER_MULTIPLES`
    that suffices is added, with a warning.  A recorded graph chooses the same multiple inside the graph; it cannot
    warn, and gives NaN where the largest does not suffice.  Priors on parameters are not added; gradients flow into the
    parameters of mean, kernel and likelihood and into every tensor; only a recorded graph has second derivatives.

    Args:
        mean: GPyTorch mean.
        kernel: GPyTorch kernel without batch dimensions; RBF and Matérn kernels are evaluated by faster code.
        likelihood: GPyTorch likelihood of one latent function; Gaussian noise is integrated in closed form, others by
            their `expected_log_prob`, which is Gauss–Hermite quadrature where there is no closed form.
        inducing: inputs (M, D) of the inducing values.
        q_loc: mean m of q(v), (M,).
        q_scale_tril: T, (M, M), of which only the lower triangle is read.
        x: inputs (B, D) of a minibatch, or of all rows, float32 or float64.
        y: observations (B,) of these rows.
        size: number of rows of the full data set.

    Returns:
        ELBO in nats, a scalar.

    Raises:
        TypeError: for arguments that are not tensors, such as NumPy arrays.
        ValueError: for shapes or dtypes that do not fit, values that are not finite, a mean or kernel of another
            precision that cannot take x, or a size below the number of rows passed; unless a graph is recorded, also
            for a zero or NaN on the diagonal of T, or a Kuu that is not positive definite with the largest jitter of
            `JITTER_MULTIPLES`.

    Reference:
        Hensman, Matthews & Ghahramani (2015), Scalable Variational Gaussian Process Classification, AISTATS.
    """
    check_tensors({"inducing": inducing, "q_loc": q_loc, "q_scale_tril": q_scale_tril, "x": x, "y": y})
    check_rows(kernel, x, y)
    _check_inducing(inducing, q_loc, q_scale_tril, x, size)
    f_mean, f_var = _marginals(kernel, inducing, q_loc, q_scale_tril, x)
    f_mean = f_mean + mean_at(mean, x)
    rows = _expected_log_likelihood(likelihood, y, f_mean, f_var)
    return rows.sum() * (size / len(y)) - kl_to_standard(q_loc, q_scale_tril)


class Interpolation(NamedTuple):
    """Distribution of each f(x_b) given whitened inducing values v: independent N(m(x_b) + (Aᵀ v)_b, variance_b)."""

    weights: Float[Tensor, "M B"]
    """Weights A = L⁻¹ Kux."""
    variance: Float[Tensor, " B"]
    """Conditional variance k(x, x) − Σ A²."""


def interpolation(kernel: Kernel, inducing: Float[Tensor, "M D"], x: Float[Tensor, "B D"]) -> Interpolation:
    """Conditional distribution of f at each row given inducing values, with the jitter of `svgp_elbo`.

    Args:
        kernel: GPyTorch kernel without batch dimensions.
        inducing: inputs (M, D) of the inducing values.
        x: inputs (B, D).

    Raises:
        ValueError: for a Kuu that is not positive definite with the largest jitter of `JITTER_MULTIPLES`; a recorded graph gives
            NaN.
    """
    k, prior, s = _covariances(kernel, inducing, x)
    jitter, m = settings.variational_cholesky_jitter.value(x.dtype), len(inducing)
    u = _factor(k[:, :m], jitter / s)
    a = torch.linalg.solve_triangular(u, torch.eye(m, dtype=k.dtype, device=k.device), upper=True).mT @ k[:, m:]
    # Kxx − Kxu (Kuu + jitter)⁻¹ Kux is never negative, so the jitter is what rounding must leave.
    variance = (s * (prior - a.square().sum(0)) + jitter).clamp(min=jitter)
    return Interpolation(s.sqrt() * a, variance)


def optimal_q(
    mean: Mean,
    kernel: Kernel,
    likelihood: GaussianLikelihood | FixedNoiseGaussianLikelihood,
    inducing: Float[Tensor, "M D"],
    x: Float[Tensor, "n D"],
    y: Float[Tensor, " n"],
) -> tuple[Float[Tensor, " M"], Float[Tensor, "M M"]]:
    """The q(v) = N(m, T Tᵀ) that maximizes `svgp_elbo` under Gaussian noise of variance Σ.

    (T Tᵀ)⁻¹ = I + A Σ⁻¹ Aᵀ,   m = T Tᵀ A Σ⁻¹ (y − m(x)),   with A = L⁻¹ Kux; the bound is then Titsias' collapsed one.

    Args:
        mean, kernel, likelihood, inducing: the arguments of `svgp_elbo`; the noise must be Gaussian.
        x: inputs (n, D) of all rows.
        y: observations (n,) of all rows.

    Returns:
        m (M,) and T (M, M), lower triangular with a positive diagonal.

    Raises:
        TypeError: for a likelihood without Gaussian noise.
        ValueError: under the conditions of `svgp_elbo`.

    Reference:
        Titsias (2009), Variational Learning of Inducing Variables in Sparse Gaussian Processes, AISTATS, eq. (10).
    """
    check_tensors({"inducing": inducing, "x": x, "y": y})
    check_rows(kernel, x, y)
    if not isinstance(likelihood, GaussianLikelihood | FixedNoiseGaussianLikelihood):
        raise TypeError(
            f"expected a GaussianLikelihood or FixedNoiseGaussianLikelihood, got {type(likelihood).__name__}; for any other "
            "likelihood repeat natural_step"
        )
    scale = noise_by_row(likelihood, y).sqrt()
    a = interpolation(kernel, inducing, x).weights / scale
    t = factor_of_inverse(torch.eye(len(a), dtype=a.dtype, device=a.device) + a @ a.mT)
    return t @ (t.mT @ (a @ ((y - mean_at(mean, x)) / scale))), t


def _check_inducing(inducing: Tensor, q_loc: Tensor, q_scale_tril: Tensor, x: Tensor, size: int) -> None:
    m, columns = len(q_loc), x.shape[1]
    if inducing.shape != (m, columns) or q_loc.shape != (m,) or q_scale_tril.shape != (m, m) or m == 0:
        got = f"{tuple(inducing.shape)}, {tuple(q_loc.shape)} and {tuple(q_scale_tril.shape)}"
        expected = f"inducing (M, {columns}), q_loc (M,) and q_scale_tril (M, M)"
        raise ValueError(f"expected {expected}, got {got}; pass one whitened value per inducing input")
    if {inducing.dtype, q_loc.dtype, q_scale_tril.dtype} != {x.dtype}:
        got = f"{inducing.dtype}, {q_loc.dtype} and {q_scale_tril.dtype}"
        raise ValueError(f"expected inducing, q_loc and q_scale_tril of type {x.dtype}, got {got}; convert them")
    if size < len(x):
        raise ValueError(
            f"expected a size of {len(x)} or more, got {size}; pass the number of rows of the full data set"
        )
    scale = q_scale_tril.detach().diagonal()
    if not functional() and not (scale.abs() > 0.0).all():
        raise ValueError(
            f"expected q_scale_tril without zeros or NaN on its diagonal, got {int((~(scale.abs() > 0.0)).sum())}; pass the "
            "diagonal through exp or softplus"
        )


def _marginals(
    kernel: Kernel, inducing: Tensor, q_loc: Tensor, q_scale_tril: Tensor, x: Tensor
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Mean less the prior mean, and variance, of q(f_b)."""
    k, prior, s = _covariances(kernel, inducing, x)
    jitter = settings.variational_cholesky_jitter.value(x.dtype)
    shift, deviation = whitened_marginals(k, jitter / s, q_loc, q_scale_tril)
    return s.sqrt() * shift, s * (deviation + prior) + jitter


class _Covariances(NamedTuple):
    """Covariances divided by the outputscale s, by which only vectors of length B are multiplied."""

    k: Float[Tensor, "M M+B"]
    """[Kuu, Kux], divided by s."""
    prior: Tensor
    """k(x, x) divided by s, (B,), or one number for all rows."""
    s: Float[Tensor, ""]
    """Outputscale; 1 for kernels other than RBF and Matérn."""


def _covariances(kernel: Kernel, inducing: Tensor, x: Tensor) -> _Covariances:
    parts = stationary(kernel)
    if parts is None:
        k = torch.cat([dense(kernel, inducing), dense(kernel, inducing, x)], 1)
        return _Covariances(k, prior_variance(kernel, x), torch.ones_like(k[0, 0]))
    zu, s = parts.scaled(inducing), parts.outputscale.to(x)
    k = stationary_covariance(parts.shape, zu, torch.cat([zu, parts.scaled(x)]))
    return _Covariances(k, torch.ones_like(s), s)


def _expected_log_likelihood(likelihood: Likelihood, y: Tensor, f_mean: Tensor, f_var: Tensor) -> Float[Tensor, " B"]:
    # Exact types are compared because a subclass may define another likelihood.
    if type(likelihood) not in (GaussianLikelihood, FixedNoiseGaussianLikelihood):
        rows = likelihood.expected_log_prob(y, MultivariateNormal(f_mean, DiagLinearOperator(f_var)))
        if rows.shape != y.shape:
            got = f"{tuple(rows.shape)}"
            raise ValueError(f"expected {tuple(y.shape)} terms, got {got}; use a likelihood of one latent function")
        return rows
    noise = noise_by_row(likelihood, y)
    return -0.5 * (((y - f_mean).square() + f_var) / noise + noise.log() + math.log(2 * math.pi))


def kl_to_standard(loc: Float[Tensor, "*K M"], scale_tril: Float[Tensor, "*K M M"]) -> Float[Tensor, ""]:
    """Σ_k KL(N(m_k, T_k T_kᵀ) ‖ N(0, I)) in nats."""
    t = scale_tril.tril()
    # The sign of a factor's diagonal is free.
    log_det = t.diagonal(dim1=-2, dim2=-1).square().log().sum()
    return 0.5 * (t.square().sum() + loc.square().sum() - loc.numel() - log_det)


def whitened_marginals(k: Tensor, jitter: Tensor, m: Tensor, scale_tril: Tensor) -> tuple[Tensor, Tensor]:
    """The pair (Aᵀ m, Σ A ∘ (T Tᵀ − I) A) from k = [Kuu, Kux], with A = L⁻¹ Kux."""
    if not functional():
        return _WhitenedMarginals.apply(k, jitter, m, scale_tril)
    kuu, kux, eye = k[:, : len(m)], k[:, len(m) :], torch.eye(len(m), dtype=k.dtype, device=k.device)
    u = _factor(kuu, jitter)
    a = torch.linalg.solve_triangular(u, eye, upper=True).mT @ kux
    return m @ a, (scale_tril.tril().mT @ a).square().sum(0) - a.square().sum(0)


def jittered_factor(k: Float[Tensor, "M M"]) -> Float[Tensor, "M M"]:
    """Upper Cholesky factor U of k + jitter = Uᵀ U, with the jitter schedule of `svgp_elbo`."""
    return _factor(k, k.new_tensor(settings.variational_cholesky_jitter.value(k.dtype)))


def _factor(kuu: Tensor, jitter: Tensor) -> Float[Tensor, "M M"]:
    """Upper Cholesky factor U of Kuu + multiple · jitter = Uᵀ U with the first multiple of `JITTER_MULTIPLES` that suffices."""

    def build(multiple: float | Tensor) -> Tensor:
        return upper_factor(kuu + torch.diag_embed((multiple * jitter).expand(len(kuu))))

    if functional():
        return build(_recorded_multiple(kuu, jitter))
    return factorized(build, JITTER_MULTIPLES, "variational_cholesky_jitter")


def _recorded_multiple(kuu: Tensor, jitter: Tensor) -> Float[Tensor, ""]:
    """The first multiple of `JITTER_MULTIPLES` with which Kuu has a Cholesky factor, else the last, chosen inside a graph.

    It is chosen before the factor that is differentiated: a choice among factors would pass on the NaN gradients of
    those that failed.
    """
    chosen = kuu.new_full((), JITTER_MULTIPLES[-1])
    for multiple in JITTER_MULTIPLES[:-1]:
        # Once one is found, a first pivot of −Kuu[0, 0] makes LAPACK stop at once, so later multiples are almost free.
        shift = torch.where(chosen < JITTER_MULTIPLES[-1], -2.0 * kuu[0, 0], multiple * jitter)
        info = torch.linalg.cholesky_ex((kuu + torch.diag_embed(shift.expand(len(kuu)))).mT).info
        chosen = torch.where(info == 0, multiple, chosen)
    return chosen


class _WhitenedMarginals(torch.autograd.Function):
    """The pair (Aᵀ m, Σ A ∘ H) from [Kuu, Kux], with A = L⁻¹ Kux, H = (T Tᵀ − I) A and a gradient in M × M products.

    L⁻¹ is formed explicitly: products with it run faster than substitution, and cond(L) = √cond(Kuu), which the jitter
    bounds.
    """

    @staticmethod
    def forward(ctx: Any, k: Tensor, jitter: Tensor, m: Tensor, scale_tril: Tensor) -> tuple[Tensor, Tensor]:
        kuu, kux = k[:, : len(m)], k[:, len(m) :]

        tried: list[float] = []

        def build(multiple: float) -> Tensor:
            tried.append(multiple)
            shifted = kuu.clone()
            shifted.diagonal().add_(multiple * jitter)
            return upper_factor(shifted)

        u = factorized(build, JITTER_MULTIPLES, "variational_cholesky_jitter")
        inverse = torch.linalg.solve_triangular(u, torch.eye(len(m), dtype=k.dtype, device=k.device), upper=True)
        t = scale_tril.tril()
        deviation = t @ t.mT
        deviation.diagonal().sub_(1.0)
        a = inverse.mT @ kux
        h = deviation @ a
        ctx.multiple = tried[-1]
        ctx.save_for_backward(inverse, a, h, m, t, deviation)
        return m @ a, (a * h).sum(0)

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_var: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        refuse_second_derivative()
        inverse, a, h, m, t, deviation = ctx.saved_tensors
        grad_var = 2.0 * grad_var
        grad_m = a @ grad_mean
        grad_a = torch.addr(h.mul(grad_var), m, grad_mean)
        q = (a * grad_var) @ a.mT
        # Murray (2016), sec. 4.2: through the factor, −½ L⁻ᵀ P L⁻¹ with P the lower triangle of Ā Aᵀ, mirrored.
        p = (deviation @ q).addr_(m, grad_m).tril_()
        p = p.add(p.tril(-1).mT)
        grad_k = a.new_empty(len(m), len(m) + a.shape[1])
        grad_kuu = torch.mm(inverse @ p, inverse.mT, out=grad_k[:, : len(m)]).mul_(-0.5)
        torch.mm(inverse, grad_a, out=grad_k[:, len(m) :])
        return grad_k, ctx.multiple * grad_kuu.diagonal().sum(), grad_m, (q @ t).tril_()
