"""Gaussian-process experts on shards of the data, fitted together and combined at prediction (Deisenroth & Ng, 2015)."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, cast

import pyro
import pyro.distributions as dist
import torch
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood
from gpytorch.means import Mean
from jaxtyping import Float, Int
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from probmodel.families.gaussian_processes.covariances import (
    mean_at,
    noise_of_new_rows,
    prior_variance,
    refuse_known_noise,
)
from probmodel.families.gaussian_processes.experts.aggregation import Aggregation, robust_bcm
from probmodel.families.gaussian_processes.experts.experts import (
    SharedProcess,
    aggregated,
    conditioned_experts,
    conditioned_experts_in_graph,
    experts_log_marginal,
)
from probmodel.families.gaussian_processes.experts.shards import random_shards, rows_of
from probmodel.layers.representations.gaussian_process.exact import GaussianProcess
from probmodel.layers.representations.gaussian_process.function_values import (
    conditional_moments,
    normal_codes,
    sample_guide,
    standard_normal,
    whitening_factor,
)
from probmodel.layers.representations.gaussian_process.hyperparameters import sampled
from probmodel.layers.representations.gaussian_process.observations import ProcessObservations
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.integers import integer
from probmodel.protocols.model import NOISE_VARIANCE


class GPProduct(nn.Module):
    """Product of Gaussian-process experts y_k ~ N(m(x_k), K(x_k, x_k) + σ² I) on shards k of the rows.

    It is a Pyro model called as `product(x, y)`.  The experts share mean, kernel and noise and are otherwise
    independent: fitting maximizes log p(y) = Σ_k log p(y_k), in nats.  The evidence is that of independent experts,
    and that of the exact process is usually not below it.  Predictions combine the experts' distributions of f by
    `aggregation`; with one expert they are those of the exact process.

    In a `Pipeline` it is a representation: K = `out_features` functions are drawn at one site per shard, "u.0", "u.1",
    and so on.  Shards are independent but for rows that the aggregation gives to several experts, and codes of new rows
    follow the combined predictions of the experts.  The data's size is None, since rows are dependent.

    Experts run in parallel in as many processes as `joblib.parallel_config` states, one by default; the results are the
    same.  Parameters with priors are latents, as in `GaussianProcess`; the density is then one recorded graph, which
    runs in this process.

    >>> import gpytorch
    >>> kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=3))
    >>> product = GPProduct(kernel, shards=4)
    >>> x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    >>> tuple(product.given(Dataset((x,), {"y": x.sum(1)}))(x[:5]).shape)
    (5,)

    Args:
        kernel: GPyTorch kernel without batch dimensions.
        mean: GPyTorch mean; a constant by default.
        likelihood: GPyTorch likelihood of Gaussian noise; by default `GaussianLikelihood()`, with its bound on the
            noise.
        shards: number of shards, to which the rows are assigned at random; or the shard 0 … K − 1 of each row of the
            data, as from `random_shards` with another seed or `kmeans_shards`.
        aggregation: rule that combines predictions; `generalized_robust_bcm` gives shard 0, best a random one, to all
            experts.
        out_features: number of functions, in a pipeline.

    Raises:
        TypeError: if `aggregation` is not an `Aggregation`.
        ValueError: if a shard has no rows, or the noise of each row is known; on the call, for more shards than rows, or
            an assignment of an unequal number of rows.

    Reference:
        Deisenroth & Ng (2015), Distributed Gaussian Processes, ICML.
    """

    @checks_arguments
    def __init__(
        self,
        kernel: Kernel,
        *,
        mean: Mean | None = None,
        likelihood: GaussianLikelihood | FixedNoiseGaussianLikelihood | None = None,
        shards: int | Int[Tensor, " n"],
        aggregation: Aggregation = robust_bcm,
        out_features: int = 1,
    ) -> None:
        super().__init__()
        if not isinstance(aggregation, Aggregation):
            raise TypeError(
                f"expected an aggregation, got {aggregation!r}; pass pb.gp.poe, pb.gp.gpoe, pb.gp.bcm or pb.gp.robust_bcm"
            )
        refuse_known_noise(likelihood, "GPProduct")
        self.expert = GaussianProcess(kernel, mean=mean, likelihood=likelihood, out_features=out_features)
        self.out_features = self.expert.out_features
        self.shards, self.aggregation = shards, aggregation
        self.by_shard = rows_of(shards) if torch.is_tensor(shards) else ()
        self.num_shards = len(self.by_shard) or integer("shards", shards)

    def forward(self, x: Float[Tensor, "n D"], y: Float[Tensor, " n"] | None = None) -> Tensor:
        parts = cast(SharedProcess, sampled(self.expert, self.expert.hyperparameters))
        return pyro.sample("y", ExpertObservations(parts, self._names, x, self.rows(x)), obs=y)

    def model(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> Float[Tensor, "N K"]:
        """Draw the function values at the rows, in whitened coordinates at one site per shard."""
        parts = self.expert.sampled_for_code()
        return mean_at(parts.mean, h)[:, None] + self._above(parts, h).mT

    def guide(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> None:
        """Draw the whitened function values from the guide, at one site per shard."""
        parts = self.expert.sampled_by_guide_for_code()
        for number, shard in enumerate(self.rows(h)):
            sample_guide(f"u.{number}", whitening_factor(parts.kernel, h[shard]), self.out_features)

    def codes_of_new_rows(
        self, known: Float[Tensor, "n D"], new: Float[Tensor, "m D"], rows: pyro.plate
    ) -> Float[Tensor, "m K"]:
        """Draw the codes of new rows from the experts' combined predictions given the codes of the known rows."""
        parts = self.expert.sampled_for_code()
        white = self._white(known)
        seen = self.aggregation.rows(self.rows(known))
        moments = [
            _expert_moments(parts.kernel, white[:, rows_of_one], known[rows_of_one], new) for rows_of_one in seen
        ]
        means, variances = (torch.stack([each.flatten() for each in sides]) for sides in zip(*moments, strict=True))
        prior = prior_variance(parts.kernel, new).expand(self.out_features, len(new)).flatten()
        at = self.aggregation(means, variances, prior)
        mean, variance = at.mean.view(self.out_features, -1), at.variance.view(self.out_features, -1)
        with rows:
            return pyro.sample("z", normal_codes(mean_at(parts.mean, new) + mean, variance))

    def _white(self, h: Float[Tensor, "N D"]) -> Float[Tensor, "K N"]:
        """Whitened function values in the order of the rows, drawn shard by shard."""
        shards = self.rows(h)
        whitened = [
            pyro.sample(f"u.{number}", standard_normal(h, self.out_features, len(shard)))
            for number, shard in enumerate(shards)
        ]
        return torch.cat(whitened, 1)[:, torch.cat(list(shards)).argsort()]

    def _above(self, parts: Any, h: Float[Tensor, "N D"]) -> Float[Tensor, "K N"]:
        """Function values less their mean, of each shard given the further rows of its expert."""
        white, shards = self._white(h), self.rows(h)
        seen = self.aggregation.rows(shards)
        found = [
            (white[:, rows_of_one] @ whitening_factor(parts.kernel, h[rows_of_one]))[:, -len(shard) :]
            for shard, rows_of_one in zip(shards, seen, strict=True)
        ]
        return torch.cat(found, 1)[:, torch.cat(list(shards)).argsort()]

    def given(self, data: Dataset) -> "ConditionedProduct":
        """Model of new rows given these observations, `model(x) → y`, at the present values of the parameters."""
        self.check(data)
        observed = self.expert.given(data)
        return ConditionedProduct(self, observed.x, observed.y)

    def rows(self, x: Float[Tensor, "n D"]) -> tuple[Int[Tensor, " _"], ...]:
        """Row numbers of each shard.

        Raises:
            ValueError: for more shards than rows, or an assignment of an unequal number of rows.
        """
        found = self.by_shard or rows_of(random_shards(len(x), self.num_shards))
        if sum(map(len, found)) != len(x):
            raise ValueError(
                f"expected the shards of {len(x)} rows as the data have, got those of {sum(map(len, found))}; assign the rows "
                "that the model is called with"
            )
        return tuple(each.to(x.device) for each in found)

    def check(self, data: Dataset) -> None:
        """Raise ValueError unless data is `Dataset((x,), {"y": y})` of all rows, as many as the shards have."""
        self.expert.check(data)
        self.rows(self.expert.given(data).x)

    def check_training(self, data: Dataset) -> None:
        """Raise ValueError as `GaussianProcess.check_training` does."""
        self.expert.check_training(data)

    def starting_values(self, data: Dataset, number: int | None = None) -> list[Mapping[str, Tensor]]:
        """Starts of a fit of the shared parameters, as those of one `GaussianProcess` of all rows."""
        starts = self.expert.starting_values(data, number)
        return [{f"expert.{name}": value for name, value in each.items()} for each in starts]

    def parameter_units(self, data: Dataset) -> Mapping[str, Tensor]:
        """Natural steps of the shared parameters."""
        return {f"expert.{name}": value for name, value in self.expert.parameter_units(data).items()}

    def check_fit(self, data: Dataset) -> None:
        """Warn as `GaussianProcess.check_fit` does."""
        self.expert.check_fit(data)

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        return self.expert.num_parameters

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {
            "kernel": self.expert.kernel,
            "mean": self.expert.mean,
            "likelihood": self.expert.likelihood,
            "shards": self.shards,
            "aggregation": self.aggregation,
            "out_features": self.out_features,
        }

    @property
    def _names(self) -> tuple[str, ...]:
        """Names of the tensors in the drawn parts that receive a gradient."""
        latent = [".".join(part for part in (each.module, each.raw) if part) for each in self.expert.hyperparameters]
        return tuple(name for name, _ in self.expert.named_parameters() if name not in latent) + tuple(latent)


