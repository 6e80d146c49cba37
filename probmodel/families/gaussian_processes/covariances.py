"""Means, covariance matrices and noise variances of GPyTorch's modules, as checked dense tensors."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood
from gpytorch.means import Mean
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from probmodel.families.gaussian_processes.positive_definite import JITTERS
from probmodel.families.gaussian_processes.recordable_kernels import (
    is_recordable,
    recordable_covariance,
    recordable_variance,
)
from probmodel.families.gaussian_processes.stationary_kernels import stationary, stationary_covariance
from probmodel.tracing.internals import replace_child, set_plain, shallow_copy
from probmodel.tracing.programs.graphs import functional


def check_tensors(given: Mapping[str, object]) -> None:
    """Raise a TypeError that names the first argument that is not a tensor.

    Args:
        given: arguments by name.
    """
    for name, value in given.items():
        if not torch.is_tensor(value):
            got = f"{type(value).__module__}.{type(value).__name__}"
            raise TypeError(f"expected {name} as a PyTorch tensor, got {got}; give torch.as_tensor({name})")


def check_rows(kernel: Kernel, x: Tensor, y: Tensor) -> None:
    """Check inputs and observations of a kernel.

    Raises:
        ValueError: unless x is (n, D) and y is (n,) with n > 0, both finite and of one floating-point dtype, and the
            kernel has no batch dimensions.
    """
    if x.dim() != 2 or y.shape != x.shape[:1] or len(y) == 0:
        got = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"expected x of shape (n, D) and y of shape (n,), got {got}; reshape or squeeze them")
    if x.dtype != y.dtype or x.dtype not in JITTERS:
        raise ValueError(f"expected x and y both float64 or both float32, got {x.dtype} and {y.dtype}; convert one")
    # A finite sum proves finite terms at lower cost; only sums that overflow need the elementwise check.
    if not functional() and not ((x.sum() + y.sum()).isfinite() or (x.isfinite().all() and y.isfinite().all())):
        raise ValueError("expected finite x and y, got NaN or infinity; drop or impute those rows")
    if kernel.batch_shape:
        raise ValueError(f"expected one kernel, got a batch {tuple(kernel.batch_shape)}; call once for each output")


def noise_by_row(
    likelihood: GaussianLikelihood | FixedNoiseGaussianLikelihood, y: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Noise variance of each row.

    Raises:
        ValueError: for a likelihood with neither one noise variance nor one per row.
    """
    noise = likelihood.noise
    if noise.shape not in ((), (1,), y.shape):
        got = f"noise of shape {tuple(noise.shape)}"
        raise ValueError(
            f"expected one noise variance or one for each of the {len(y)} rows, got {got}; construct the likelihood with the "
            "noise of these rows, or pass it with them as Dataset((x,), {'y': y, 'noise': variances})"
        )
    return noise.to(y).expand(y.shape)


def is_noise_known(likelihood: object) -> bool:
    """Return whether the likelihood has the noise variance of each row from its user."""
    return type(likelihood) is FixedNoiseGaussianLikelihood


def refuse_known_noise(likelihood: object, what: str) -> None:
    """Raise ValueError for a likelihood with known noise variances of the rows, which parts of the rows cannot share."""
    if is_noise_known(likelihood):
        raise ValueError(
            f"expected a GaussianLikelihood for a {what}, got a FixedNoiseGaussianLikelihood, whose rows are not divided; use "
            "one GaussianProcess for known errors of measurement"
        )


def with_known_noise(likelihood: Any, noise: Float[Tensor, " n"]) -> Any:
    """The likelihood with other known noise variances; a variance that is learned in addition stays.

    Raises:
        ValueError: for a likelihood that learns all of its noise, or variances that are negative or not finite.
    """
    if not is_noise_known(likelihood):
        raise ValueError(
            f"expected a FixedNoiseGaussianLikelihood together with the noise variances of rows, got "
            f"{type(likelihood).__name__}; pass likelihood=FixedNoiseGaussianLikelihood(variances)"
        )
    if noise.dim() != 1 or (not functional() and not bool((noise.isfinite() & (noise >= 0)).all())):
        raise ValueError(
            f"expected a noise variance of 0 or more for each row, got a tensor of shape {tuple(noise.shape)} with other "
            "numbers; pass the squares of the standard errors, of shape (n,)"
        )
    known, copied = shallow_copy(likelihood.noise_covar), shallow_copy(likelihood)
    set_plain(known, "noise", noise)
    replace_child(copied, "noise_covar", known)
    return copied


