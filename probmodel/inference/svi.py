"""Stochastic variational inference with traced, compiled steps (Hoffman et al., 2013; Kingma & Welling, 2014)."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pyro
import torch
from pyro.infer import ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.optim import Adam, Optimizer

from probmodel.inference.descent.descent import WINDOW, Descent, descent, reason_against_loop
from probmodel.inference.descent.minibatches import Batches, minibatches
from probmodel.inference.descent.optimizers import optimizer_of
from probmodel.inference.descent.starting_points import start_at_data
from probmodel.inference.descent.trend import SPAN, loss_trend, recent_trend
from probmodel.inference.guides.automatic import guided_part
from probmodel.inference.guides.draws import DrawsOnRequest, guide_draws
from probmodel.inference.interrupts import Reached, until_interrupted, warn_interrupted
from probmodel.inference.objectives.elbo import elbo
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.dataset_checks import check_rows_can_be_taken
from probmodel.protocols.errors import ConvergenceWarning, NonFiniteError, SettingsWarning, warn
from probmodel.protocols.integers import check_counts, checked_seed, integer
from probmodel.protocols.methods import Objective
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Posterior
from probmodel.protocols.session.progress import progress_bar
from probmodel.tracing.checks import check_training
from probmodel.tracing.checks.modules import end_training, training_mode
from probmodel.tracing.guided_runs import first_bad_site
from probmodel.tracing.latents.supports import refuse_moving
from probmodel.tracing.ownership import owned_copies, reached_modules
from probmodel.tracing.programs.compiling import CompilationPlan, plan
from probmodel.tracing.programs.gradients import Gradient
from probmodel.tracing.randomness import isolated, preserving_random_state, spawn
from probmodel.tracing.sites import sites

TRIAL_STEPS = 20
"""Number of uncompiled steps whose time decides whether to compile."""

ADAM = partial(Adam, lr=3e-3, fused=True)
"""Adam (Kingma & Ba, 2015) at three times its customary rate: steps are few and losses are sums over rows."""


@checks_fields
@dataclass(frozen=True)
class SVI:
    """Minimize an objective over the parameters of a model and its guide.

    A schedule of the learning rate is stepped by a hook on its optimizer; the fit then runs one step per call:

    >>> def halving(parameters):
    ...     optimizer = torch.optim.Adam(parameters, lr=0.1)
    ...     scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=500, gamma=0.5)
    ...     optimizer.register_step_post_hook(lambda *_: scheduler.step())
    ...     return optimizer
    >>> settings = SVI(optimizer=halving)

    Args:
        num_steps: number of gradient steps, at most.
        batch_size: number of rows per step, drawn without replacement within an epoch; None takes all rows, and so
            does, with a warning, a number above that of the rows.
        guide: guide to fit; None uses the one that the model brings, else `autoguide(model)`.
        autoguide: model → guide, for a model without one; Pyro's mean-field normal by default.
        objective: (model, guide, data) → loss in nats.
        optimizer: parameters → torch optimizer of all of them; Adam with learning rate 0.003 by default.
        patience: number of consecutive evaluations, one per 100 steps, without a significant decrease of the loss after
            which the fit stops; None never stops early.
        num_samples: number of draws of the guide, which are made when one is first asked for; those of latents of single
            rows take one pass over all rows each.
        compile: whether to compile the steps; None compiles where the time of a few steps shows that it pays.
        progress: whether to show a progress bar.

    Reference:
        Hoffman, Blei, Wang & Paisley (2013), "Stochastic variational inference".
    """

    num_steps: int = 2_000
    batch_size: int | None = None
    guide: Model | None = None
    autoguide: Callable[[Model], Model] = AutoNormal
    objective: Objective = elbo
    optimizer: Callable[[list[Tensor]], Optimizer] = ADAM
    patience: int | None = 5
    num_samples: int = 1_000
    compile: bool | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_counts(self, "num_steps", "num_samples", optional=("batch_size", "patience"))

    @checks_arguments
    def __call__(self, model: Model, data: Dataset, *, seed: int) -> Posterior:
        """Fit copies of model and guide; the ones passed in are left unchanged.

        Returns:
            Posterior with draws of the guide; `info["losses"]` has one loss per step, in nats over the whole data set,
            `info["plateau"]` states whether the loss had stopped falling at the end (`recent_trend`), and
            `info["interrupted"]` whether a KeyboardInterrupt (Ctrl-C) ended it: the fit is then that of the steps done, with
            an `InterruptedWarning`.

        Raises:
            ValueError: for unsuitable data, or settings out of range.
            TypeError: for an objective or an autoguide that cannot be called.
            NonFiniteError: where the loss or a gradient is not finite, with the first site that is the cause.
            KeyboardInterrupt: where it comes before the first step is done.
        """
        check_training(model, data)
        seed, settings = checked_seed(seed), _checked(self, data)
        begin = time.perf_counter()
        with isolated(seed), pyro.validation_enabled(True):
            fitted, guide, leaves = owned_copies(model, settings.guide, partial(_automatic, settings, data), data)
            start_at_data(fitted, leaves, data)
        with isolated(spawn(seed, 1)):
            with training_mode():
                outcome = _descend(settings, fitted, guide, leaves, data)
            end_training(fitted, guide)
            if outcome.interrupted:
                warn_interrupted("SVI", len(outcome.losses), settings.num_steps, "steps")
            elif not outcome.plateau and settings.patience is not None and settings.num_steps >= WINDOW:
                warn(
                    f"SVI: the loss was still falling after {settings.num_steps:,} steps: it "
                    f"{recent_trend(outcome.losses, data.size)}; raise num_steps",
                    ConvergenceWarning,
                )
            with preserving_random_state():
                latents = sites(fitted, data).latents
        make = partial(
            guide_draws, guide, data, latents, settings.num_samples, spawn(seed, 2), progress=settings.progress
        )
        held = [each for network in reached_modules(guide) for each in (*network.parameters(), *network.buffers())]
        draws = DrawsOnRequest(latents, settings.num_samples, make, [*data.tensors(), *held])
        info = {"method": "SVI", "seed": seed, **outcome._asdict(), "seconds": time.perf_counter() - begin}
        info["num_parameters"] = sum(leaf.numel() for leaf in leaves.values())
        return Posterior(fitted, data, draws, info, guide)


class Outcome(NamedTuple):
    """Result of a descent; `losses` are in nats over the whole data set, one per step."""

    losses: list[float]
    plateau: bool
    compiled: bool
    fallback: str | None
    execution: str
    """Mode in which the steps were executed, and the reason."""
    interrupted: bool = False
    """True where a KeyboardInterrupt ended the steps."""


def _descend(settings: SVI, model: Model, guide: Model, leaves: dict[str, Tensor], data: Dataset) -> Outcome:
    batches, order = Batches(data.tensors(), data.num_rows), minibatches(data, settings.batch_size)

    def loss(*tensors: Tensor) -> Tensor:
        return settings.objective(model, guide, _with_tensors(data, tensors))

    if not leaves:
        with torch.no_grad():
            return Outcome([float(loss(*data.tensors()))], True, False, None, "no parameters to fit")
    optimizer = optimizer_of(settings.optimizer, leaves)
    gradient = Gradient(loss, list(leaves.values()), *batches.at(order.first))
    mode = descent(gradient, batches, order, optimizer)
    losses: list[float] = []
    quiet, seconds, tried = 0, 0.0, False
    chosen, reached = _initial_plan(settings, gradient), Reached(leaves.values())
    bar = progress_bar("SVI", settings.num_steps, shown=settings.progress)
    with bar, until_interrupted(reached):
        while len(losses) < settings.num_steps:
            timed = len(losses) == TRIAL_STEPS or (losses and len(losses) % WINDOW == 0)
            if timed and settings.compile is None and gradient.graph is not None and not tried:
                later = plan(
                    seconds / len(losses) * (settings.num_steps - len(losses)) * mode.saved_fraction, mode.on_disk
                )
                chosen = later if later.compile or len(losses) == TRIAL_STEPS else chosen
            if chosen.compile and not tried:
                tried = True
                bar.set_postfix_str("compiling")
                mode.compile()
                bar.set_postfix_str("")
            begin = time.perf_counter()
            found = mode.advance(min(_goal(mode, len(losses), seconds), settings.num_steps - len(losses)))
            seconds += time.perf_counter() - begin
            losses += found.losses
            reached.keep(len(losses))
            bar.update(len(found.losses))
            if found.bad:
                batch = data if found.rows is None else data.rows(found.rows)
                raise NonFiniteError(_report(len(losses), model, guide, batch, leaves))
            if len(losses) % WINDOW == 0:
                bar.set_postfix_str(f"loss {np.mean(losses[-WINDOW:]):.1f} nats")
                quiet = 0 if descends(losses) else quiet + 1
                if settings.patience is not None and quiet >= settings.patience:
                    break
        bar.total = bar.n  # An early stop leaves a full bar, not an unfinished one.
        bar.refresh()
    del losses[reached.num_steps :]
    for leaf in leaves.values():
        leaf.grad = None
    reason = "refused by the compiler" if chosen.compile and not mode.compiled else chosen.reason
    by_step = mode.mode == "step" and gradient.graph is not None
    why = f" ({reason_against_loop(gradient, optimizer)})" if by_step else ""
    execution = f"{_EXECUTIONS[mode.mode, mode.compiled]}{why}: {reason}"
    level = len(losses) >= WINDOW and not recent_trend(losses, data.size).falls
    return Outcome(losses, level, mode.compiled, gradient.program.reason, execution, reached.interrupted)


def _goal(mode: Descent, done: int, seconds: float) -> int:
    """Number of steps of the next call: to the end of the trial or the window, and where steps are single, of a second."""
    trial = done < TRIAL_STEPS and not mode.compiled
    goal = TRIAL_STEPS - done if trial else WINDOW - done % WINDOW
    # An interrupt loses the steps of one call.
    return goal if mode.mode == "loop" else min(goal, max(1, int(done / max(seconds, 1e-9))))


_EXECUTIONS = {
    ("loop", True): f"compiled loop of {WINDOW} steps per call",
    ("loop", False): "traced graph, uncompiled",
    ("step", True): "compiled, step by step",
    ("step", False): "uncompiled, step by step",
}


def _initial_plan(settings: SVI, gradient: Gradient) -> CompilationPlan:
    """Compilation plan before any step is timed."""
    if gradient.graph is None:
        return CompilationPlan(False, gradient.program.reason or "the loss reads no parameters")
    if settings.compile is None:
        return CompilationPlan(False, "too few steps to time")
    return CompilationPlan(settings.compile, "as requested")


def descends(losses: list[float]) -> bool:
    """Return whether a line fitted to the last 500 losses falls by more than two standard errors; True for fewer than 100.

    >>> descends([1000.0 - step for step in range(1000)]), descends([3.0, 5.0] * 500)
    (True, False)
    """
    return len(losses) < WINDOW or loss_trend(losses[-SPAN:]).exceeds(0.0)


def _automatic(settings: SVI, data: Dataset, model: Model) -> Model:
    """Automatic guide of the continuous latents; the model sums discrete ones out."""
    with preserving_random_state():
        found = sites(model, data)
        refuse_moving(model, data, found, "an automatic guide")
    if found.sequential:
        raise ValueError(
            f"expected plates that are contexts for an automatic guide, got loops over plates {sorted(found.sequential)}; "
            "loop over range(n), pass guide=, or use NUTS"
        )
    by_row = [latent.name for latent in found.latents if latent.row_dim is not None]
    if by_row and settings.batch_size is not None and settings.batch_size < (data.num_rows or 0):
        raise ValueError(
            f"expected latents that all rows share, got {by_row} with one value per row, which an automatic guide cannot "
            "hold for minibatches; leave out batch_size, or write a guide that computes them from the row"
        )
    return settings.autoguide(guided_part(model, found))


def _with_tensors(batch: Dataset, tensors: tuple[Tensor, ...]) -> Dataset:
    values = iter(tensors)
    return batch.map(lambda _: next(values))


def _report(number: int, model: Model, guide: Model, batch: Dataset, leaves: dict[str, Tensor]) -> str:
    site = first_bad_site(model, guide, batch, leaves)
    return (
        f"expected a finite loss and gradient, got NaN or infinity at step {number}, first at {site}; lower the learning "
        "rate, scale the data, or keep the site's parameters inside their support"
    )


def _checked(settings: SVI, data: Dataset) -> SVI:
    """Checked settings, with counts as Python integers."""
    if isinstance(settings.objective, ELBO) or not callable(settings.objective):
        raise TypeError(
            f"expected objective(model, guide, data) in nats, got {settings.objective!r}; pass pb.objectives.elbo or iwae(10)"
        )
    made = settings.guide if settings.guide is not None else settings.autoguide
    if hasattr(made, "laplace_approximation"):
        raise TypeError(
            f"expected a guide that the fit completes, got {made!r}, which is a point estimate until a further step; use "
            "pb.Laplace()"
        )
    if not callable(settings.autoguide):
        raise TypeError(
            f"expected autoguide(model), got {settings.autoguide!r}; pass a class such as pyro.infer.autoguide.AutoNormal"
        )
    return replace(
        settings,
        num_steps=integer("num_steps", settings.num_steps),
        num_samples=integer("num_samples", settings.num_samples),
        patience=None if settings.patience is None else integer("patience", settings.patience),
        batch_size=None
        if settings.batch_size is None
        else _batch_size(integer("batch_size", settings.batch_size), data),
    )


def _batch_size(size: int, data: Dataset) -> int:
    rows = data.num_rows
    if rows is None:
        lengths = [len(tensor) for tensor in data.tensors() if tensor.dim()]
        example = lengths[0] if lengths else "number of rows"
        raise ValueError(
            f"expected data with rows for batch_size, got size=None; pass Dataset(args, kwargs, size={example})"
        )
    if size > rows:
        warn(
            f"SVI: expected batch_size up to the {rows} rows, got {size}, so that every step takes all; pass None instead",
            SettingsWarning,
        )
    if size < rows:
        check_rows_can_be_taken(data)
    return size
