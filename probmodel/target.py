"""Model + data → `Target`: one density on R^D, vectorised over draws by `vmap` over the traced graph."""

import warnings
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from typing import Any

import pyro
import torch
from jaxtyping import Float, Int
from pyro import poutine
from torch import Tensor
from torch.func import vmap

from probmodel.form import check_form
from probmodel.graphs import Parts, draws_numbers, parts
from probmodel.memory import budget, refuse_above_memory
from probmodel.ownership import parameters, placed
from probmodel.placing import traced_run
from probmodel.protocols import Checked, Dataset, Learner, Model, Posterior, Subject, Target
from probmodel.sites import (
    Latent,
    Sites,
    enumerated,
    log_joint,
    log_likelihood_by_row,
    log_prior,
    log_prior_by_row,
    row_scaled,
    sites,
)
from probmodel.tracing import (
    Program,
    TracingWarning,
    bytes_of_result,
    bytes_per_call,
    isolated,
    recording,
    trace,
)

DRAWN_AT_ONCE = 2**29
"""Bytes at once on an accelerator, of the random numbers where they can be taken apart, else of the call: fixed, since the
numbers depend on where draws are split."""
CLAIMED_AT_ONCE = 2**26
"""Bytes of one vectorised call on a CPU, where the budget allows more: claiming gigabytes takes longer than computing in them."""
LARGE_CALL = 2**22
"""Bytes from which one call keeps a CPU busy: batched draws then only move memory (a network with sampled weights)."""


def target(model: Model, data: Dataset) -> Target:
    """The joint density of a model's latents with its data, on unconstrained coordinates theta in R^D.

    log p(theta) = log p(data, T(theta)) + log |det T'(theta)|, T the map from R^D to the support of the latents.

    Args:
        model: any Pyro model whose latents are continuous or can be summed out.
        data: how to call it.

    Returns:
        Target; its functions take draws of shape (S, D), return nats, and split into chunks that fit the memory.

    Raises:
        ValueError: naming the site, where a discrete latent cannot be summed out or the model subsamples itself; naming
            the tensor, where the data are not finite.
    """
    check(model, data)
    with isolated(seed=0):
        found = sites(model, data)
    layout = _Layout(found.latents)
    dtype, device = _kind(found, data)
    start = layout.join({latent.name: latent.value[None] for latent in found.latents}, dtype, device)[0]

    def run(theta: Tensor) -> poutine.Trace:
        values = {name: value[0] for name, value in layout.split(theta[None]).items()}
        conditioned = poutine.condition(row_scaled(model, found, data), values)
        return traced_run(enumerated(conditioned, found), data)

    def prior_by_row(theta: Tensor) -> Tensor:
        if not found.row_local:
            raise ValueError("expected a model whose every latent is local to a row, got latents that rows share")
        return log_prior_by_row(run(theta), found) + layout.log_jacobian(theta, by_row=True)

    def joint_by_row(theta: Tensor) -> Tensor:
        return prior_by_row(theta) + log_likelihood_by_row(run(theta), found)

    def draw(_: Tensor) -> Tensor:
        ran = traced_run(model, data)
        values: dict[str, Any] = {latent.name: ran.nodes[latent.name]["value"] for latent in found.latents}
        return layout.join({name: value[None] for name, value in values.items()}, dtype, device)[0]

    prior_draw = Density(draw, start.new_zeros(()))

    def sample_prior(num_samples: int, seed: int) -> Float[Tensor, "S D"]:
        with isolated(seed), torch.no_grad(), pyro.validation_enabled(False), warnings.catch_warnings():
            # A sampler that rejects cannot be traced; its draws come one by one, which is slow and no reason to warn.
            warnings.simplefilter("ignore", TracingWarning)
            nothing = start.new_zeros(num_samples)
            try:
                return prior_draw(nothing)
            except RuntimeError:
                return torch.stack([draw(each) for each in nothing])

    joint = Density(lambda theta: log_joint(run(theta), found) + layout.log_jacobian(theta).sum(), start)

    def density(function: Callable[[Tensor], Tensor]) -> Density:
        return Density(function, start, like=joint)

    prior = density(lambda theta: log_prior(run(theta), found) + layout.log_jacobian(theta).sum())
    return Target(
        dim=layout.dim,
        log_prior=prior,
        log_likelihood=lambda theta: joint(theta) - prior(theta),
        log_joint=joint,
        log_likelihood_by_row=density(lambda theta: log_likelihood_by_row(run(theta), found)),
        log_prior_by_row=density(prior_by_row),
        log_joint_by_row=density(joint_by_row),
        log_joint_at=joint.at,
        log_jacobian=density(lambda theta: layout.log_jacobian(theta).sum()),
        sample_prior=sample_prior,
        constrain=layout.split,
        unconstrain=lambda values: layout.join(values, dtype, device),
        by_row=layout.by_row(found.num_rows) if found.row_local and found.num_rows else None,
        bytes_per_draw=bytes_per_call(joint.program),
        digest=found.digest,
        dtype=dtype,
        device=device,
        fallback=joint.program.reason,
        given=_given(model, joint.program),
        improper=found.improper,
        factors=found.factors,
    )


