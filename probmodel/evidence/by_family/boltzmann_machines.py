"""Log partition function of a Boltzmann machine (Salakhutdinov & Murray, 2008), and its likelihood.

For a restricted machine, p(v, h) = exp(v W h + b v + c h) / Z, summing out the hidden units leaves
f(v) = exp(b v) ∏_j (1 + exp(c_j + v W_j)), so that Z = Σ_v f(v) has as many terms as the smaller side has states, and
annealing runs over v alone.  The `machine` of any other model states what is left after all units that can be summed
out.
"""

import math
import time

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.evidence.by_family.boltzmann_sides import (
    ENUMERATION,
    LOWER_HOLDS,
    REMEDY,
    backward_side,
    combined_sides,
    forward_side,
)
from probmodel.evidence.weighing.bounds import lower_bound
from probmodel.evidence.weighing.verdict import CLOSED_FORM_ROUNDING
from probmodel.evidence.weighing.weights import warn_if_untrusted, weighted_mean
from probmodel.families.boltzmann_machines.annealing import annealing_schedule, forward
from probmodel.families.boltzmann_machines.discrete_units import BernoulliUnits
from probmodel.families.boltzmann_machines.machine import Machine, SuppliesMachine
from probmodel.families.boltzmann_machines.model_draws import MAX_ENUMERATED, enumerated, log_unnormalized_of_enumerated
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import digest
from probmodel.protocols.errors import EvidenceWarning, warn
from probmodel.protocols.evidence import Evidence
from probmodel.tracing.randomness import spawn

NUM_CHAINS = 10_000


@checks_arguments
def log_partition(model: SuppliesMachine) -> Evidence:
    """Exact log Z in nats: the sum over all states of some units, with all others summed out in closed form.

    The enumerated units are the smaller side of a machine between two layers of {0, 1} units, the hidden side where the
    visible one takes other values, the first hidden layer of a deep machine (or both others, if they are fewer), and
    all visible units where these are coupled.  The cost is 2^min(V, H) × max(V, H) exponentials: 0.06 seconds for 64 ×
    16 units, some minutes for 784 × 25.

    Args:
        model: the machine, as arrays (`BinaryRBM`) or as a module (`RBM`, `BoltzmannMachine`, `DeepBoltzmannMachine`).

    Returns:
        Evidence with both bounds at level 1.

    Raises:
        ValueError: if there are more than 25 units to sum over, or a parameter is not finite.
    """
    machine = _checked(model)
    if machine.num_enumerated > MAX_ENUMERATED:
        raise ValueError(
            f"expected a side of at most {MAX_ENUMERATED} units to sum over, got {machine.sizes}; "
            "use log_partition_sandwich, which bounds log Z from both sides"
        )
    begin = time.perf_counter()
    log_z = float(torch.logsumexp(log_unnormalized_of_enumerated(machine.double), 0))
    allowance = CLOSED_FORM_ROUNDING * max(1.0, abs(log_z))
    return Evidence(
        log_z,
        0.0,
        lower=log_z - allowance,
        upper=log_z + allowance,
        level=1.0,
        method=ENUMERATION,
        given=tuple(machine.tensors),
        digest=machine.digest,
        certified="both sides, by enumeration up to rounding",
        info={"num_states": 2**machine.num_enumerated, "seconds": time.perf_counter() - begin},
    )


