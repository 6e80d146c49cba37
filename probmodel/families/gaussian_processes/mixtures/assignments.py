"""Gaussian-process experts with rows assigned to them and the processes integrated out (Rasmussen & Ghahramani, 2002).

y | c ~ ∏_k N(y_k; m_k, K_k + Σ_k) over the rows of each expert, with c from a gate.  The evidence is a sum over all c,
computed by recursion over experts and sets of rows in K 3^n terms in place of K^n.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import Mean
from jaxtyping import Float, Int
from torch import Tensor

from probmodel.families.gaussian_processes.covariances import check_rows, covariance, mean_at, noise_by_row
from probmodel.families.gaussian_processes.mixtures.gates import CountPrior, Gate
from probmodel.families.gaussian_processes.positive_definite import JITTERS, factorized, upper_factor
from probmodel.protocols.errors import NotPositiveDefiniteError
from probmodel.protocols.memory import refuse_above_memory
from probmodel.protocols.structural import Structural

MAX_ROWS_TWO_EXPERTS = 16
"""Largest number of rows at which two experts are enumerated: 2^16 sets of rows, each factored once per expert."""
MAX_ROWS = 13
"""Largest number of rows at which more experts are enumerated: 3^13 = 1.6 million pairs of a set and its subset."""


@runtime_checkable
class ProcessExpert(Protocol, metaclass=Structural):
    """One Gaussian process: GPyTorch's kernel, mean and Gaussian likelihood."""

    kernel: Kernel
    mean: Mean
    likelihood: GaussianLikelihood


@runtime_checkable
class ProcessMixture(Protocol, metaclass=Structural):
    """A model that assigns each row to one of several Gaussian processes."""

    responsibilities: Tensor | None
    gate: Gate

    def assigned(self, x: Tensor, y: Tensor) -> "Assigned":
        """The experts and the gate evaluated at the rows."""
        ...

    def with_responsibilities(self, r: Float[Tensor, "S n K"]) -> Any:
        """A copy with the responsibilities that a fit has found."""
        ...

    def parameters(self) -> Any: ...

    def named_parameters(self) -> Iterator[tuple[str, Any]]: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class Assigned(NamedTuple):
    """K experts and a gate, evaluated at n rows."""

    residual: Float[Tensor, "K n"]
    """Residuals y − m_k(x)."""
    covariance: Float[Tensor, "K n n"]
    """Prior covariance of each expert's function, without noise."""
    noise: Float[Tensor, "K n"]
    log_input_factors: Float[Tensor, "n K"]
    """Log factor of each expert for the input of each row, in nats."""
    count_prior: CountPrior

    @property
    def observation_covariance(self) -> Float[Tensor, "K n n"]:
        """Covariance of the observations, K_k + Σ_k."""
        return self.covariance + torch.diag_embed(self.noise)

    def detach(self) -> "Assigned":
        """The same values without gradients."""
        residual, covariance, noise, log_input_factors = (each.detach() for each in self[:4])
        return Assigned(residual, covariance, noise, log_input_factors, self.count_prior)

    def double(self) -> "Assigned":
        """The same values in float64: inverses kept by rank-one updates, and sums over many assignments, lose digits."""
        residual, covariance, noise, log_input_factors = (each.double() for each in self[:4])
        return Assigned(residual, covariance, noise, log_input_factors, self.count_prior)


def assigned(experts: Sequence[ProcessExpert], gate: Gate, x: Float[Tensor, "n D"], y: Float[Tensor, " n"]) -> Assigned:
    """Evaluate experts and gate at the rows.

    Raises:
        ValueError: for rows that `check_rows` refuses, a gate of unequal number of experts, or a covariance that is not
            positive definite with the largest of `JITTERS` added; smaller jitters above 0 raise a warning.
    """
    if len(experts) != gate.num_experts:
        raise ValueError(
            f"expected a gate of {len(experts)} experts, got one of {gate.num_experts}; build it for {len(experts)}"
        )
    for each in experts:
        check_rows(each.kernel, x, y)
    covariances = [covariance(each.kernel, x) for each in experts]
    noises = [noise_by_row(each.likelihood, y) for each in experts]
    return Assigned(
        torch.stack([y - mean_at(each.mean, x) for each in experts]),
        torch.stack(covariances),
        torch.stack([with_jitter(k, noise) for k, noise in zip(covariances, noises, strict=True)]),
        gate.log_input_factors(x),
        gate.count_prior,
    )