def target_of(subject: Subject) -> Target:
    """The target itself, or that of a posterior's model and data; kept for a few posteriors, since tracing costs seconds."""
    return _target_of_posterior(subject) if isinstance(subject, Posterior) else subject


@lru_cache(maxsize=8)
def _target_of_posterior(posterior: Posterior) -> Target:
    return target(posterior.model, posterior.data)


def check(model: Model, data: Dataset) -> None:
    """Raise for data no model can use: no rows, or numbers that are not finite; then ask the model itself.

    Raises:
        TypeError: for anything but a Dataset of tensors.
        ValueError: for everything else.
    """
    check_form(data)
    for position, tensor in enumerate(data.tensors()):
        if tensor.numel() == 0:
            raise ValueError(
                f"expected at least one row, got tensor {position} of shape {tuple(tensor.shape)}; add data"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise ValueError(
                f"expected finite numbers, got {bad} NaN or infinite ones in tensor {position} of shape "
                f"{tuple(tensor.shape)}; drop or impute those rows"
            )
    if data.size is not None and not data.tensors():
        raise ValueError(f"expected tensors with {data.size} rows, got none; give the data as PyTorch tensors")
    if data.size is not None and data.tensors()[0].dim() == 0:
        raise ValueError(
            f"expected rows in the first tensor, got one number with size={data.size}; pass it by name, after the rows"
        )
    rows = data.num_rows
    if rows is not None and data.size is not None and rows > data.size:
        raise ValueError(
            f"size needs to be the rows of the full data set, got {data.size} for {rows} rows; pass size={rows}"
        )
    if isinstance(model, Checked):
        model.check(data)


def check_training(model: Model, data: Dataset) -> None:
    """As `check`, and raise ValueError for data from which the model says that nothing can be learnt."""
    check_form(data)
    if isinstance(model, Checked | Learner):
        model = placed(model, data)
    check(model, data)
    if isinstance(model, Learner):
        model.check_training(data)


class Density:
    """A function of theta traced on first use, evaluated on many draws at once.

    Args:
        function: theta → tensor.
        start: a theta to trace at.
        like: a density of the same model; where that one runs eagerly, this one does without a second warning.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], start: Tensor, like: "Density | None" = None) -> None:
        self.function, self.start, self.like = function, start, like

    @cached_property
    def program(self) -> Program:
        if self.like is not None and self.like.program.run is None:
            return self.like.program
        return trace(self.function, self.start)

    @cached_property
    def _random(self) -> bool:
        return draws_numbers(self.program.run)

    @cached_property
    def _parts(self) -> Parts | None:
        return parts(self.program.run, len(self.program.leaves))

    def at(self, theta: Float[Tensor, "*D"]) -> Tensor:
        """At one point; differentiable."""
        if self.program.run is None:
            return self.function(theta)
        return self.program.run(*self.program.detached, theta)

    def __call__(self, theta: Float[Tensor, "S *D"]) -> Tensor:
        if self.program.run is None:
            # The model could not be traced, and Pyro's handlers run one draw at a time.
            return torch.stack([self.function(draw) for draw in theta])
        each = max(1, bytes_per_call(self.program))
        if loops(each, theta.device):
            return torch.stack([self.at(draw) for draw in theta])
        result = len(theta) * bytes_of_result(self.program)
        shape = f"a result for {len(theta):,} draws at once"
        refuse_above_memory(
            result, theta.device, shape, "ask for fewer draws (num_draws), thin them, or state more by memory_budget"
        )
        chunk = max(1, _allowed(theta.device) // each)
        if not self._random:
            return vmap(self.at, randomness="different", chunk_size=chunk)(theta)
        return torch.cat([self._drawn(block, chunk) for block in theta.split(self._block(each, theta.device))])

    def _block(self, each: int, device: torch.device) -> int:
        """Draws whose random numbers are drawn at once, of any budget: seeded numbers depend on it."""
        if device.type == "cpu":
            return max(1, CLAIMED_AT_ONCE // each)
        return max(1, DRAWN_AT_ONCE // (each if self._parts is None else max(1, self._parts.num_bytes)))

    def _drawn(self, theta: Float[Tensor, "S *D"], chunk: int) -> Tensor:
        """One block; where the budget is for fewer draws, what is made of its random numbers comes in chunks."""
        if len(theta) <= chunk or self._parts is None:
            return vmap(self.at, randomness="different")(theta)
        leaves, (draw, rest, _) = self.program.detached, self._parts
        noise = vmap(lambda each: draw(*leaves, each), randomness="different")(theta)
        return vmap(lambda *each: rest(*leaves, *each), chunk_size=chunk)(theta, *noise)


def _allowed(device: torch.device) -> int:
    """Bytes of one vectorised call; inside a graph more calls would mean a larger graph, so one takes all of the budget."""
    whole = device.type != "cpu" or recording()
    return budget(device) if whole else min(budget(device), CLAIMED_AT_ONCE)


def loops(memory: int, device: torch.device) -> bool:
    """Whether draws are better evaluated one by one than in a batch."""
    return memory > LARGE_CALL and device.type == "cpu"


def _given(model: Model, program: Program) -> tuple[str, ...]:
    """Names of the point estimates that the log joint reads; all of the model's where no graph can tell."""
    named = parameters(model)
    read = {id(leaf) for leaf in program.leaves}
    return tuple(name for name, value in named.items() if program.run is None or id(value) in read)


class _Layout:
    """Which coordinates of theta belong to which latent."""

    def __init__(self, latents: tuple[Latent, ...]) -> None:
        self.latents = latents
        self.sizes = [latent.unconstrained_shape.numel() for latent in latents]
        self.dim = sum(self.sizes)

    def split(self, theta: Float[Tensor, "S D"]) -> dict[str, Tensor]:
        """Constrained values by site, each (S, *shape)."""
        return {latent.name: latent.transform(u) for latent, u in self._unconstrained(theta)}

    def join(self, values: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device) -> Float[Tensor, "S D"]:
        """Unconstrained coordinates of constrained values (S, *shape) by site."""
        missing = [latent.name for latent in self.latents if latent.name not in values]
        if missing:
            raise ValueError(f"expected values for every latent, got none for {missing}; sites: {list(values)}")
        parts = [latent.transform.inv(values[latent.name].to(device)) for latent in self.latents]
        if not parts:
            return torch.zeros(1, 0, dtype=dtype, device=device)
        return torch.cat([part.reshape(len(part), -1) for part in parts], -1).to(dtype)

    def log_jacobian(self, theta: Float[Tensor, " D"], *, by_row: bool = False) -> Tensor:
        """Log |det T'(theta)|, summed, or by row (N,)."""
        total = theta.new_zeros(())
        for latent, u in self._unconstrained(theta[None]):
            value = latent.transform(u)
            part = latent.transform.log_abs_det_jacobian(u, value)[0]
            if by_row:
                part = part.movedim(len(latent.shape) + (latent.row_dim or 0), 0)
                part = part.reshape(len(part), -1).sum(-1)
            total = total + (part if by_row else part.sum())
        return total

    def by_row(self, rows: int) -> Int[Tensor, "N d"]:
        """Coordinates of each row."""
        parts = []
        for latent, index in self._unconstrained(torch.arange(self.dim)[None]):
            parts.append(index[0].movedim(len(latent.shape) + (latent.row_dim or 0), 0).reshape(rows, -1))
        return torch.cat(parts, -1)

    def _unconstrained(self, theta: Tensor) -> list[tuple[Latent, Tensor]]:
        pieces = theta.split(self.sizes, -1)
        return [
            (latent, piece.reshape(len(theta), *latent.unconstrained_shape))
            for latent, piece in zip(self.latents, pieces, strict=True)
        ]


def _kind(found: Sites, data: Dataset) -> tuple[torch.dtype, torch.device]:
    """Dtype and device of the latents, else of the first floating-point tensor of the data."""
    candidates = [latent.value for latent in found.latents] + [t for t in data.tensors() if t.is_floating_point()]
    first = candidates[0] if candidates else torch.zeros(())
    return first.dtype, first.device