def _expert_moments(kernel: Kernel, white: Tensor, known: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    mean, variance = conditional_moments(kernel, whitening_factor(kernel, known), white, known, new)
    return mean, variance.expand_as(mean)


class ConditionedProduct(nn.Module):
    """Model of new rows given the observations of all experts; made by `GPProduct.given`."""

    def __init__(self, product: GPProduct, x: Float[Tensor, "n D"], y: Float[Tensor, " n"]) -> None:
        super().__init__()
        self.expert = deepcopy(product.expert).requires_grad_(False)
        self.aggregation, self.x, self.y = product.aggregation, x.detach(), y.detach()
        self.rows = product.aggregation.rows(product.rows(x))
        # Hyperparameters that are latents are known only in the call.
        self.known = (
            ()
            if self.expert.hyperparameters
            else conditioned_experts(cast(SharedProcess, self.expert), self.x, self.y, self.rows)
        )

    def forward(self, new: Float[Tensor, "m D"], y: Float[Tensor, " m"] | None = None) -> Tensor:
        parts = cast(SharedProcess, sampled(self.expert, self.expert.hyperparameters))
        experts = self.known or conditioned_experts_in_graph(parts, self.x, self.y, self.rows)
        at = aggregated(parts, self.aggregation, experts, new)
        noise = pyro.deterministic(NOISE_VARIANCE, noise_of_new_rows(parts.likelihood, new), event_dim=1)
        with pyro.plate("rows", len(new), dim=-1):
            return pyro.sample("y", dist.Normal(at.mean, (at.variance + noise).sqrt()), obs=y)


class ExpertObservations(TorchDistribution):
    """Independent distributions N(m(x_k), K(x_k, x_k) + σ² I) on the shards of the rows, in the order of the rows."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, parts: SharedProcess, names: Sequence[str], x: Float[Tensor, "n D"], shards: Sequence[Int[Tensor, " _"]]
    ) -> None:
        self.parts, self.names, self.x, self.shards = parts, names, x, shards
        super().__init__(torch.Size(), x.shape[:1], validate_args=False)

    def log_prob(self, value: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Log density in nats, over all shards."""
        return experts_log_marginal(self.parts, self.names, self.x, value, self.shards)

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape (*sample_shape, n)."""
        parts = cast(nn.Module, self.parts)
        draws = [ProcessObservations(parts, self.x[rows]).rsample(torch.Size(sample_shape)) for rows in self.shards]
        return torch.cat(draws, -1)[..., torch.cat(list(self.shards)).argsort()]
