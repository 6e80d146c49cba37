"""Natural gradients for q(u) of sparse Gaussian processes, Adam for the rest (Salimbeni et al., 2018)."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyro
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.optim import Adam, Optimizer

from probmodel.families.gaussian_processes.natural_gradients import natural_update
from probmodel.families.gaussian_processes.sparse import kl_to_standard
from probmodel.inference.descent.minibatches import minibatches
from probmodel.inference.descent.optimizers import optimizer_of
from probmodel.inference.interrupts import Reached, until_interrupted, warn_interrupted
from probmodel.inference.objectives.expected_log_likelihood import expected_log_likelihood
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.dataset_checks import check_rows_can_be_taken
from probmodel.protocols.errors import NonFiniteError, NotNormalError
from probmodel.protocols.integers import check_counts, checked_seed, integer
from probmodel.protocols.layers import Decision
from probmodel.protocols.posterior import Posterior
from probmodel.protocols.session.progress import progress_bar
from probmodel.protocols.structural import Structural
from probmodel.tracing.checks import check_training
from probmodel.tracing.ownership import owned_copies
from probmodel.tracing.randomness import isolated, spawn

ADAM = partial(Adam, lr=0.01)
"""Adam with the learning rate that Salimbeni, Eleftheriadis & Hensman (2018), sec. 5, use along with natural steps."""
WARM_STEPS = 20
"""Number of natural steps over which the rate rises: far from the optimum a full step may leave the normals."""
ROWS_AT_A_TIME = 1_000
"""Number of rows whose features are computed together for the draws: images of all rows would not fit into memory."""
MAX_HALVINGS = 10
"""Largest number of times that the rate of one step is halved."""


class SampledHyperparameter(Protocol):
    """A hyperparameter of a kernel or likelihood that has a prior, so that it is a latent."""

    site: str


@runtime_checkable
class NormalInducing(Protocol, metaclass=Structural):
    """A representation by whitened inducing values u with a normal q(u)."""

    q_loc: Tensor
    q_raw_scale: Tensor
    hyperparameters: tuple[SampledHyperparameter, ...]

    def code_marginals(self, h: Any, q_loc: Tensor, q_scale_tril: Tensor) -> Any: ...

    def replace_q(self, loc: Tensor, scale_tril: Tensor) -> None: ...

    def check_codes(self, h: Any) -> None: ...

    def sample_inducing_values(self, num_samples: int) -> Tensor: ...

    def sample_codes(self, h: Any, u: Tensor) -> Tensor: ...


@runtime_checkable
class WithInducingValues(Protocol, metaclass=Structural):
    """A pipeline that ends in a representation by inducing values and a decision."""

    features: Callable[[Tensor], Tensor]
    representation: NormalInducing
    decision: Decision


@checks_fields
@dataclass(frozen=True)
class NaturalGradients:
    """Fit `Pipeline(features, SparseGP, decision)` by natural steps for q(u) and an optimizer for all other parameters.

    The bound is the one of `SVI`, with its expectations taken per row: the normal marginals of the latent function
    values are integrated by quadrature where a row has one value, and sampled where it has several, in place of one
    draw of u for all rows.  The noise of its gradient is far lower, and q(u) follows the kernel within a few steps
    instead of hundreds.

    Args:
        num_steps: number of steps; each updates q(u) and all other parameters by one gradient.
        batch_size: number of rows per step, drawn without replacement within an epoch; None takes all rows.
        rate: size of the natural steps, in (0, 1]; it rises to this value over the first twenty.
        optimizer: parameters other than those of q(u) → torch optimizer; Adam with learning rate 0.01 by default.
        num_particles: number of draws of a row's latent function values, where it has several.
        num_samples: number of draws to keep of q(u), and of every row's latent function values given them.
        progress: whether to show a progress bar.

    Reference:
        Salimbeni, Eleftheriadis & Hensman (2018), "Natural gradients in practice: non-conjugate variational inference in
        Gaussian process models", AISTATS; Hensman, Fusi & Lawrence (2013), "Gaussian processes for big data", UAI.
    """

    num_steps: int = 1_000
    batch_size: int | None = 256
    rate: float = 0.1
    optimizer: Callable[[list[Tensor]], Optimizer] = ADAM
    num_particles: int = 16
    num_samples: int = 200
    progress: bool = True

    def __post_init__(self) -> None:
        check_counts(self, "num_steps", "num_particles", "num_samples", optional=("batch_size",))

    @checks_arguments
    def __call__(self, model: Any, data: Dataset, *, seed: int) -> Posterior:
        """Fit a copy of the pipeline.

        Returns:
            Posterior with draws of u and of the rows' latent function values z; `info["losses"]` has the negative bound
            per step, in nats over the whole data set.  A KeyboardInterrupt (Ctrl-C) ends the steps, and
            `info["interrupted"]` and an `InterruptedWarning` say so.

        Raises:
            ValueError: for a model that is not a pipeline with a `SparseGP`, hyperparameters that are latents, a rate
                outside (0, 1], or a natural step that leaves the normal distributions.
            NonFiniteError: where the bound or a gradient is not finite.
        """
        _check(model, self.rate)
        integer("num_particles", self.num_particles)
        check_training(model, data)
        seed, begin = checked_seed(seed), time.perf_counter()
        if self.batch_size is not None:
            check_rows_can_be_taken(data)
        with isolated(seed), pyro.validation_enabled(False):
            fitted, guide, leaves = owned_copies(model, None, AutoNormal, data)
        with isolated(spawn(seed, 1)), pyro.validation_enabled(False):
            _check_features(fitted, data)
            losses, interrupted = _descend(self, fitted, leaves, data)
            if interrupted:
                warn_interrupted("NaturalGradients", len(losses), self.num_steps, "steps")
        with isolated(spawn(seed, 2)), torch.no_grad():
            draws = _draws(fitted, data, integer("num_samples", self.num_samples))
        info = {
            "method": "NaturalGradients",
            "seed": seed,
            "losses": losses,
            "interrupted": interrupted,
            "num_parameters": sum(leaf.numel() for leaf in leaves.values()),
            "seconds": time.perf_counter() - begin,
        }
        return Posterior(fitted, data, draws, info, guide)


def _check(model: Any, rate: float) -> None:
    if not isinstance(model, WithInducingValues) or not isinstance(model.representation, NormalInducing):
        raise ValueError(
            f"expected a Pipeline with a SparseGP, got {type(model).__name__}; fit other models by SVI or MaximumLikelihood"
        )
    latents = [each.site for each in model.representation.hyperparameters]
    if latents:
        raise ValueError(f"expected hyperparameters that are point estimates, got latents {latents}; fit them by SVI")
    if not 0.0 < rate <= 1.0:
        raise ValueError(f"expected a rate above 0 and up to 1, got {rate}; pass 0.1, which is usual for minibatches")


def _check_features(model: Any, data: Dataset) -> None:
    """Check the features of some rows against the inducing inputs, before the first step."""
    x = data.named("x", "y")["x"]
    with torch.no_grad():
        model.representation.check_codes(model.features(x[:: max(1, len(x) // ROWS_AT_A_TIME)]))


class _LossAndGradients(NamedTuple):
    """Loss in nats over all rows, and its gradients by the mean and scale of q(u) and by the other parameters."""

    loss: float
    loc: Tensor
    scale: Tensor
    others: list[Tensor]


def _descend(
    settings: NaturalGradients, model: Any, leaves: dict[str, Tensor], data: Dataset
) -> tuple[list[float], bool]:
    """Losses, and whether an interrupt ended the steps."""
    num_steps = integer("num_steps", settings.num_steps)
    size = None if settings.batch_size is None else integer("batch_size", settings.batch_size)
    own_q = {id(model.representation.q_loc), id(model.representation.q_raw_scale)}
    others = {name: leaf for name, leaf in leaves.items() if id(leaf) not in own_q}
    optimizer, order = optimizer_of(settings.optimizer, others) if others else None, minibatches(data, size)
    losses: list[float] = []
    loc, scale = (each.detach() for each in model.representation.q)
    reached = Reached(others.values())
    bar = progress_bar("NaturalGradients", num_steps, shown=settings.progress)
    with bar, until_interrupted(reached):
        for step in range(num_steps):
            rows = next(order)
            batch = data if rows is None else data.rows(rows)
            found = _gradients(settings, model, batch, loc, scale, list(others.values()))
            grads = (found.loc, found.scale, *found.others)
            if not np.isfinite(found.loss) or not all(bool(each.isfinite().all()) for each in grads):
                raise NonFiniteError(
                    f"expected a finite bound and gradient, got NaN or infinity at step {step}; lower the learning rate, or "
                    "scale the data"
                )
            loc, scale = _stepped(loc, scale, found, settings.rate * min(1.0, (step + 1) / WARM_STEPS))
            if optimizer is not None:
                _step(optimizer, others.values(), found.others)
            losses.append(found.loss)
            reached.keep(step + 1, (loc, scale))
            bar.update()
    if num_steps:
        model.representation.replace_q(*reached.other)
    return losses[: reached.num_steps], reached.interrupted


def _step(optimizer: Optimizer, leaves: Iterable[Tensor], grads: Sequence[Tensor]) -> None:
    for leaf, grad in zip(leaves, grads, strict=True):
        leaf.grad = grad
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _stepped(loc: Tensor, scale: Tensor, found: _LossAndGradients, rate: float) -> tuple[Tensor, Tensor]:
    """Mean and scale of q(u) after a natural step, whose rate is halved where the whole step would leave the normals.

    It may do so where the noise depends on the latent function values.
    """
    for _ in range(MAX_HALVINGS):
        try:
            return natural_update(loc, scale, -found.loc, -found.scale, rate=rate)
        except NotNormalError:
            rate /= 2
    return natural_update(loc, scale, -found.loc, -found.scale, rate=rate)


def _gradients(
    settings: NaturalGradients, model: Any, batch: Dataset, loc: Tensor, scale: Tensor, others: list[Tensor]
) -> _LossAndGradients:
    """Loss in nats over all rows, and its gradients."""
    loc, scale = loc.detach().requires_grad_(), scale.detach().requires_grad_()
    values = batch.named("x", "y")
    h = model.features(values["x"])
    at = model.representation.code_marginals(h, loc, scale)
    rows = expected_log_likelihood(
        model.decision, at.loc, at.variance, values["y"], num_particles=settings.num_particles
    )
    loss = kl_to_standard(loc, scale) - rows.sum() * ((batch.size or len(rows)) / len(rows))
    grads = torch.autograd.grad(loss, [loc, scale, *others], allow_unused=True, materialize_grads=True)
    return _LossAndGradients(float(loss.detach()), grads[0], grads[1], list(grads[2:]))


def _draws(model: Any, data: Dataset, num_samples: int) -> dict[str, Tensor]:
    """Draws (1, num_samples, …) of the guide; the features of each row are computed once."""
    representation = model.representation
    u = representation.sample_inducing_values(num_samples)
    rows = data.named("x", "y")["x"].split(ROWS_AT_A_TIME)
    return {"u": u[None], "z": torch.cat([representation.sample_codes(model.features(x), u) for x in rows], 1)[None]}
