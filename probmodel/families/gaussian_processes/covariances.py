"""Means, covariance matrices and noise that GPyTorch's modules give, checked and dense."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood
from gpytorch.means import Mean
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from probmodel.families.gaussian_processes.positive_definite import JITTERS
from probmodel.families.gaussian_processes.stationary_kernels import stationary, stationary_covariance
from probmodel.tracing.programs.graphs import functional


def check_tensors(given: Mapping[str, object]) -> None:
    """Raise a TypeError naming the first argument that is no tensor."""
    for name, value in given.items():
        if not isinstance(value, Tensor):
            got = f"{type(value).__module__}.{type(value).__name__}"
            raise TypeError(f"expected {name} as a PyTorch tensor, got {got}; give torch.as_tensor({name})")


def check_rows(kernel: Kernel, x: Tensor, y: Tensor) -> None:
    """Raise a ValueError unless x is (n, D), y is (n,), of one float type, finite, for one kernel."""
    if x.dim() != 2 or y.shape != x.shape[:1] or len(y) == 0:
        got = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"expected x of shape (n, D) and y of shape (n,), got {got}; reshape or squeeze them")
    if x.dtype != y.dtype or x.dtype not in JITTERS:
        raise ValueError(f"expected x and y both float64 or both float32, got {x.dtype} and {y.dtype}; convert one")
    # A finite sum is the cheaper proof; only sums that overflow need the other.
    if not functional() and not ((x.sum() + y.sum()).isfinite() or (x.isfinite().all() and y.isfinite().all())):
        raise ValueError("expected finite x and y, got NaN or infinity; drop or impute those rows")
    if kernel.batch_shape:
        raise ValueError(f"expected one kernel, got a batch {tuple(kernel.batch_shape)}; call once for each output")


def noise_by_row(
    likelihood: GaussianLikelihood | FixedNoiseGaussianLikelihood, y: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Variance of the noise of each row.

    Raises:
        ValueError: for a likelihood with neither one noise nor one for each row.
    """
    noise = likelihood.noise
    if noise.shape not in ((), (1,), y.shape):
        got = f"noise of shape {tuple(noise.shape)}"
        raise ValueError(
            f"expected one noise or one for each of the {len(y)} rows, got {got}; give it those rows' noise"
        )
    return noise.to(y).expand(y.shape)


def noise_of_new_rows(
    likelihood: GaussianLikelihood | FixedNoiseGaussianLikelihood, new: Float[Tensor, "m D"]
) -> Float[Tensor, " m"]:
    """Variance of the noise of rows that were not observed.

    Raises:
        ValueError: for a likelihood with a noise for each of the observed rows.
    """
    noise = likelihood.noise
    if noise.numel() != 1:
        raise ValueError(
            f"expected one noise for new rows, got one for each of {noise.numel()} observed rows; predict with a "
            "GaussianLikelihood"
        )
    return noise.to(new).expand(len(new))


def mean_at(mean: Mean, x: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
    """The mean of each row, of x's type.

    Raises:
        ValueError: for a mean whose parameters' type keeps it from taking x.
    """
    with _explained_type(mean, x):
        return mean(x).to(x)


@contextmanager
def _explained_type(module: Module, x: Tensor) -> Iterator[None]:
    """Around a call of a module: say so where its parameters are of another type than x and PyTorch objects."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        types = {tensor.dtype for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()}
        others = sorted(str(each) for each in types - {x.dtype})
        if functional() or not others:
            raise
        raise ValueError(
            f"expected parameters of type {x.dtype} as the data, got {type(module).__name__} with {', '.join(others)}; "
            f"convert it by .to({x.dtype})"
        ) from error


def dense(kernel: Kernel, *inputs: Tensor) -> Tensor:
    """The covariance matrix of a kernel that keeps one output for each input, of their type, under autograd.

    Raises:
        ValueError: for a kernel of several outputs, or whose parameters' type keeps it from taking the inputs.
    """
    with _explained_type(kernel, inputs[0]):
        k = kernel(*inputs).to_dense()
    expected = (len(inputs[0]), len(inputs[-1]))
    if k.shape != expected:
        raise ValueError(f"expected a covariance {expected}, got {tuple(k.shape)}; use a kernel of one output")
    return k.to(inputs[0])


def covariance(kernel: Kernel, a: Float[Tensor, "n D"], b: Float[Tensor, "m D"] | None = None) -> Float[Tensor, "n m"]:
    """K(a, b), or K(a, a); RBF and Matérn kernels by our own code, others by GPyTorch's."""
    parts = stationary(kernel)
    if parts is None:
        return dense(kernel, a) if b is None else dense(kernel, a, b)
    za, zb = parts.scaled(a), parts.scaled(a if b is None else b)
    return parts.outputscale.to(a) * stationary_covariance(parts.shape, za, zb)