def parts_with_noise(parts: Any, noise: Float[Tensor, " n"] | None) -> Any:
    """Module of mean, kernel and likelihood with these known noise variances of the rows; itself without them."""
    if noise is None:
        return parts
    copied: Any = shallow_copy(parts)
    replace_child(copied, "likelihood", with_known_noise(parts.likelihood, noise))
    return copied


def noise_of_new_rows(
    likelihood: GaussianLikelihood | FixedNoiseGaussianLikelihood,
    new: Float[Tensor, "m D"],
    noise: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, " m"]:
    """Noise variance of rows that were not observed.

    Args:
        likelihood: Gaussian, with one noise variance or one per observed row.
        new: inputs of the new rows.
        noise: known noise variances of the new rows, for a likelihood that has known ones.

    Raises:
        ValueError: for known noise variances without those of the new rows, or of new rows without known ones.
    """
    if noise is not None:
        return noise_by_row(with_known_noise(likelihood, noise), new[:, 0])
    if is_noise_known(likelihood):
        raise ValueError(
            f"expected the noise variances of the {len(new)} new rows, got none, as the likelihood knows those of the observed "
            "rows only; pass Dataset((x,), {'noise': variances}), with zeros to predict the function itself"
        )
    return likelihood.noise.to(new).expand(len(new))


def mean_at(mean: Mean, x: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
    """Prior mean of each row, in the dtype of x.

    Raises:
        ValueError: for a mean whose parameters have a dtype that does not combine with that of x.
    """
    with _translated_dtype_error(mean, x):
        return mean(x).to(x)


@contextmanager
def _translated_dtype_error(module: Module, x: Tensor) -> Iterator[None]:
    """Context of a module's call that translates PyTorch's error about parameters of another dtype than x."""
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
            f"expected parameters of type {x.dtype} as in the data, got {type(module).__name__} with {', '.join(others)}; "
            f"convert it by .to({x.dtype})"
        ) from error


def dense(kernel: Kernel, *inputs: Tensor) -> Tensor:
    """Dense covariance matrix of a kernel with one output per input, in the dtype of the inputs; differentiable.

    Raises:
        ValueError: for a kernel with several outputs per input, or with parameters of a dtype that does not combine
            with that of the inputs.
    """
    if functional() and is_recordable(kernel):
        return recordable_covariance(kernel, inputs[0], inputs[-1])
    with _translated_dtype_error(kernel, inputs[0]):
        k = kernel(*inputs).to_dense()
    expected = (len(inputs[0]), len(inputs[-1]))
    if k.shape != expected:
        raise ValueError(f"expected a covariance {expected}, got {tuple(k.shape)}; use a kernel with one output")
    return k.to(inputs[0])


def covariance(kernel: Kernel, a: Float[Tensor, "n D"], b: Float[Tensor, "m D"] | None = None) -> Float[Tensor, "n m"]:
    """Covariance matrix K(a, b), or K(a, a) without b: RBF and Matérn kernels by this package, others by GPyTorch."""
    parts = stationary(kernel)
    if parts is None:
        return dense(kernel, a) if b is None else dense(kernel, a, b)
    za, zb = parts.scaled(a), parts.scaled(a if b is None else b)
    return parts.outputscale.to(a) * stationary_covariance(parts.shape, za, zb)


def prior_variance(kernel: Kernel, x: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
    """Prior variance of f at each row, in the dtype of x."""
    parts = stationary(kernel)
    if parts is not None:
        return parts.outputscale.to(x).expand(len(x))
    if functional() and is_recordable(kernel):
        return recordable_variance(kernel, x)
    return kernel(x, diag=True).to(x)