@checks_arguments
def log_partition_ais(
    model: SuppliesMachine,
    *,
    seed: int = 0,
    level: float = 0.95,
    base_bias: Float[Tensor, " K"] | None = None,
    num_chains: int = NUM_CHAINS,
    num_steps: int | None = None,
) -> Evidence:
    """Log Z in nats by annealed importance sampling: the log mean weight of chains from base rates into the machine.

    For a restricted machine f_β(v) = exp(((1 − β) a + β b) v) ∏_j (1 + exp((1 − β) d_j + β (c_j + v W_j))), which has a
    known sum at β = 0.  Each chain takes one block Gibbs step at each β.  Base and temperatures are frozen after a
    pilot run, so that every chain is unbiased for Z.

    Args:
        model: the machine, as arrays (`BinaryRBM`) or as a module (`RBM`, `BoltzmannMachine`, `DeepBoltzmannMachine`).
        base_bias: biases a of the base, such as the `log_odds` of the training rows (d is 0 then), natural parameters
            where the visible units are not {0, 1}; None fits a and d to a short annealed run.
        num_chains: number of independent chains.
        num_steps: number of temperatures; None for that at which the log weights have variance 0.5, 10,000 at most.
        seed: random seed of the pilot and of the chains.
        level: probability that the bound holds.

    Returns:
        Evidence whose `lower` holds with probability `level` at finite sample size.

    Raises:
        ValueError: if `base_bias` does not fit, there are fewer than two chains or no step, or the level is not
            between 0 and 1.

    Reference:
        Salakhutdinov & Murray (2008), "On the quantitative analysis of deep belief networks".
    """
    _check_settings(num_chains, num_steps, level)
    machine = _checked(model)
    begin = time.perf_counter()
    schedule = annealing_schedule(machine.double, base_bias, num_steps=num_steps, draws=None, seed=seed)
    log_w = forward(schedule, num_chains, spawn(seed, 63))
    mean = weighted_mean(log_w)
    warn_if_untrusted("ais", mean, REMEDY)
    return Evidence(
        mean.log_mean,
        mean.stderr,
        lower=lower_bound(log_w, level),
        level=level,
        method="ais",
        given=tuple(machine.tensors),
        digest=machine.digest,
        certified=LOWER_HOLDS,
        info={
            "num_chains": num_chains,
            "num_steps": len(schedule.betas) - 1,
            "k_hat": mean.k_hat,
            "relative_ess": mean.relative_ess,
            "seconds": time.perf_counter() - begin,
        },
    )


@checks_arguments
def log_partition_sandwich(
    model: SuppliesMachine,
    *,
    seed: int = 0,
    level: float = 0.95,
    visible: Float[Tensor, "N V"] | None = None,
    num_chains: int = NUM_CHAINS,
    num_steps: int | None = None,
    max_side: int = MAX_ENUMERATED,
) -> Evidence:
    """Log Z in nats between two bounds: annealing forward into the machine, and in reverse from draws of it.

    If the smaller side can be enumerated, the reverse chains start at exact draws, and both bounds hold at finite
    sample size, half of 1 − level on each side; else they start at draws by parallel tempering, and the upper bound is
    as good as those draws.

    Args:
        model: the machine, as arrays (`BinaryRBM`) or as a module (`RBM`, `BoltzmannMachine`, `DeepBoltzmannMachine`).
        visible: rows whose means give the base; None fits the base to a short annealed run.
        num_chains: number of independent chains per direction.
        num_steps: number of temperatures; None for that at which the log weights have variance 0.5, 10,000 at most.
        seed: random seed of the whole computation.
        level: probability that both bounds hold.
        max_side: largest number of units of the smaller side whose states are enumerated; 0 never enumerates.

    Returns:
        Evidence: `log_z` is exact if the machine is enumerated (the bounds remain those of sampling), else Bennett's
        acceptance ratio of both directions, or forward annealing alone if a check has failed.  `agreement` is the table
        of estimates.  If the estimates disagree, the bounds cross, relative ESS is below 1 % or k-hat above 0.7,
        `lower` and `upper` are infinite, a warning names the check and a remedy, and `info["failed"]` lists it.

    Raises:
        ValueError: if the rows do not fit, there are fewer than two chains or no step, the level is outside (0, 1), or
            max_side is above 25.

    Reference:
        Grosse, Ghahramani & Adams (2015), "Sandwiching the marginal likelihood using bidirectional Monte Carlo";
        Bennett (1976), "Efficient estimation of free energy differences from Monte Carlo data".
    """
    _check_settings(num_chains, num_steps, level)
    machine = _checked(model)
    begin = time.perf_counter()
    known = enumerated(machine.double, max_side)
    base, draws = (
        None if visible is None else machine.double.natural_parameters(visible.double()),
        None if known is None else known.draws,
    )
    schedule = annealing_schedule(machine.double, base, num_steps=num_steps, draws=draws, seed=seed)
    below = forward_side(schedule, num_chains, spawn(seed, 63))
    above = backward_side(schedule, known, num_chains, spawn(seed, 64))
    found = combined_sides(below, above, known, level)
    for finding in found.failed:
        warn(f"sandwich (Boltzmann machine): {finding}", EvidenceWarning)
    return Evidence(
        found.log_z,
        found.stderr,
        lower=-math.inf if found.failed else found.lower,
        upper=math.inf if found.failed else found.upper,
        level=level,
        method="sandwich (Boltzmann machine)",
        given=tuple(machine.tensors),
        digest=machine.digest,
        agreement=found.agreement,
        certified=found.certified,
        info={
            "failed": found.failed,
            "unchecked_bounds": (found.lower, found.upper),
            "num_chains": num_chains,
            "num_independent": len(above.log_w),
            "num_steps": below.num_steps,
            "k_hat": below.estimate.k_hat,
            "relative_ess": below.estimate.relative_ess,
            "seconds": time.perf_counter() - begin,
        },
    )


