"""Learning of Boltzmann machines by stochastic gradient ascent (Ackley, Hinton & Sejnowski, 1985; Hinton, 2002).

With free energy F and p(v) = exp(−F(v)) / Z, the gradient of the mean log likelihood is E_model ∂F(v) − E_data ∂F(v);
the negative phase, E_model, is estimated at states of Markov chains.  For a deep machine the positive phase, E_data, is
that of a bound, and the negative phase is estimated at hidden states.
"""

import math
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.families.boltzmann_machines.learning.gradient_ascent import GradientAscent
from probmodel.families.boltzmann_machines.learning.gradients import (
    Average,
    Offsets,
    PhaseGradients,
    SuppliesGradients,
    copy_into,
    trainable_couplings,
)
from probmodel.families.boltzmann_machines.learning.monitor import Evaluations, Monitor
from probmodel.families.boltzmann_machines.learning.phases import (
    LearnableDeepMachine,
    LearnableMachine,
    Persistent,
    Phase,
    energies,
)
from probmodel.inference.descent.minibatches import minibatches
from probmodel.inference.interrupts import Reached, until_interrupted, warn_interrupted
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import NonFiniteError
from probmodel.protocols.integers import check_counts, checked_seed, integer
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Posterior
from probmodel.protocols.session.progress import progress_bar
from probmodel.tracing.checks import check_training
from probmodel.tracing.ownership import copied_to_data
from probmodel.tracing.randomness import isolated, spawn


@checks_fields
@dataclass(frozen=True)
class BoltzmannLearning:
    """Fit a Boltzmann machine to rows of visible units by maximum likelihood, the negative phase sampled.

    Where the machine names its `layer_couplings` (all machines of this package do), the gradient is centered: that of
    the machine written in units minus their means over data and model, which makes it independent of which of its two
    values a unit codes as 0.  For a `DeepBoltzmannMachine` it is the gradient of the mean-field bound on its likelihood
    (Salakhutdinov & Hinton, 2009), and chains run over the first hidden layer.

    >>> settings = BoltzmannLearning(Persistent(num_chains=500), GradientAscent(num_steps=20_000, learning_rate=0.05))

    Args:
        phase: how states of the negative phase are drawn: Contrastive (CD-k), Persistent (PCD) or Tempered.
        ascent: number, size and averaging of the steps.
        batch_size: number of rows per step, drawn without replacement within an epoch; None takes all rows.
        monitor: evaluations of the likelihood and the criterion for early stopping; None evaluates nothing.
        precision: dtype of matrix products (`torch.autocast`), such as torch.bfloat16, which some processors multiply
            faster; None uses that of the data.
        progress: whether to show a progress bar.

    Reference:
        Hinton (2012), "A practical guide to training restricted Boltzmann machines"; Cho, Raiko & Ilin (2011), "Enhanced
        gradient and adaptive learning rate"; Montavon & Müller (2012); Melchior, Fischer & Wiskott (2016), "How to center
        deep Boltzmann machines".
    """

    phase: Phase = Persistent()  # noqa: RUF009 - immutable
    ascent: GradientAscent = GradientAscent()  # noqa: RUF009
    batch_size: int | None = 100
    monitor: Monitor | None = Monitor()  # noqa: RUF009
    precision: torch.dtype | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_counts(self, optional=("batch_size",))

    @checks_arguments
    def __call__(self, model: Model, data: Dataset, *, seed: int) -> Posterior:
        """Fit a copy of the machine on the device and in the dtype of the data; the one passed in is left unchanged.

        Returns:
            Posterior without latents.  `info["log_likelihood"]` has the mean log likelihood, in nats per row, at the
            steps `info["evaluations"]`, and `info["diverged"]` states whether training stopped early, in which case the
            parameters are those of the highest evaluation.  A KeyboardInterrupt (Ctrl-C) ends training, and
            `info["interrupted"]` and an `InterruptedWarning` say so.

        Raises:
            ValueError: for unsuitable rows or settings, or a model that is not a Boltzmann machine.
            NonFiniteError: where the free energy or its gradient is not finite.
        """
        rows, seed = _checked(self, model, data), checked_seed(seed)
        begin = time.perf_counter()
        fitted = copied_to_data(deepcopy(model), data)
        evaluations = Evaluations(self.monitor, fitted, _leaves(fitted), rows, spawn(seed, 1))
        with isolated(seed):
            num_steps = _learn(self, fitted, data, evaluations)
        interrupted = num_steps < self.ascent.num_steps and not evaluations.diverged
        if interrupted:
            warn_interrupted("BoltzmannLearning", num_steps, self.ascent.num_steps, "steps")
        if evaluations.diverged:
            copy_into(evaluations.best, evaluations.leaves)
            evaluations.warn()
        info = {
            "method": f"BoltzmannLearning ({type(self.phase).__name__})",
            "seed": seed,
            "evaluations": evaluations.steps,
            "log_likelihood": evaluations.values,
            "diverged": evaluations.diverged,
            "interrupted": interrupted,
            "num_steps": num_steps,
            "num_parameters": sum(leaf.numel() for leaf in evaluations.leaves.values()),
            "seconds": time.perf_counter() - begin,
        }
        return Posterior(fitted, data, {}, info)