def with_jitter(k: Float[Tensor, "n n"], noise: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Noise variances plus the least jitter of `JITTERS` with which all rows together have a Cholesky factor."""
    added = []

    def build(jitter: float) -> Tensor:
        added.append(jitter * k.detach().diagonal().mean())
        return upper_factor(k.detach() + torch.diag_embed(noise.detach() + added[-1]))

    factorized(build, JITTERS[k.dtype], "the mean variance")
    return noise + added[-1]


def log_evidence_by_enumeration(model: Assigned) -> Float[Tensor, ""]:
    """Log p(y | x) in nats, exact and differentiable, by the sum over all assignments.

    With L_k(A) the marginal likelihood of expert k on the rows A,

        Z_k(S) = Σ_{A ⊆ S} p_k(|A|, |S − A|) L_k(A) Z_{k+1}(S − A).

    Raises:
        ValueError: for more than 16 rows with two experts, or more than 13 rows with more experts.
    """
    num_experts, n = model.residual.shape
    most = most_rows(num_experts)
    if n > most:
        raise ValueError(
            f"expected at most {most} rows to enumerate {num_experts} experts, got {n}; use evidence.assignments_smc, and fit "
            "by VariationalEM or CollapsedGibbs to predict"
        )
    if num_experts == 1:
        return _log_normal(model.observation_covariance, model.residual)[0] + model.log_input_factors.sum()
    log_l = subset_log_marginals(model)
    whole, subset = _pairs(n, log_l.device) if num_experts > 2 else (log_l.new_zeros(0).long(),) * 2
    size = _popcount(torch.arange(2**n, device=log_l.device), n).to(log_l)
    log_z = log_l[-1]
    for k in range(num_experts - 2, 0, -1):
        split = model.count_prior.log_split(k, size[subset], size[whole - subset])
        log_z = _segment_logsumexp(split + log_l[k][subset] + log_z[whole - subset], whole, 2**n)
    return torch.logsumexp(model.count_prior.log_split(0, size, n - size) + log_l[0] + log_z.flip(0), 0)


def most_rows(num_experts: int) -> int:
    """Largest number of rows at which the evidence is summed exactly; one expert has nothing to sum."""
    return {1: sys.maxsize, 2: MAX_ROWS_TWO_EXPERTS}.get(num_experts, MAX_ROWS)


def subset_log_marginals(model: Assigned) -> Float[Tensor, "K M"]:
    """Log marginal, with gate factors, of each expert on all M = 2^n sets of rows in the order of bit masks, in nats."""
    num_experts, n = model.residual.shape
    observation_covariance, masks, values = (
        model.observation_covariance,
        [0],
        [model.residual.new_zeros(num_experts, 1)],
    )
    for size in range(1, n + 1):
        rows = torch.tensor(list(combinations(range(n), size)), device=observation_covariance.device)
        sub = observation_covariance[:, rows[:, :, None], rows[:, None, :]]
        gate = model.log_input_factors.mT[:, rows].sum(-1)
        values.append(_log_normal(sub, model.residual[:, rows]) + gate)
        masks += (2**rows).sum(-1).tolist()
    order = torch.tensor(masks, device=observation_covariance.device).argsort()
    return torch.cat(values, 1)[:, order]


def log_joint(model: Assigned, c: Int[Tensor, "S n"]) -> Float[Tensor, " S"]:
    """Log p(y | c) of each assignment in nats, without the gate's prior."""
    held = torch.nn.functional.one_hot(c, len(model.residual)).mT.to(model.residual)
    return _masked(model, held).log_p.sum(1)


class Swept(NamedTuple):
    """Assignments after a Gibbs sweep, and log p(y | c) before it."""

    c: Int[Tensor, "S n"]
    log_likelihood: Float[Tensor, " S"]


def gibbs_sweep(model: Assigned, c: Int[Tensor, "S n"], *, power: float = 1.0) -> Swept:
    """One Gibbs sweep over the rows for S parallel chains, which leaves p(c) p(y | c)^power invariant.

    Each row is removed from its expert and reassigned by p(c_i | c_{−i}) N(y_i | rows of the expert)^power; the
    inverses of all experts' covariances are kept by rank-one updates, in K n³ operations per chain.

    Raises:
        NotPositiveDefiniteError: for noise below the rounding errors of these updates.

    Reference:
        Neal (2000), "Markov chain sampling methods for Dirichlet process mixture models", algorithm 3.
    """
    num_experts, n = model.residual.shape
    observation_covariance, chains = model.observation_covariance, torch.arange(len(c), device=c.device)
    held = torch.nn.functional.one_hot(c, num_experts).mT.to(observation_covariance).contiguous()
    log_likelihood, inverse = _masked(model, held)
    c, log_likelihood, tiny = c.clone(), log_likelihood.sum(1), torch.finfo(observation_covariance.dtype).tiny
    # The rows of a chain depend on each other, hence the loop.
    for i in torch.randperm(n, device=c.device).tolist():
        old = c[:, i]
        q = inverse[chains, old]
        column = q[:, :, i]
        # 1 / Var(y_i | the expert's other rows), which exceeds 1 / noise by rounding errors only.
        own = torch.minimum(column[:, i], 1 / model.noise[old, i]).clamp(min=tiny)
        q = q - column[:, :, None] * column[:, None, :] / own[:, None, None]
        q[:, i], q[:, :, i] = 0.0, 0.0
        inverse[chains, old], held[chains, old, i] = q, 0.0
        k = observation_covariance[:, i] * held
        solved = (inverse @ k[..., None])[..., 0]
        mean = (solved * model.residual).sum(-1)
        variance = torch.maximum(observation_covariance[:, i, i] - (solved * k).sum(-1), model.noise[:, i])
        log_p = _log_normal_1d(model.residual[:, i] - mean, variance)
        logits = power * log_p + model.count_prior.log_next_assignment(held.sum(-1)) + model.log_input_factors[i]
        if bool(logits.isnan().any()):
            noise = float(model.noise.min())
            raise NotPositiveDefiniteError(
                f"expected covariances that allow a rank-one update, got NaN at row {i}, as a noise of {noise:.2g} is below "
                "their rounding errors; raise the noise, or drop duplicate rows"
            )
        new = torch.distributions.Categorical(logits=logits).sample()
        b, v = -solved[chains, new], variance[chains, new]
        b[:, i] = 1.0
        inverse[chains, new] += b[:, :, None] * b[:, None, :] / v[:, None, None]
        held[chains, new, i] = 1.0
        c[:, i] = new
    return Swept(c, log_likelihood)


def prior_assignments(model: Assigned, num_samples: int) -> Int[Tensor, "S n"]:
    """Independent draws of the assignments c from the gate's prior."""
    num_experts, n = model.residual.shape
    counts, columns = model.residual.new_zeros(num_samples, num_experts), []
    for i in range(n):
        logits = model.count_prior.log_next_assignment(counts) + model.log_input_factors[i]
        columns.append(torch.distributions.Categorical(logits=logits).sample())
        counts = counts + torch.nn.functional.one_hot(columns[-1], num_experts)
    return torch.stack(columns, 1)


class _Masked(NamedTuple):
    log_p: Float[Tensor, "S K"]
    inverse: Float[Tensor, "S K n n"]
    """Inverse of each expert's covariance on its own rows; zero elsewhere."""


def _masked(model: Assigned, held: Float[Tensor, "S K n"]) -> _Masked:
    needed = 3 * held.numel() * held.shape[-1] * held.element_size()
    what = f"{len(held)} assignments of {held.shape[-1]:,} rows to {held.shape[1]} experts"
    refuse_above_memory(needed, held.device, what, "take fewer chains or draws")
    out = torch.diag_embed(1 - held)
    factor = torch.linalg.cholesky(model.observation_covariance * held[..., :, None] * held[..., None, :] + out)
    white = torch.linalg.solve_triangular(factor, (model.residual * held)[..., None], upper=False)[..., 0]
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_p = -0.5 * (white.square().sum(-1) + held.sum(-1) * math.log(2 * math.pi)) - log_det
    return _Masked(log_p, torch.cholesky_inverse(factor) - out)


def _log_normal(observation_covariance: Tensor, residual: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(observation_covariance)
    white = torch.linalg.solve_triangular(factor, residual[..., None], upper=False)[..., 0]
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (white.square().sum(-1) + residual.shape[-1] * math.log(2 * math.pi)) - log_det


def _log_normal_1d(residual: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * (residual.square() / variance + variance.log() + math.log(2 * math.pi))


def _pairs(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All 3^n pairs of a set and a subset of it, as bit masks."""
    whole = subset = torch.zeros(1, dtype=torch.long, device=device)
    for bit in (2**i for i in range(n)):
        whole = torch.cat([whole, whole + bit, whole + bit])
        subset = torch.cat([subset, subset, subset + bit])
    return whole, subset


def _popcount(masks: Tensor, n: int) -> Tensor:
    return sum(((masks >> i) & 1 for i in range(n)), torch.zeros_like(masks))


def _segment_logsumexp(values: Tensor, segment: Tensor, count: int) -> Tensor:
    top = values.new_full((count,), -math.inf).scatter_reduce(0, segment, values.detach(), "amax")
    return top + values.new_zeros(count).index_add(0, segment, (values - top[segment]).exp()).log()
