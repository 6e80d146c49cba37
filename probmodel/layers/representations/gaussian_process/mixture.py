"""Mixture of Gaussian-process experts: each row is of one, not known which (Tresp, 2001; Rasmussen & Ghahramani, 2002)."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from probmodel.families.gaussian_processes.covariances import mean_at
from probmodel.families.gaussian_processes.mixtures.assignments import (
    Assigned,
    assigned,
    log_evidence_by_enumeration,
    most_rows,
    prior_assignments,
)
from probmodel.families.gaussian_processes.mixtures.gates import Gate
from probmodel.families.gaussian_processes.mixtures.soft_assignments import Predicted, predicted
from probmodel.families.normal_mixture import NormalMixture
from probmodel.layers.representations.gaussian_process.codes import code, continued, guess, standard, whitening
from probmodel.layers.representations.gaussian_process.exact import GaussianProcess
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.dataset_checks import inputs_and_observations
from probmodel.protocols.model import NOISE_VARIANCE


class GPMixture(nn.Module):
    """y | c ~ ∏_k N(y_k; m_k(x), K_k + σ_k² I) over the rows of each expert, c from the gate; called as `mixture(x, y)`.

    Alone, its likelihood sums over assignments, exactly up to 16 rows of two experts and 13 of more.  For larger data fit it
    by `VariationalEM` or draw assignments by `CollapsedGibbs`; its evidence is then `evidence.assignments_smc`.  What it
    predicts is a mixture of normals, with a density, quantiles and modes.

    In a `Pipeline` it is a representation: the code of a row is the function of its expert, drawn at the sites "u.0", "u.1" …
    with the gate's shares at "sticks", and the expert at the discrete site "expert", which is summed out row by row.  The
    decision's noise takes the place of the experts'.  The data's size is None, as rows are linked.

    >>> import gpytorch
    >>> from probmodel.gaussian_processes.gates import DirichletGate
    >>> experts = [GaussianProcess(gpytorch.kernels.RBFKernel()) for _ in range(2)]
    >>> GPMixture(experts, DirichletGate(2)).num_parameters
    6

    Args:
        experts: Gaussian processes, each with its own kernel, mean and noise; their parameters are point estimates.
        gate: prior of the assignments, `DirichletGate`, `StickBreakingGate`, `SoftmaxGate` or `DensityGate`.
        responsibilities: q(c) of the training rows as a fit finds it: sets of them are averaged; None before a fit.

    Reference:
        Tresp (2001), "Mixtures of Gaussian processes"; Rasmussen & Ghahramani (2002), "Infinite mixtures of Gaussian process
        experts"; Meeds & Osindero (2006), "An alternative infinite mixture of Gaussian process experts".
    """

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
        """Codes of the rows, of each expert where experts are enumerated."""
        f = torch.stack([self._above(k, h) + _column(mean_at(each.mean, h)) for k, each in self._numbered], 1)
        log_p = self.gate.log_rows(h) + self.gate.coupling.log_weights_of_experts(h)
        with rows:
            expert = pyro.sample("expert", dist.Categorical(logits=log_p), infer={"enumerate": "parallel"})
            return _of_expert(f, expert)

    def guide(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> None:
        for k, each in self._numbered:
            guess(f"u.{k}", whitening(each.kernel, h), self.out_features)
        self.gate.coupling.guided_weights(h)

    def continued(
        self, known: Float[Tensor, "n D"], new: Float[Tensor, "m D"], rows: pyro.plate
    ) -> Float[Tensor, "m K"]:
        """Codes of new rows, each drawn from the function of an expert that the gate draws, given those of the known rows."""
        said = []
        for k, each in self._numbered:
            u = pyro.sample(f"u.{k}", standard(known, self.out_features, len(known)))
            mean, variance = continued(each.kernel, whitening(each.kernel, known), u, known, new)
            said.append((mean.mT + _column(mean_at(each.mean, new)), _column(variance).expand(-1, self.out_features)))
        means, variances = (torch.stack(sides, 1) for sides in zip(*said, strict=True))
        log_p = self.gate.log_rows(new) + self.gate.coupling.log_weights_of_experts(new)
        with rows:
            expert = pyro.sample("expert", dist.Categorical(logits=log_p))
            return pyro.sample("z", code(_of_expert(means, expert).mT, _of_expert(variances, expert).mT))

    @property
    def _numbered(self) -> list[tuple[int, Any]]:
        return list(enumerate(self.experts))

    def _above(self, k: int, h: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        expert: Any = self.experts[k]
        return (pyro.sample(f"u.{k}", standard(h, self.out_features, len(h))) @ whitening(expert.kernel, h)).mT

    def assigned(self, x: Float[Tensor, "n D"], y: Float[Tensor, " n"]) -> Assigned:
        """Experts and gate evaluated at the rows: what inference and evidence over assignments work on."""
        return assigned(list(self.experts), self.gate, x, y)

    def with_responsibilities(self, r: Float[Tensor, "S n K"]) -> "GPMixture":
        """The same experts and gate with these assignments of the training rows."""
        experts: Any = self.experts
        return GPMixture(list(experts), self.gate, responsibilities=r.detach())

    def given(self, data: Dataset) -> "ConditionedMixture":
        """The model of new rows once these are observed: `model(x) → y`.

        Raises:
            ValueError: before a fit, or for another number of rows than that of the fit.
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
                "Dataset((x,), {'y': y})"
            )
        if x.dim() != 2 or y.shape != x.shape[:1]:
            raise ValueError(f"expected x (n, D) and y (n,), got {tuple(x.shape)} and {tuple(y.shape)}; reshape them")

    def check_training(self, data: Dataset) -> None:
        """Raise ValueError as `GaussianProcess.check_training` does, for any of the experts."""
        for _, expert in self._numbered:
            expert.check_training(data)

    @property
    def num_parameters(self) -> int:
        """Numbers that fitting sets."""
        return sum(p.numel() for p in self.parameters())

    def settings(self) -> dict[str, object]:
        """Arguments that build the same piece again."""
        return {"experts": list(self.experts), "gate": self.gate, "responsibilities": self.responsibilities}


