"""Gaussian processes with shared hyperparameters on shards of the data, in parallel (Deisenroth & Ng, 2015, sec. 3.1)."""

import os
import platform
import warnings
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, Protocol, runtime_checkable

import joblib
import torch
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import Mean, ZeroMean
from gpytorch.utils.warnings import NumericalWarning
from jaxtyping import Float, Int
from torch import Tensor

from probmodel.families.gaussian_processes.conditional import (
    ConditionedProcess,
    NormalMarginals,
    condition,
    conditional,
)
from probmodel.families.gaussian_processes.covariances import mean_at, prior_variance
from probmodel.families.gaussian_processes.exact import gp_log_marginal
from probmodel.families.gaussian_processes.experts.aggregation import Aggregation
from probmodel.families.gaussian_processes.stationary_kernels import refuse_second_derivative
from probmodel.protocols.errors import warn
from probmodel.protocols.memory import budget, refuse_above_memory
from probmodel.protocols.structural import Structural
from probmodel.tracing.programs.graphs import functional
from probmodel.tracing.randomness import single_thread

EXPERT_BUFFERS = 4
"""Number of matrices of shard rows × new rows held at a time for one expert's prediction."""


@runtime_checkable
class SharedProcess(Protocol, metaclass=Structural):
    """Mean, kernel and likelihood of a Gaussian process, whose parameters all experts share."""

    mean: Mean
    kernel: Kernel
    likelihood: GaussianLikelihood


class ShardExpert(NamedTuple):
    """A Gaussian process conditioned on its shard, with the inputs of the shard."""

    x: Float[Tensor, "n D"]
    process: ConditionedProcess


def experts_log_marginal(
    parts: SharedProcess,
    names: Sequence[str],
    x: Float[Tensor, "n D"],
    y: Float[Tensor, " n"],
    shards: Sequence[Int[Tensor, " _"]],
) -> Float[Tensor, ""]:
    """Log marginal Σ_k log N(y_k; m(x_k), K_k + Σ_k) over the shards in nats, with its gradient in parameters, x and y.

    Experts run in one operating-system process, or in as many as `joblib.parallel_config` sets, each on one thread, so
    that the results do not depend on their number.  Where a graph is recorded they become part of it, and run in its
    process.

    Args:
        parts: mean, kernel and likelihood, which all experts share.
        names: dotted names of the tensors in parts to differentiate by.
        x, y: inputs (n, D) and observations (n,), as for `gp_log_marginal`.
        shards: row numbers of each shard.

    Raises:
        MemoryError, TypeError, ValueError: under the conditions of `gp_log_marginal` for the rows of a shard.
    """
    if functional():
        each = [gp_log_marginal(parts.mean, parts.kernel, parts.likelihood, x[rows], y[rows]) for rows in shards]
        return torch.stack(each).sum()
    tensors = [attrgetter(name)(parts) for name in names]
    return _SummedLogMarginal.apply(parts, tuple(names), tuple(shards), torch.is_grad_enabled(), x, y, *tensors)


def conditioned_experts(
    parts: SharedProcess, x: Float[Tensor, "n D"], y: Float[Tensor, " n"], rows: Sequence[Int[Tensor, " _"]]
) -> tuple[ShardExpert, ...]:
    """Condition each expert's process on its rows, in parallel as in `experts_log_marginal`, without gradients.

    Args:
        parts: mean, kernel and likelihood, which all experts share.
        x, y: inputs (n, D) and observations (n,).
        rows: row numbers that each expert is conditioned on.

    Raises:
        MemoryError: where the factors of all experts exceed the free memory.
        ValueError: under the conditions of `condition`.
    """
    needed = sum(len(each) ** 2 for each in rows) * y.element_size()
    what = f"factored covariances of {len(rows)} experts"
    refuse_above_memory(needed, y.device, what, "take more shards, so that each is smaller")
    return tuple(_side_by_side(_condition_without_gradient, [(parts, x[each], y[each]) for each in rows]))


def conditioned_experts_in_graph(
    parts: SharedProcess, x: Float[Tensor, "n D"], y: Float[Tensor, " n"], rows: Sequence[Int[Tensor, " _"]]
) -> tuple[ShardExpert, ...]:
    """Condition each expert's process on its rows for drawn hyperparameters, with gradients.

    It runs in the caller's process, so that it can be part of a recorded graph.
    """
    return tuple(ShardExpert(x[each], _condition(parts, x[each], y[each])) for each in rows)


