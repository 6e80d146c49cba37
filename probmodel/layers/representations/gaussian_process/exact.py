"""Exact Gaussian process: f ~ GP(m, k), y = f(x) + noise, with f integrated out (Rasmussen & Williams, 2006).

Hyperparameters are parameters (type II maximum likelihood), or latents where a GPyTorch module has a prior of them.
"""

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood
from gpytorch.means import ConstantMean, Mean
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.families.gaussian_processes.conditional import condition, conditional, leave_one_out, log_normal
from probmodel.families.gaussian_processes.covariances import (
    is_noise_known,
    mean_at,
    noise_by_row,
    noise_of_new_rows,
    parts_with_noise,
    with_known_noise,
)
from probmodel.families.gaussian_processes.identifiability import (
    check_above_noise,
    check_identifiable,
    warn_at_least_noise,
)
from probmodel.families.gaussian_processes.nystrom import ObservedValues
from probmodel.layers.representations.gaussian_process.function_values import (
    conditional_moments,
    normal_codes,
    sample_guide,
    standard_normal,
    whitening_factor,
)
from probmodel.layers.representations.gaussian_process.hyperparameters import (
    Hyperparameter,
    hyperparameters,
    sampled,
    sampled_by_guide,
)
from probmodel.layers.representations.gaussian_process.observations import ProcessObservations, observed_rows
from probmodel.layers.representations.gaussian_process.starting import starts_of_process, units_of_process
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.integers import integer
from probmodel.protocols.model import NOISE_VARIANCE