class ConditionedMixture(nn.Module):
    """A mixture given its observations, as a model of new rows; made by `GPMixture.given`."""

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
        """p(y | new x, data), of each new row on its own."""
        return self._predicted(new).y

    def _predicted(self, new: Float[Tensor, "m D"]) -> Predicted:
        parts = self.mixture
        model = parts.assigned(self.x, self.y)
        return predicted(list(parts.experts), parts.gate, model, self.r.to(new), self.x, new)


class MixtureObservations(TorchDistribution):
    """All observations of a mixture of Gaussian processes, the assignments summed out."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, mixture: GPMixture, x: Float[Tensor, "n D"]) -> None:
        self.mixture, self.x = mixture, x
        super().__init__(torch.Size(), x.shape[:1], validate_args=False)

    def log_prob(self, value: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """In nats, by enumeration; NaN for more rows than can be enumerated, whose evidence is `evidence.assignments_smc`."""
        if len(value) > most_rows(len(self.mixture.experts)):
            return value.new_full((), math.nan)
        return log_evidence_by_enumeration(self.mixture.assigned(self.x, value))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws (*sample_shape, n)."""
        x = self.x
        with torch.no_grad():
            model = self.mixture.assigned(x, x.new_zeros(len(x)))
            factor = torch.linalg.cholesky(model.noisy)
            c = prior_assignments(model, torch.Size(sample_shape).numel())
            white = torch.randn(len(c), *model.residual.shape, dtype=x.dtype, device=x.device)
            every = (factor @ white[..., None])[..., 0] - model.residual
            return every.gather(1, c[:, None])[:, 0].reshape(*sample_shape, len(x))


def _check_responsibilities(r: Tensor, num_experts: int) -> None:
    if r.dim() != 3 or r.shape[2] != num_experts or not bool(((r >= 0) & r.isfinite()).all()):
        raise ValueError(
            f"expected responsibilities (S, n, {num_experts}) from 0 to 1, got {tuple(r.shape)}; one an expert"
        )
    if not torch.allclose(r.sum(-1), torch.ones_like(r[..., 0]), atol=1e-3):
        raise ValueError("expected responsibilities of a row that sum to 1, got others; divide each row by its sum")


def _column(values: Float[Tensor, " n"]) -> Float[Tensor, "n 1"]:
    return values[:, None]


def _of_expert(by_expert: Float[Tensor, "n E K"], expert: Tensor) -> Tensor:
    """What each row's expert says; where experts are enumerated, along the same axis."""
    # PyTorch's one_hot looks at values, which keeps it out of a recorded graph.
    held = (expert[..., None] == torch.arange(by_expert.shape[1], device=expert.device)).to(by_expert)
    return (held[..., None] * by_expert).sum(-2)
