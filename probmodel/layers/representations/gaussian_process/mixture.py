"""Mixture of Gaussian-process experts with latent assignments (Tresp, 2001; Rasmussen & Ghahramani, 2002)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from probmodel.families.gaussian_processes.covariances import mean_at, refuse_known_noise
from probmodel.families.gaussian_processes.mixtures.assignments import (
    Assigned,
    assigned,
    log_evidence_by_enumeration,
    most_rows,
    prior_assignments,
)
from probmodel.families.gaussian_processes.mixtures.gates import Gate
from probmodel.families.gaussian_processes.mixtures.soft_assignments import MixturePrediction, predicted
from probmodel.families.normal_mixture import NormalMixture
from probmodel.layers.representations.gaussian_process.exact import GaussianProcess
from probmodel.layers.representations.gaussian_process.function_values import (
    conditional_moments,
    normal_codes,
    sample_guide,
    standard_normal,
    whitening_factor,
)
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.dataset_checks import inputs_and_observations
from probmodel.protocols.model import NOISE_VARIANCE


class GPMixture(nn.Module):
    """Mixture of Gaussian processes y | c ~ ∏_k N(y_k; m_k(x), K_k + σ_k² I), with assignments c from the gate.

    It is a Pyro model called as `mixture(x, y)`; y_k are the rows of expert k.  Its likelihood sums over assignments,
    exactly for up to 16 rows with two experts and 13 rows with more.  Fit it to larger data by `VariationalEM` or draw
    assignments by `CollapsedGibbs`; its evidence is then `evidence.assignments_smc`.  Predictive distributions are
    mixtures of normals, with a density, quantiles and modes.

    In a `Pipeline` it is a representation: the code of a row is the function value of its expert.  The functions are
    drawn at the sites "u.0", "u.1" …, the mixing proportions at "sticks", and the experts of the rows at the discrete
    site "expert", which is summed out per row.  The decision's noise replaces that of the experts.  The data's size is
    None, since rows are dependent.

    >>> import gpytorch
    >>> from probmodel.layers.representations.gaussian_process.gates import DirichletGate
    >>> experts = [GaussianProcess(gpytorch.kernels.RBFKernel()) for _ in range(2)]
    >>> GPMixture(experts, DirichletGate(2)).num_parameters
    6

    Args:
        experts: Gaussian processes, each with its own kernel, mean and noise; their parameters are point estimates.
        gate: prior of the assignments, `DirichletGate`, `StickBreakingGate`, `SoftmaxGate` or `DensityGate`.
        responsibilities: q(c) of the training rows from a fit, (S, n, K); predictions average its S sets; None before a
            fit.

    Raises:
        TypeError: if an expert is not a `GaussianProcess`.
        ValueError: if experts share a kernel, have features, priors or unequal `out_features`, or differ in number from
            the gate's; or if responsibilities are not probabilities of the experts.

    Reference:
        Tresp (2001), "Mixtures of Gaussian processes"; Rasmussen & Ghahramani (2002), "Infinite mixtures of Gaussian
        process experts"; Meeds & Osindero (2006), "An alternative infinite mixture of Gaussian process experts".
    """

    @checks_arguments
    def __init__(
        self,
        experts: Sequence[GaussianProcess],
        gate: Gate,
        *,
        responsibilities: Float[Tensor, "S n K"] | None = None,
    ) -> None:
        super().__init__()
        unexpected = [type(each).__name__ for each in experts if not isinstance(each, GaussianProcess)]
        if unexpected or not experts:
            raise TypeError(
                f"expected GaussianProcess experts, got {unexpected}; wrap each kernel in GaussianProcess(kernel)"
            )
        for expert in experts:
            refuse_known_noise(expert.likelihood, "GPMixture")
        if len({id(part) for expert in experts for part in (expert, expert.kernel)}) < 2 * len(experts):
            raise ValueError(
                "expected experts with a kernel each, got one twice; build them one by one, as in "
                "[GaussianProcess(RBFKernel()) for _ in range(2)]"
            )
        if any(expert.features is not None for expert in experts):
            raise ValueError(
                "expected experts without features, got some; put features before the mixture in a Pipeline"
            )
        latents = [each.site for expert in experts for each in expert.hyperparameters]
        if latents:
            raise ValueError(f"expected experts without priors of hyperparameters, got {latents}; drop those priors")
        if len(experts) != gate.num_experts:
            raise ValueError(f"expected a gate of {len(experts)} experts, got {gate.num_experts}; make them equal")
        widths = {expert.out_features for expert in experts}
        if len(widths) > 1:
            raise ValueError(f"expected experts of one width, got {sorted(widths)}; set the same out_features")
        self.out_features = widths.pop()
        self.experts = nn.ModuleList(experts)
        if responsibilities is not None:
            _check_responsibilities(responsibilities, len(experts))
        self.responsibilities: Tensor | None
        self.gate = gate
        self.register_buffer("responsibilities", responsibilities)

    def forward(self, x: Float[Tensor, "n D"], y: Float[Tensor, " n"] | None = None) -> Tensor:
        return pyro.sample("y", MixtureObservations(self, x), obs=y)

    def model(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> Float[Tensor, "*E N K"]:
        """Codes of the rows, with an axis of experts where these are enumerated."""
        f = torch.stack([self._above(k, h) + _column(mean_at(each.mean, h)) for k, each in self._numbered], 1)
        log_p = self.gate.log_input_factors(h) + self.gate.count_prior.log_weights_of_experts(h)
        with rows:
            expert = pyro.sample("expert", dist.Categorical(logits=log_p), infer={"enumerate": "parallel"})
            return _of_expert(f, expert)

    def guide(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> None:
        """Draw the whitened functions of all experts and the mixing proportions from the guide."""
        for k, each in self._numbered:
            sample_guide(f"u.{k}", whitening_factor(each.kernel, h), self.out_features)
        self.gate.count_prior.sample_weights_from_guide(h)

    def codes_of_new_rows(
        self, known: Float[Tensor, "n D"], new: Float[Tensor, "m D"], rows: pyro.plate
    ) -> Float[Tensor, "*experts m K"]:
        """Draw the codes of new rows given those of known rows, by the function of an expert that the gate draws."""
        moments = []
        for k, each in self._numbered:
            u = pyro.sample(f"u.{k}", standard_normal(known, self.out_features, len(known)))
            mean, variance = conditional_moments(each.kernel, whitening_factor(each.kernel, known), u, known, new)
            moments.append(
                (mean.mT + _column(mean_at(each.mean, new)), _column(variance).expand(-1, self.out_features))
            )
        means, variances = (torch.stack(sides, 1) for sides in zip(*moments, strict=True))
        log_p = self.gate.log_input_factors(new) + self.gate.count_prior.log_weights_of_experts(new)
        with rows:
            expert = pyro.sample("expert", dist.Categorical(logits=log_p))
            return pyro.sample("z", normal_codes(_of_expert(means, expert).mT, _of_expert(variances, expert).mT))

    @property
    def _numbered(self) -> list[tuple[int, Any]]:
        return list(enumerate(self.experts))

    def _above(self, k: int, h: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        expert: Any = self.experts[k]
        return (
            pyro.sample(f"u.{k}", standard_normal(h, self.out_features, len(h))) @ whitening_factor(expert.kernel, h)
        ).mT

    def assigned(self, x: Float[Tensor, "n D"], y: Float[Tensor, " n"]) -> Assigned:
        """Experts and gate evaluated at the rows, the input of inference and evidence over assignments."""
        return assigned(list(self.experts), self.gate, x, y)

    def with_responsibilities(self, r: Float[Tensor, "S n K"]) -> "GPMixture":
        """Mixture of the same experts and gate with these responsibilities of the training rows."""
        experts: Any = self.experts
        return GPMixture(list(experts), self.gate, responsibilities=r.detach())

    def given(self, data: Dataset) -> "ConditionedMixture":
        """Model of new rows given these observations, `model(x) → y`.

        Raises:
            ValueError: before a fit, or for a number of rows unequal to that of the fit.
        """
        x, y = inputs_and_observations(data)
        r = self.responsibilities
        if r is None or r.shape[1] != len(y):
            got = "none" if r is None else f"those of {r.shape[1]} rows"
            raise ValueError(
                f"expected responsibilities of {len(y)} rows, got {got}; fit the mixture to them by VariationalEM first"
            )
        return ConditionedMixture(self, r, x, y)

    def check(self, data: Dataset) -> None:
        """Raise ValueError unless data is `Dataset((x,), {"y": y})`, of all rows."""
        x, y = inputs_and_observations(data)
        if data.size is not None:
            raise ValueError(
                f"expected size=None, since the rows of a Gaussian process are not independent, got size={data.size}; pass "
                "data._replace(size=None), which holds the same rows"
            )
        if x.dim() != 2 or y.shape != x.shape[:1]:
            raise ValueError(f"expected x (n, D) and y (n,), got {tuple(x.shape)} and {tuple(y.shape)}; reshape them")

    def check_training(self, data: Dataset) -> None:
        """Raise ValueError as `GaussianProcess.check_training` does, for any of the experts."""
        for _, expert in self._numbered:
            expert.check_training(data)

    def starting_values(self, data: Dataset, number: int | None = None) -> list[Mapping[str, Tensor]]:
        """Start of a fit of the experts' parameters, each as that of one `GaussianProcess` of all rows."""
        experts = [(k, expert.starting_values(data, 1)[0]) for k, expert in self._numbered]
        return [{f"experts.{k}.{name}": value for k, each in experts for name, value in each.items()}]

    def parameter_units(self, data: Dataset) -> Mapping[str, Tensor]:
        """Natural steps of the experts' parameters."""
        experts = [(k, expert.parameter_units(data)) for k, expert in self._numbered]
        return {f"experts.{k}.{name}": value for k, each in experts for name, value in each.items()}

    def check_fit(self, data: Dataset) -> None:
        """Warn as `GaussianProcess.check_fit` does, for any of the experts."""
        for _, expert in self._numbered:
            expert.check_fit(data)

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters())

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"experts": list(self.experts), "gate": self.gate, "responsibilities": self.responsibilities}