def aggregated(
    parts: SharedProcess, aggregation: Aggregation, experts: Sequence[ShardExpert], new: Float[Tensor, "m D"]
) -> NormalMarginals:
    """Aggregated prediction of f at new rows, over blocks of rows that fit the memory budget."""
    largest = max(len(expert.x) for expert in experts)
    bytes_per_row = (EXPERT_BUFFERS * largest + 2 * EXPERT_BUFFERS * len(experts)) * new.element_size()
    each = max(1, budget(new.device) // bytes_per_row)
    # Kernels that branch on tensor values can be recorded at the caller's own rows, not at blocks of them.
    chunks = new.split(each) if each < len(new) else (new,)
    pieces = [_aggregated(parts, aggregation, experts, chunk) for chunk in chunks]
    return NormalMarginals(torch.cat([each.mean for each in pieces]), torch.cat([each.variance for each in pieces]))


def _aggregated(
    parts: SharedProcess, aggregation: Aggregation, experts: Sequence[ShardExpert], new: Tensor
) -> NormalMarginals:
    # The aggregations take means less the prior mean.
    above = [conditional(ZeroMean(), parts.kernel, expert.process, expert.x, new) for expert in experts]
    means, variances = torch.stack([each.mean for each in above]), torch.stack([each.variance for each in above])
    found = aggregation(means, variances, prior_variance(parts.kernel, new))
    return NormalMarginals(mean_at(parts.mean, new) + found.mean, found.variance)


class _SummedLogMarginal(torch.autograd.Function):
    """Sum of the log marginals, whose gradient is computed where the experts run."""

    @staticmethod
    def forward(
        ctx: Any,
        parts: SharedProcess,
        names: tuple[str, ...],
        shards: Sequence[Tensor],
        grad_enabled: bool,
        *tensors: Tensor,
    ) -> Tensor:
        wanted = tuple(needs and grad_enabled for needs in ctx.needs_input_grad[4:])
        x, y = (tensor.detach() for tensor in tensors[:2])
        jobs = [(parts, names, x[rows], y[rows], wanted) for rows in shards]
        values, grads = zip(*_side_by_side(_log_marginal, jobs), strict=True)
        by_tensor = [list(each) for each in zip(*grads, strict=True)]
        gradients = [torch.cat(by_tensor.pop(0))[torch.cat(list(shards)).argsort()] for by_row in wanted[:2] if by_row]
        gradients += [torch.stack(each).sum(0) for each in by_tensor]
        ctx.wanted = wanted
        ctx.save_for_backward(*gradients)
        return torch.stack(values).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        saved = iter(ctx.saved_tensors)
        return None, None, None, None, *(grad * next(saved) if wanted else None for wanted in ctx.wanted)


def _log_marginal(
    parts: SharedProcess, names: tuple[str, ...], x: Tensor, y: Tensor, wanted: tuple[bool, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Log marginal of one expert, and its gradient in the wanted ones of x, y and the named tensors."""
    x, y = x.requires_grad_(wanted[0]), y.requires_grad_(wanted[1])
    tensors = [x, y, *(attrgetter(name)(parts) for name in names)]
    by = [tensor for tensor, wants in zip(tensors, wanted, strict=True) if wants]
    with torch.set_grad_enabled(bool(by)):
        value = gp_log_marginal(parts.mean, parts.kernel, parts.likelihood, x, y)
        grads = torch.autograd.grad(value, by, allow_unused=True, materialize_grads=True) if by else ()
    return value.detach(), grads


def _condition_without_gradient(parts: SharedProcess, x: Tensor, y: Tensor) -> ShardExpert:
    with torch.no_grad():
        return ShardExpert(x, _condition(parts, x, y))


def _condition(parts: SharedProcess, x: Tensor, y: Tensor) -> ConditionedProcess:
    return condition(parts.mean, parts.kernel, parts.likelihood, x, y)


def _side_by_side(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
    """One result per job, in order; warnings of the workers are raised again here."""
    with single_thread():  # Threads that joblib starts inherit the number.
        found = joblib.Parallel()(joblib.delayed(_with_warnings)(_here(), function, job) for job in jobs)
    messages = [message for _, caught in found for message in caught]
    if messages:
        warn(f"{len(messages)} experts: {messages[0]}", NumericalWarning)
    return [result for result, _ in found]


def _with_warnings(
    caller: tuple[str, int], function: Callable[..., Any], job: tuple[Any, ...]
) -> tuple[Any, list[str]]:
    """Result of a job, and the messages of warnings that would be lost in another process."""
    with single_thread():
        if _here() == caller:
            return function(*job), []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", NumericalWarning)
            result = function(*job)
    return result, [str(each.message) for each in caught if issubclass(each.category, NumericalWarning)]


def _here() -> tuple[str, int]:
    return platform.node(), os.getpid()
