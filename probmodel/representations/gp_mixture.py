"""Mixture of Gaussian-process experts: each row is of one, not known which (Tresp, 2001; Rasmussen & Ghahramani, 2002)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from probmodel.gaussian_processes.assignments import (
    Assigned,
    assigned,
    log_evidence_by_enumeration,
    most_rows,
    prior_assignments,
)
from probmodel.gaussian_processes.gates import Gate
from probmodel.gaussian_processes.normal_mixture import NormalMixture
from probmodel.gaussian_processes.soft_assignments import bound, predicted
from probmodel.protocols import Dataset
from probmodel.representations.gaussian_process import GaussianProcess


class GPMixture(nn.Module):
    """y | c ~ ∏_k N(y_k; m_k(x), K_k + σ_k² I) over the rows of each expert, c from the gate; called as `mixture(x, y)`.

    The likelihood sums over assignments, which is exact up to 16 rows of two experts and 13 of more.  For larger data fit it
    by `VariationalEM` or draw assignments by `CollapsedGibbs`: its likelihood of the training rows is then the variational
    bound, and its evidence is `evidence.assignments_smc`, not `evidence.exact`.  What it predicts is a mixture of normals, with
    a density, quantiles and modes.

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
        latents = [each.site for expert in experts for each in expert.hyperparameters]
        if latents:
            raise ValueError(f"expected experts without priors of hyperparameters, got {latents}; drop those priors")
        if len(experts) != gate.num_experts:
            raise ValueError(f"expected a gate of {len(experts)} experts, got {gate.num_experts}; make them equal")
        self.experts = nn.ModuleList(experts)
        self.responsibilities: Tensor | None
        self.gate = gate
        self.register_buffer("responsibilities", responsibilities)

    def forward(self, x: Float[Tensor, "n D"], y: Float[Tensor, " n"] | None = None) -> Tensor:
        return pyro.sample("y", MixtureObservations(self, x), obs=y)

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
            ValueError: before a fit, or for other rows than those of the fit.
        """
        x, y = rows(data)
        r = self.responsibilities
        if r is None or r.shape[1] != len(y):
            got = "none" if r is None else f"those of {r.shape[1]} rows"
            raise ValueError(
                f"expected responsibilities of {len(y)} rows, got {got}; fit the mixture to them by VariationalEM first"
            )
        return ConditionedMixture(self, r, x, y)

    def check(self, data: Dataset) -> None:
        """Raise ValueError unless data is `Dataset((x,), {"y": y})`, of all rows."""
        x, y = rows(data)
        if data.size is not None:
            raise ValueError(
                f"expected size=None, since the rows of a Gaussian process are not independent, got size={data.size}; pass "
                "Dataset((x,), {'y': y})"
            )
        if x.dim() != 2 or y.shape != x.shape[:1]:
            raise ValueError(f"expected x (n, D) and y (n,), got {tuple(x.shape)} and {tuple(y.shape)}; reshape them")

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
        with pyro.plate("rows", len(new), dim=-1):
            return pyro.sample("y", self.predictive(new), obs=y)

    def predictive(self, new: Float[Tensor, "m D"]) -> NormalMixture:
        """p(y | new x, data), of each new row on its own."""
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
        """In nats, by enumeration; for more rows, of a fitted mixture, its variational bound, which is below.

        Raises:
            ValueError: for more rows than can be enumerated, before a fit to them.
        """
        model, r = self.mixture.assigned(self.x, value), self.mixture.responsibilities
        if r is None or r.shape[1] != len(value) or len(value) <= most_rows(len(model.residual)):
            return log_evidence_by_enumeration(model)
        return bound(model, r.to(value)).amax()

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


def rows(data: Dataset) -> tuple[Tensor, Tensor]:
    """Inputs and observations of the data.

    Raises:
        ValueError: for data that the mixture is not called with.
    """
    values = dict(zip(("x", "y"), data.args, strict=False)) | dict(data.kwargs)
    if set(values) != {"x", "y"} or not all(isinstance(value, Tensor) for value in values.values()):
        raise ValueError(
            f"a mixture of Gaussian processes is called with x and y, got {sorted(values)}; pass Dataset((x,), {{'y': y}})"
        )
    return values["x"], values["y"]