class ConditionedMixture(nn.Module):
    """Model of new rows given the observations of a mixture; made by `GPMixture.given`."""

    def __init__(
        self, mixture: GPMixture, r: Float[Tensor, "S n K"], x: Float[Tensor, "n D"], y: Float[Tensor, " n"]
    ) -> None:
        super().__init__()
        self.mixture, self.r, self.x, self.y = mixture, r, x, y

    def forward(self, new: Float[Tensor, "m D"], y: Float[Tensor, " m"] | None = None) -> Tensor:
        found = self._predicted(new)
        pyro.deterministic(NOISE_VARIANCE, found.noise_variance, event_dim=1)
        with pyro.plate("rows", len(new), dim=-1):
            return pyro.sample("y", found.y, obs=y)

    def predictive(self, new: Float[Tensor, "m D"]) -> NormalMixture:
        """Predictive distribution p(y | new x, data) of each new row by itself."""
        return self._predicted(new).y

    def _predicted(self, new: Float[Tensor, "m D"]) -> MixturePrediction:
        parts = self.mixture
        model = parts.assigned(self.x, self.y)
        return predicted(list(parts.experts), parts.gate, model, self.r.to(new), self.x, new)


class MixtureObservations(TorchDistribution):
    """Distribution of all observations of a mixture of Gaussian processes, with the assignments summed out."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, mixture: GPMixture, x: Float[Tensor, "n D"]) -> None:
        self.mixture, self.x = mixture, x
        super().__init__(torch.Size(), x.shape[:1], validate_args=False)

    def log_prob(self, value: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Log density in nats by enumeration; NaN for too many rows, whose evidence is `evidence.assignments_smc`."""
        if len(value) > most_rows(len(self.mixture.experts)):
            return value.new_full((), math.nan)
        return log_evidence_by_enumeration(self.mixture.assigned(self.x, value))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape (*sample_shape, n)."""
        x = self.x
        with torch.no_grad():
            model = self.mixture.assigned(x, x.new_zeros(len(x)))
            factor = torch.linalg.cholesky(model.observation_covariance)
            c = prior_assignments(model, torch.Size(sample_shape).numel())
            white = torch.randn(len(c), *model.residual.shape, dtype=x.dtype, device=x.device)
            every = (factor @ white[..., None])[..., 0] - model.residual
            return every.gather(1, c[:, None])[:, 0].reshape(*sample_shape, len(x))


def _check_responsibilities(r: Tensor, num_experts: int) -> None:
    if r.dim() != 3 or r.shape[2] != num_experts or not bool(((r >= 0) & r.isfinite()).all()):
        raise ValueError(
            f"expected responsibilities (S, n, {num_experts}) from 0 to 1, got {tuple(r.shape)}; give one per expert"
        )
    if not torch.allclose(r.sum(-1), torch.ones_like(r[..., 0]), atol=1e-3):
        raise ValueError(
            "expected responsibilities that sum to 1 in each row, got other sums; divide each row by its sum"
        )


def _column(values: Float[Tensor, " n"]) -> Float[Tensor, "n 1"]:
    return values[:, None]


def _of_expert(by_expert: Float[Tensor, "n E K"], expert: Tensor) -> Tensor:
    """Values of each row's expert; where experts are enumerated, with their axis."""
    # PyTorch's one_hot reads values, so that it cannot be in a recorded graph.
    held = (expert[..., None] == torch.arange(by_expert.shape[1], device=expert.device)).to(by_expert)
    return (held[..., None] * by_expert).sum(-2)