def _learn(settings: BoltzmannLearning, machine: Any, data: Dataset, evaluations: Evaluations) -> int:
    """Update the machine's parameters in place, and return the number of steps taken."""
    ascent, leaves, rows = settings.ascent, evaluations.leaves, data.tensors()[0]
    order, mean, offsets = minibatches(data, settings.batch_size), Average(leaves), None
    chains = settings.phase.start(machine, rows)
    layer_couplings = trainable_couplings(machine, leaves)
    reached = Reached(())  # Parameters between two updates are as good as those after either.
    bar = progress_bar("BoltzmannLearning", ascent.num_steps, shown=settings.progress)
    with bar, until_interrupted(reached):
        for step in range(ascent.num_steps):
            if evaluations.evaluates_at(step):
                bar.set_postfix_str(evaluations.evaluate(step))
                if evaluations.diverged:
                    return step
            batch = _rows_of(rows, next(order))
            with _precision(settings, rows), torch.no_grad():
                chains = settings.phase.advance(machine, chains, batch)
            gradient = _gradient(settings, machine, leaves, batch, settings.phase.states(chains))
            ascent_direction = gradient.plain
            if layer_couplings:
                offsets = Offsets.of(gradient, layer_couplings) if offsets is None else offsets.updated(gradient)
                ascent_direction = offsets.centered(ascent_direction)
            _step(leaves, ascent_direction, ascent.learning_rate_at(step), step)
            if step >= (1 - ascent.averaged_fraction) * ascent.num_steps:
                mean.add(leaves)
            reached.keep(step + 1)
            bar.update()
    if reached.interrupted:
        return reached.num_steps
    mean.copy_into(leaves)
    evaluations.evaluate(ascent.num_steps)
    return ascent.num_steps


def _gradient(
    settings: BoltzmannLearning,
    machine: LearnableMachine | LearnableDeepMachine,
    leaves: Mapping[str, Tensor],
    batch: Float[Tensor, "B V"],
    states: Float[Tensor, "S U"],
) -> PhaseGradients:
    sides = []
    of_rows, of_states = energies(machine)
    for rows, energy in ((batch, of_rows), (states, of_states)):
        with _precision(settings, rows):
            if isinstance(machine, SuppliesGradients):
                known = machine.gradients(rows)
                sides.append({name: known[name].to(leaf) for name, leaf in leaves.items()})
                continue
            log_f = -energy(rows).mean()
        gradients = torch.autograd.grad(log_f, list(leaves.values()), allow_unused=True, materialize_grads=True)
        sides.append(dict(zip(leaves, gradients, strict=True)))
    return PhaseGradients(*sides)


def _step(leaves: Mapping[str, Tensor], gradient: Mapping[str, Tensor], learning_rate: float, step: int) -> None:
    with torch.no_grad():
        for name, leaf in leaves.items():
            # A sum is not finite where any of its terms is not.
            if not math.isfinite(float(gradient[name].sum())):
                raise NonFiniteError(
                    f"expected a finite gradient, got NaN or infinity at step {step} in {name}; lower the learning "
                    "rate, draw more chains, or scale the data"
                )
            leaf.add_(gradient[name], alpha=learning_rate)


def _precision(settings: BoltzmannLearning, rows: Tensor) -> torch.autocast:
    # Without the cache, which would reuse weights that were cast without gradients where gradients are needed.
    on = settings.precision is not None
    return torch.autocast(rows.device.type, settings.precision or torch.bfloat16, enabled=on, cache_enabled=False)


def _leaves(machine: Any) -> dict[str, Tensor]:
    return {name: leaf for name, leaf in machine.named_parameters() if leaf.requires_grad}


def _rows_of(rows: Float[Tensor, "N V"], index: Tensor | None) -> Float[Tensor, "B V"]:
    return rows if index is None else rows.index_select(0, index)


def _checked(settings: BoltzmannLearning, model: Model, data: Dataset) -> Float[Tensor, "N V"]:
    """Rows of the data, after checks that data, model and settings suit each other."""
    if not isinstance(model, nn.Module) or not isinstance(model, LearnableMachine | LearnableDeepMachine):
        raise ValueError(
            f"expected a Boltzmann machine with free_energy and gibbs, got {type(model).__name__}; build an RBM, or fit "
            "a directed model by SVI"
        )
    if settings.batch_size is not None:
        integer("batch_size", settings.batch_size)
    if not _leaves(model):
        raise ValueError("expected a machine with parameters to fit, got none; free them by requires_grad_(True)")
    tensors = data.tensors()
    if not tensors or not tensors[0].is_floating_point() or tensors[0].dim() != 2 or data.num_rows is None:
        got = f"{tensors[0].dtype} {tuple(tensors[0].shape)}" if tensors else "none"
        raise ValueError(
            f"expected rows (N, V) of floating-point numbers, got {got}; pass Dataset((x.float(),), {{}}, N)"
        )
    check_training(model, data)
    return tensors[0]