class GaussianProcess(nn.Module):
    """Exact Gaussian process y ~ N(m(x), K(x, x) + σ² I), a Pyro model of dependent rows, called as `process(x, y)`.

    A parameter of a GPyTorch module with a registered prior (`lengthscale_prior=`, `register_prior`) is a latent at the
    site of its dotted name, such as `kernel.base_kernel.lengthscale`: the evidence then integrates over it.  All other
    parameters are point estimates that the evidence is conditional on.

    >>> import gpytorch
    >>> kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=3))
    >>> GaussianProcess(kernel).num_parameters
    6

    In a `Pipeline` it is a representation: K = `out_features` functions that share one kernel, z_nk = f_k(h_n), are
    drawn at the site "u" in whitened coordinates, and the decision's noise replaces its own.  The guide is
    normal with one weight per row and output, and exact for a linear decision with one output.  The data's size is
    None, since rows are dependent.

    With features, the inputs of kernel and mean are h = features(x): a deep kernel, whose network is fitted by the
    evidence alone.  Check such a fit with `diagnose`, since a network can raise the evidence by overfitting (Ober et
    al., 2021).

    Args:
        kernel: GPyTorch kernel without batch dimensions.
        mean: GPyTorch mean; a constant by default.
        likelihood: GPyTorch likelihood of Gaussian noise; by default `GaussianLikelihood()`, with its bound on the
            noise.  A `FixedNoiseGaussianLikelihood` has the known variances of the rows' errors of measurement; new rows
            have theirs in the data, as `Dataset((x,), {"noise": variances})`.
        features: module x → h (n, D), such as a `CNN`; None takes x itself.  In a pipeline give them to the `Pipeline`.
        out_features: number of functions, in a pipeline.

    Raises:
        TypeError: if `kernel` is not a GPyTorch kernel.
        ValueError: for an `out_features` below 1, or priors that cannot be latents.

    Reference:
        Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, ch. 2 and 5; Opper & Archambeau (2009),
        The Variational Gaussian Approximation Revisited, Neural Computation 21; Wilson, Hu, Salakhutdinov & Xing
        (2016), Deep Kernel Learning, AISTATS; Ober, Rasmussen & van der Wilk (2021), The Promises and Pitfalls of Deep
        Kernel Learning, UAI.
    """

    @checks_arguments
    def __init__(
        self,
        kernel: Kernel,
        *,
        mean: Mean | None = None,
        likelihood: GaussianLikelihood | FixedNoiseGaussianLikelihood | None = None,
        features: nn.Module | None = None,
        out_features: int = 1,
    ) -> None:
        super().__init__()
        if not isinstance(kernel, Kernel):
            raise TypeError(
                f"expected a GPyTorch kernel, got {kernel!r}; pass RBFKernel() or ScaleKernel(MaternKernel())"
            )
        self.out_features = integer("out_features", out_features)
        self.features = features
        self.kernel = kernel
        self.mean = ConstantMean() if mean is None else mean
        self.likelihood = GaussianLikelihood() if likelihood is None else likelihood
        self.hyperparameters = hyperparameters(self)

    def forward(
        self,
        x: Float[Tensor, "n *shape"],
        y: Float[Tensor, " n"] | None = None,
        noise: Float[Tensor, " n"] | None = None,
    ) -> Tensor:
        observations = ProcessObservations(
            self.sampled_with_noise(noise), self.kernel_inputs(x), is_latent=bool(self.hyperparameters)
        )
        return pyro.sample("y", observations, obs=y)

    def model(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> Float[Tensor, "N K"]:
        """Draw the function values at the rows, in whitened coordinates at the site "u"."""
        parts = self.sampled_for_code()
        upper = whitening_factor(parts.kernel, h)
        u = pyro.sample("u", standard_normal(h, self.out_features, len(h)))
        return mean_at(parts.mean, h)[:, None] + (u @ upper).mT

    def guide(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> None:
        """Draw the whitened function values at the rows from the guide, at the site "u"."""
        parts = self.sampled_by_guide_for_code()
        sample_guide("u", whitening_factor(parts.kernel, h), self.out_features)

    def codes_of_new_rows(
        self, known: Float[Tensor, "n D"], new: Float[Tensor, "m D"], rows: pyro.plate
    ) -> Float[Tensor, "m K"]:
        """Draw the codes of new rows given those of known rows, which have the model's own latents."""
        parts = self.sampled_for_code()
        u = pyro.sample("u", standard_normal(known, self.out_features, len(known)))
        above, variance = conditional_moments(parts.kernel, whitening_factor(parts.kernel, known), u, known, new)
        with rows:
            return pyro.sample("z", normal_codes(mean_at(parts.mean, new) + above, variance))

    def given(self, data: Dataset) -> "ConditionedProcessModel":
        """Model of new rows given these observations, `model(x) → y`, with the same hyperparameters as latents."""
        x, y, noise = observed_rows(data)
        return ConditionedProcessModel(self, x, y, noise)

    def known_by_row(self, data: Dataset) -> Dataset:
        """The data with the known noise variance of each row as a tensor of its own, so that some rows can be taken."""
        _, y, noise = observed_rows(data)
        if noise is not None or not is_noise_known(self.likelihood):
            return data
        known: Any = self.likelihood.noise_covar
        return data._replace(kwargs={**data.kwargs, "noise": known.noise.to(y)})

    def starting_values(self, data: Dataset, number: int | None = None) -> list[Mapping[str, Tensor]]:
        """Starts of a fit in the units of the data, best first; a parameter that is not at its default stays.

        A constant mean starts at the mean of y, variances at shares of the variance of y, a period at the likeliest periods
        of the data.

        Args:
            data: observations.
            number: number of starts; None for one, or several periods.
        """
        x, y, noise = observed_rows(data)
        with torch.no_grad():
            return starts_of_process(parts_with_noise(self, noise), self.kernel_inputs(x), y, number)

    def parameter_units(self, data: Dataset) -> Mapping[str, Tensor]:
        """Natural steps of the parameters: the deviation of y for a constant mean, and the size of a large variance."""
        x, y, _ = observed_rows(data)
        with torch.no_grad():
            return units_of_process(self, self.kernel_inputs(x), y)

    def check_fit(self, data: Dataset) -> None:
        """Warn where the lower bound of the noise holds the fit, and is no small part of the variance of y."""
        warn_at_least_noise(self.likelihood, observed_rows(data)[1])

    def check(self, data: Dataset) -> None:
        """Raise ValueError unless data is `Dataset((x,), {"y": y})`, of all rows, with or without their "noise"."""
        x, y, noise = observed_rows(data)
        if data.size is not None:
            raise ValueError(
                f"expected size=None, since the rows of a Gaussian process are not independent, got size={data.size}; pass "
                "data._replace(size=None), which holds the same rows, or use a SparseGP for minibatches"
            )
        if noise is not None:
            with_known_noise(self.likelihood, noise)
        if (x.dim() != 2 and self.features is None) or x.dim() < 2 or y.shape != x.shape[:1]:
            raise ValueError(
                f"expected x (n, D) and y (n,), got {tuple(x.shape)} and {tuple(y.shape)}; reshape them, or give features "
                "that map images to vectors"
            )

    def check_training(self, data: Dataset) -> None:
        """Raise ValueError if the initial kernel makes rows all uncorrelated or all alike, or y is mostly noise."""
        if not self.hyperparameters:
            x, y, _ = observed_rows(data)
            check_above_noise(self.likelihood, y)
            with torch.no_grad():
                check_identifiable(self.kernel, self.kernel_inputs(x))

    def kernel_inputs(self, x: Float[Tensor, "n *shape"]) -> Float[Tensor, "n D"]:
        """Inputs of the kernel: features(x) for a deep kernel, otherwise x."""
        return x if self.features is None else self.features(x)

    def process(self, data: Dataset) -> ObservedValues:
        """Gaussian process of the observations at the present values of the parameters.

        Raises:
            ValueError: if hyperparameters are latents.
        """
        latents = [each.site for each in self.hyperparameters]
        if latents:
            raise ValueError(
                f"expected hyperparameters that are point estimates, got latents {latents}; use evidence.sandwich"
            )
        x, y, known = observed_rows(data)
        h, noise = self.kernel_inputs(x), noise_by_row(parts_with_noise(self, known).likelihood, y)
        return ObservedValues(h, y, mean_at(self.mean, h), noise, self.kernel, y.new_ones(()))

    def log_leave_one_out(self, data: Dataset) -> Float[Tensor, " n"]:
        """Log density log p(y_i | all other y) of each row, nats, in closed form, at one value of the hyperparameters."""
        x, y, noise = observed_rows(data)
        parts, h = self.sampled_with_noise(noise), self.kernel_inputs(x)
        return log_normal(y, leave_one_out(condition(parts.mean, parts.kernel, parts.likelihood, h, y), y))

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters())

    def sampled_for_code(self) -> Any:
        """Kernel and mean with their latents drawn from the priors.

        Raises:
            ValueError: if the process has features of its own, which a pipeline would ignore.
        """
        if self.features is not None:
            raise ValueError("expected a representation without features, got some; give them to the Pipeline")
        return sampled(self, self._of_code)

    def sampled_by_guide_for_code(self) -> Any:
        """Kernel and mean with their latents drawn from the guide."""
        return sampled_by_guide(self, self._of_code)

    @property
    def _of_code(self) -> list[Hyperparameter]:
        """Hyperparameters that the code depends on: in a pipeline the noise is the decision's."""
        return [each for each in self.hyperparameters if each.module.split(".")[0] in ("kernel", "mean")]

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {
            "kernel": self.kernel,
            "mean": self.mean,
            "likelihood": self.likelihood,
            "features": self.features,
            "out_features": self.out_features,
        }

    def sampled_with_noise(self, noise: Tensor | None = None) -> Any:
        """Mean, kernel and likelihood with their latents drawn from the priors, and with known noise variances."""
        return parts_with_noise(sampled(self, self.hyperparameters), noise)


class ConditionedProcessModel(nn.Module):
    """Model of new rows of a Gaussian process given its observations; made by `GaussianProcess.given`."""

    def __init__(
        self, process: GaussianProcess, x: Float[Tensor, "n *shape"], y: Float[Tensor, " n"], noise: Tensor | None
    ) -> None:
        super().__init__()
        self.process, self.x, self.y, self.noise = process, x, y, noise

    def forward(
        self,
        new: Float[Tensor, "m *shape"],
        y: Float[Tensor, " m"] | None = None,
        noise: Float[Tensor, " m"] | None = None,
    ) -> Tensor:
        parts = self.process.sampled_with_noise(self.noise)
        known, h = self.process.kernel_inputs(self.x), self.process.kernel_inputs(new)
        found = condition(parts.mean, parts.kernel, parts.likelihood, known, self.y)
        at = conditional(parts.mean, parts.kernel, found, known, h)
        of_rows = noise_of_new_rows(parts.likelihood, h, noise)
        variance = pyro.deterministic(NOISE_VARIANCE, of_rows, event_dim=1)
        with pyro.plate("rows", len(new), dim=-1):
            return pyro.sample("y", dist.Normal(at.mean, (at.variance + variance).sqrt()), obs=y)