@checks_arguments
def log_likelihood(model: SuppliesMachine, visible: Float[Tensor, "N V"], partition: Evidence) -> Evidence:
    """Log likelihood of N rows in nats: Σ log f(v) − N log Z.

    The direction of a bound on log Z flips and its width is multiplied by N: lower = Σ log f − N·upper of log Z,
    upper = Σ log f − N·lower.  Forward annealing alone bounds the likelihood from above, which favors the machine.

    Log f of a deep machine is exact if its smaller hidden layer has 14 units or fewer, else a mean-field bound from
    below; `log_z` is then a bound in expectation, and `upper` infinite.

    Args:
        model: the machine.
        visible: rows of values of its visible units.
        partition: log partition function of the same machine, by any of the three functions above.

    Returns:
        Evidence with the level and method of `partition`.

    Raises:
        ValueError: if the rows do not fit, or the partition function is of another machine.
    """
    machine = _checked(model)
    if partition.digest not in ("", machine.digest):
        raise ValueError(
            "expected the partition function of this machine, got another's; compute it from the same model"
        )
    with torch.no_grad():
        low, high = (float(each.sum()) for each in machine.double.bounds(visible.double()))
    count = len(visible)
    turned = "the bounds of log Z, with lower and upper exchanged"
    turned = turned if low == high else f"log f of each row by mean field, from below alone; {turned}"
    return Evidence(
        low - count * partition.log_z,
        count * partition.stderr,
        lower=low - count * partition.upper,
        upper=high - count * partition.lower,
        level=partition.level,
        method=partition.method,
        given=tuple(machine.tensors),
        digest=digest([visible]),
        certified=f"{turned}: {partition.certified}" if partition.certified else "",
        info={"num_rows": count, "log_partition": partition.log_z},
    )


@checks_arguments
def log_odds(visible: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
    """Log odds of each unit over rows of {0, 1}, with one row of each value added, as base rates of annealing.

    Raises:
        ValueError: if the rows are not of 0 and 1.
    """
    units = BernoulliUnits()
    units.check(visible)
    return units.natural_parameters(visible.double())


def _checked(model: SuppliesMachine) -> Machine:
    if not isinstance(model, SuppliesMachine):
        raise ValueError(
            f"expected a Boltzmann machine, got {type(model).__name__}; for a fit pass fit.model, for arrays "
            "BinaryRBM(W, b, c)"
        )
    machine = model.machine
    machine.check()
    return machine


def _check_settings(num_chains: int, num_steps: int | None, level: float) -> None:
    if num_chains < 2 or (num_steps is not None and num_steps < 1):
        raise ValueError(
            f"expected num_chains > 1 and num_steps > 0, got {num_chains} and {num_steps}; omit them for the defaults"
        )
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}; 0.95 is usual")
