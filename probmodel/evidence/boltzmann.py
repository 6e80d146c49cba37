"""Log partition function of a bipartite {0, 1} Boltzmann machine (Salakhutdinov & Murray, 2008), and its likelihood.

p(v, h) = exp(v W h + b v + c h) / Z.  Summing out the hidden units leaves f(v) = exp(b v) ∏_j (1 + exp(c_j + v W_j)), so that
Z = Σ_v f(v) has as many terms as the smaller side has states, and annealing runs over v alone.
"""

import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from probmodel.evidence.ais import chain_error, thinned
from probmodel.evidence.bounds import lower_bound, upper_bound
from probmodel.evidence.sandwich import DISAGREEMENT, ROUNDING, agreement_p_value
from probmodel.evidence.weights import ESS_LIMIT, K_HAT_LIMIT, EvidenceWarning, warn_if_untrusted, weighted_mean
from probmodel.protocols import Agreement, Estimate, Evidence, digest
from probmodel.tracing import isolated, spawn

MAX_SIDE = 25
"""Units of the smaller side up to which its 2^units states are summed."""
CHUNK = 2**13
"""States summed at once; 64 units on the other side then take 4 MB, which stays in the cache."""
NUM_CHAINS = 10_000
PILOT_CHAINS = 500
PILOT_STEPS = 64
MAX_STEPS = 10_000
VARIANCE = 0.5
"""Variance of the log weights, nats², that the number of temperatures is chosen for: more chains then beat more steps."""
TEMPERED_CHAINS = 40
SWEEPS_A_DRAW = 5
LEFT_OUT = 200
"""Sweeps of parallel tempering before its first draw, at least."""
THRESHOLD = 40.0
"""Above it log(1 + e^x) is x in double precision; PyTorch's own threshold costs 2e-9 nats a unit."""
PARAMETERS = ("weight", "visible_bias", "hidden_bias")
BISECTIONS = 100
MORE = "take more temperatures (num_steps) or chains"


@dataclass(frozen=True, eq=False)
class BinaryRBM:
    """Restricted Boltzmann machine of {0, 1} units, p(v, h) ∝ exp(v W h + b v + c h).

    Args:
        weight: W, (V, H).
        visible_bias: b, (V,).
        hidden_bias: c, (H,).

    Raises:
        ValueError: for shapes that do not fit, an empty side, or numbers that are not finite.
    """

    weight: Float[Tensor, "V H"]
    visible_bias: Float[Tensor, " B"]
    hidden_bias: Float[Tensor, " C"]

    def __post_init__(self) -> None:
        got = [tuple(each.shape) for each in (self.weight, self.visible_bias, self.hidden_bias)]
        if self.weight.dim() != 2 or 0 in got[0] or got[1:] != [got[0][:1], got[0][1:]]:
            raise ValueError(
                f"expected weight (V, H), visible_bias (V,) and hidden_bias (H,) with V, H > 0, got {', '.join(map(str, got))}; "
                "scikit-learn's components_ are (H, V): transpose them"
            )
        for name, value in zip(PARAMETERS, (self.weight, self.visible_bias, self.hidden_bias), strict=True):
            if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
                raise ValueError(
                    f"expected finite floating-point numbers in {name}, got {value.dtype} with "
                    f"{int((~torch.isfinite(value)).sum())} not finite; train with a smaller step, or convert"
                )

    @property
    def transposed(self) -> "BinaryRBM":
        """The same machine with visible and hidden units exchanged; its partition function is the same."""
        return BinaryRBM(self.weight.T, self.hidden_bias, self.visible_bias)

    @property
    def double(self) -> "BinaryRBM":
        """The machine in float64, detached."""
        return BinaryRBM(*(each.detach().double() for each in (self.weight, self.visible_bias, self.hidden_bias)))

    @property
    def digest(self) -> str:
        """Fingerprint of the parameters: what a partition function belongs to."""
        return digest([self.weight, self.visible_bias, self.hidden_bias])

    def log_unnormalised(self, visible: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
        """Log f(v) = −free energy: b v + Σ_j log(1 + exp(c_j + v W_j)), nats a row."""
        inputs = self.hidden_bias + visible @ self.weight
        return visible @ self.visible_bias + softplus(inputs, threshold=THRESHOLD).sum(-1)


def log_partition(rbm: BinaryRBM) -> Evidence:
    """Log Z in nats, exactly: the sum over all states of the smaller side, the other side summed out.

    Costs 2^min(V, H) × max(V, H) exponentials: 64 × 16 takes .06 seconds, 784 × 25 some minutes.

    Raises:
        ValueError: for a machine whose smaller side has more than 25 units.
    """
    smaller = min(rbm.weight.shape)
    if smaller > MAX_SIDE:
        raise ValueError(
            f"expected a side of at most {MAX_SIDE} units to sum over, got {tuple(rbm.weight.shape)}; "
            "use log_partition_sandwich, which bounds log Z from both sides"
        )
    begin = time.perf_counter()
    log_z = float(torch.logsumexp(_log_masses(rbm.double), 0))
    allowance = ROUNDING * max(1.0, abs(log_z))
    return Evidence(
        log_z,
        0.0,
        lower=log_z - allowance,
        upper=log_z + allowance,
        level=1.0,
        method="exact (enumeration)",
        given=PARAMETERS,
        digest=rbm.digest,
        certified="both sides, by enumeration up to rounding",
        info={"num_states": 2**smaller, "seconds": time.perf_counter() - begin},
    )


def log_partition_ais(
    rbm: BinaryRBM,
    *,
    base_bias: Float[Tensor, " K"] | None = None,
    num_chains: int = NUM_CHAINS,
    num_steps: int | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> Evidence:
    """Log Z in nats by annealed importance sampling: the log mean weight of chains from base rates into the machine.

    f_β(v) = exp(((1 − β) a + β b) v) ∏_j (1 + exp((1 − β) d_j + β (c_j + v W_j))) has a known sum at β = 0.  Each chain takes
    one block Gibbs step at each β.  Base and temperatures are frozen after a pilot run, so that every chain is unbiased for Z.

    Args:
        rbm: the machine.
        base_bias: a, such as the `log_odds` of the training rows (d is 0 then); None fits a and d to a short annealed run.
        num_chains: independent chains.
        num_steps: temperatures; None takes the number at which the log weights have variance .5, 10,000 at most.
        seed: of pilot and chains.
        level: of the bound.

    Returns:
        Evidence whose `lower` holds with probability `level` at finite sample size.

    Raises:
        ValueError: for a base that does not fit, fewer than two chains, no step, or a level outside (0, 1).

    Reference:
        Salakhutdinov & Murray (2008), "On the quantitative analysis of deep belief networks".
    """
    _check_settings(num_chains, num_steps, level)
    begin = time.perf_counter()
    way = _frozen(_pilot(rbm.double, base_bias, seed), num_steps, None, spawn(seed, 62))
    log_w = _forward_weights(way, num_chains, spawn(seed, 63))
    mean = weighted_mean(log_w)
    warn_if_untrusted("ais", mean, MORE)
    return Evidence(
        mean.log_mean,
        mean.stderr,
        lower=lower_bound(log_w, level),
        level=level,
        method="ais",
        given=PARAMETERS,
        digest=rbm.digest,
        certified="the lower bound holds at finite sample size: base and temperatures were frozen after the pilot run",
        info={
            "num_chains": num_chains,
            "num_steps": len(way.betas) - 1,
            "k_hat": mean.k_hat,
            "ess_share": mean.ess_share,
            "seconds": time.perf_counter() - begin,
        },
    )


def log_partition_sandwich(
    rbm: BinaryRBM,
    *,
    visible: Float[Tensor, "N V"] | None = None,
    num_chains: int = NUM_CHAINS,
    num_steps: int | None = None,
    seed: int = 0,
    level: float = 0.95,
    max_side: int = MAX_SIDE,
) -> Evidence:
    """Log Z in nats between two bounds: annealing forward into the machine, and in reverse out of draws of it.

    Where the smaller side can be enumerated the reverse chains start at exact draws, and both bounds hold at finite sample
    size, half of 1 − level on each side; else they start at draws by parallel tempering, and the upper bound is as good as
    those are.

    Args:
        rbm: the machine.
        visible: rows of {0, 1} whose log odds make the base; None fits the base to a short annealed run.
        num_chains: independent chains each way.
        num_steps: temperatures; None takes the number at which the log weights have variance .5, 10,000 at most.
        seed: of everything.
        level: probability that both bounds hold.
        max_side: units of the smaller side up to which its states are enumerated; 0 never enumerates.

    Returns:
        Evidence: `log_z` is exact where enumerated (the bounds remain those of sampling), else
        Bennett's acceptance ratio of both ways, or forward annealing alone where a check has failed.  `agreement` is the
        table.  Where the estimates disagree, the bounds cross, the effective share of chains is below 1 % or k-hat above
        0.7, `lower` and `upper` are infinite, a warning names the check and what to try, and `info["failed"]` lists it.

    Raises:
        ValueError: for rows that do not fit, fewer than two chains, no step, a level outside (0, 1), or max_side above 25.

    Reference:
        Grosse, Ghahramani & Adams (2015), "Sandwiching the marginal likelihood using bidirectional Monte Carlo"; Bennett
        (1976), "Efficient estimation of free energy differences from Monte Carlo data".
    """
    _check_settings(num_chains, num_steps, level)
    begin = time.perf_counter()
    source = _source(rbm.double, max_side)
    pilot = _pilot(rbm.double, None if visible is None else log_odds(visible), seed)
    way = _frozen(pilot, num_steps, source, spawn(seed, 62))
    below = _forward(way, num_chains, spawn(seed, 63))
    above = _reverse(way, source, num_chains, spawn(seed, 64))
    estimates = [below.estimate, above.estimate, *source.estimates]
    agreement = Agreement(tuple(estimates), agreement_p_value(estimates))
    side_level = 1 - (1 - level) / 2
    lower, upper = lower_bound(below.log_w, side_level), upper_bound(above.log_w, side_level)
    failed = _failures(agreement, below, above, lower, upper)
    for finding in failed:
        warnings.warn(f"sandwich (Boltzmann machine): {finding}", EvidenceWarning, stacklevel=2)
    log_z, stderr = _combined(source, below, above, failed)
    return Evidence(
        log_z,
        stderr,
        lower=-math.inf if failed else lower,
        upper=math.inf if failed else upper,
        level=level,
        method="sandwich (Boltzmann machine)",
        given=PARAMETERS,
        digest=rbm.digest,
        agreement=agreement,
        certified=_certified(source, failed),
        info={
            "failed": tuple(failed),
            "unchecked_bounds": (lower, upper),
            "num_chains": num_chains,
            "num_independent": len(above.log_w),
            "num_steps": len(way.betas) - 1,
            "k_hat": below.estimate.k_hat,
            "ess_share": below.estimate.ess_share,
            "seconds": time.perf_counter() - begin,
        },
    )


def log_likelihood(rbm: BinaryRBM, visible: Float[Tensor, "N V"], partition: Evidence) -> Evidence:
    """Log likelihood of N rows in nats: Σ log f(v) − N log Z.

    The direction of a bound on log Z flips and its width is multiplied by N: lower = Σ log f − N·upper of log Z,
    upper = Σ log f − N·lower.  Annealing forward alone bounds the likelihood from above, which flatters the machine.

    Args:
        rbm: the machine.
        visible: rows of {0, 1}.
        partition: its log partition function by any of the three functions above.

    Raises:
        ValueError: for rows that do not fit or are not 0 and 1, or the partition function of another machine.
    """
    if partition.digest not in ("", rbm.digest):
        raise ValueError("expected the partition function of this machine, got another's; compute it from the same rbm")
    _check_rows(visible)
    if visible.shape[1] != len(rbm.visible_bias):
        raise ValueError(
            f"expected rows of {len(rbm.visible_bias)} visible units, got {visible.shape[1]}; pass (N, V), one row a datum"
        )
    count = len(visible)
    total = float(rbm.double.log_unnormalised(visible.double()).sum())
    turned = "the bounds of log Z, of which the lower is the upper one here"
    return Evidence(
        total - count * partition.log_z,
        count * partition.stderr,
        lower=total - count * partition.upper,
        upper=total - count * partition.lower,
        level=partition.level,
        method=partition.method,
        given=PARAMETERS,
        digest=digest([visible]),
        certified=f"{turned}: {partition.certified}" if partition.certified else "",
        info={"num_rows": count, "log_partition": partition.log_z},
    )


def log_odds(visible: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
    """Log odds of each unit over rows of {0, 1}, one row of each value added: the base rates of annealing.

    Raises:
        ValueError: for rows that are not 0 and 1.
    """
    _check_rows(visible)
    return _logit_of_mean(visible.double())


def _check_rows(visible: Float[Tensor, "N V"]) -> None:
    if visible.dim() != 2 or not len(visible) or not bool(((visible == 0) | (visible == 1)).all()):
        raise ValueError(
            f"expected rows (N, V) of 0 and 1 with N > 0, got {tuple(visible.shape)} with other values or none; "
            "binarise: (x > threshold).double()"
        )


def _check_settings(num_chains: int, num_steps: int | None, level: float) -> None:
    if num_chains < 2 or (num_steps is not None and num_steps < 1):
        raise ValueError(f"expected num_chains > 1 and num_steps > 0, got {num_chains} and {num_steps}; omit them")
    if not 0 < level < 1:
        raise ValueError(f"level needs to lie between 0 and 1, got {level}; .95 is usual")


def _bernoulli(logits: Tensor) -> Tensor:
    return (torch.rand_like(logits) < torch.sigmoid(logits)).to(logits)


def _logit_of_mean(values: Float[Tensor, "N K"]) -> Float[Tensor, " K"]:
    mean = (values.sum(0) + 1) / (len(values) + 2)
    return torch.logit(mean)


# ---------------------------------------------------------------------------------------------- enumeration


def _bits(index: Int[Tensor, " N"], units: int) -> Float[Tensor, "N K"]:
    return (index[:, None] >> torch.arange(units, device=index.device) & 1).double()


def _log_masses(rbm: BinaryRBM) -> Float[Tensor, " M"]:
    """Log f of all states of the smaller side, nats."""
    small = rbm if rbm.weight.shape[0] <= rbm.weight.shape[1] else rbm.transposed
    units = len(small.visible_bias)
    index = torch.arange(2**units, device=small.weight.device)
    return torch.cat([small.log_unnormalised(_bits(part, units)) for part in index.split(CHUNK)])


def _exact_draws(rbm: BinaryRBM, cumulative: Float[Tensor, " M"], count: int) -> Float[Tensor, "N V"]:
    """Visible states: the smaller side by inversion of its distribution function, the other given it."""
    uniform = torch.rand(count, dtype=cumulative.dtype, device=cumulative.device) * cumulative[-1]
    index = torch.searchsorted(cumulative, uniform, right=True).clamp(max=len(cumulative) - 1)
    side = _bits(index, min(rbm.weight.shape))
    if rbm.weight.shape[0] <= rbm.weight.shape[1]:
        return side
    return _bernoulli(rbm.visible_bias + side @ rbm.weight.T)


class _Source(NamedTuple):
    """Where draws of the machine come from: a distribution function over the smaller side, or None for tempering."""

    cumulative: Float[Tensor, " M"] | None
    estimates: tuple[Estimate, ...]


def _source(rbm: BinaryRBM, max_side: int) -> _Source:
    if not 0 <= max_side <= MAX_SIDE:
        raise ValueError(f"expected max_side between 0 and {MAX_SIDE}, got {max_side}; 2^units states are summed")
    if min(rbm.weight.shape) > max_side:
        return _Source(None, ())
    begin = time.perf_counter()
    log_masses = _log_masses(rbm)
    log_z = torch.logsumexp(log_masses, 0)
    cumulative = torch.exp(log_masses - log_z).cumsum(0)
    row = Estimate("exact (enumeration)", float(log_z), 0.0, seconds=time.perf_counter() - begin)
    return _Source(cumulative, (row,))


# ---------------------------------------------------------------------------------------------- annealing


class _Path(NamedTuple):
    """f_β(v) from independent units with biases a and d at β = 0 to the machine at β = 1."""

    rbm: BinaryRBM
    visible_base: Float[Tensor, " V"]
    hidden_base: Float[Tensor, " H"]

    @property
    def log_z0(self) -> float:
        """Log Σ_v f_0(v)."""
        return float(sum(softplus(base, threshold=THRESHOLD).sum() for base in (self.visible_base, self.hidden_base)))

    def base(self, *size: int) -> Tensor:
        """Draws at β = 0."""
        return _bernoulli(self.visible_base.expand(*size, -1))

    def fields(self, v: Tensor) -> Tensor:
        """The products of v that every f_β needs: v W, v a and v b, along the last axis."""
        columns = torch.stack([self.visible_base, self.rbm.visible_bias], 1)
        return v @ torch.cat([self.rbm.weight, columns], 1)

    def hidden_inputs(self, beta: Tensor, fields: Tensor) -> Tensor:
        beta = beta[..., None]
        return (1 - beta) * self.hidden_base + beta * (self.rbm.hidden_bias + fields[..., :-2])

    def log_f(self, beta: Tensor, fields: Tensor) -> Tensor:
        inputs = softplus(self.hidden_inputs(beta, fields), threshold=THRESHOLD).sum(-1)
        return (1 - beta) * fields[..., -2] + beta * fields[..., -1] + inputs

    def gibbs(self, beta: Tensor, fields: Tensor) -> Tensor:
        """The next v: hidden units given v, then visible ones given those; reversible with respect to f_β."""
        h = _bernoulli(self.hidden_inputs(beta, fields))
        beta = beta[..., None]
        return _bernoulli((1 - beta) * self.visible_base + beta * (self.rbm.visible_bias + h @ self.rbm.weight.T))


class _Way(NamedTuple):
    """A path, the temperatures along it, and fewer ones between which states are exchanged."""

    path: _Path
    betas: Float[Tensor, " K"]
    rungs: Float[Tensor, " T"]


class _Pilot(NamedTuple):
    """A path and how far apart, in standard deviations of the log weight, its temperatures are."""

    path: _Path
    spread: Float[Tensor, " K"]

    def betas(self, num_steps: int) -> Float[Tensor, " L"]:
        """Temperatures with steps of equal thermodynamic length."""
        # A tenth of the mean everywhere: the pilot's spread is an estimate, and no stretch may be skipped.
        spread = (self.spread + 0.1 * self.spread.mean() + 1e-12).numpy(force=True)
        covered = np.concatenate([[0.0], np.cumsum(spread)])
        grid = np.linspace(0, 1, len(covered))
        betas = np.interp(np.linspace(0, 1, num_steps + 1), covered / covered[-1], grid)
        return torch.as_tensor(betas, dtype=self.spread.dtype, device=self.spread.device)


def _increments(path: _Path, betas: Float[Tensor, " K"], v: Float[Tensor, "S V"]) -> Iterator[Float[Tensor, " S"]]:
    """Log f_after(v) − log f_before(v) from one temperature to the next, a block Gibbs step after each.

    Their sum has E exp = Z_last / Z_first where v is drawn at the first temperature; run backwards it is the reverse chain.
    """
    for before, after in pairwise(betas):
        fields = path.fields(v)
        yield path.log_f(after, fields) - path.log_f(before, fields)
        v = path.gibbs(after, fields)


def _annealed(path: _Path, betas: Float[Tensor, " K"], v: Float[Tensor, "S V"]) -> Float[Tensor, "S 1"]:
    log_w = v.new_zeros(len(v))
    for increment in _increments(path, betas, v):
        log_w = log_w + increment
    return log_w[:, None]


def _forward_weights(way: _Way, num_chains: int, seed: int) -> Float[Tensor, "S 1"]:
    """Log weights with mean Z."""
    with isolated(seed), torch.no_grad():
        return way.path.log_z0 + _annealed(way.path, way.betas, way.path.base(num_chains))


def _reverse_weights(way: _Way, v: Float[Tensor, "S V"], seed: int) -> Float[Tensor, "S 1"]:
    """Log weights with E exp(−log w) = 1/Z, of chains that start at draws of the machine."""
    with isolated(seed), torch.no_grad():
        return way.path.log_z0 - _annealed(way.path, way.betas.flip(0), v)


def _pilot(rbm: BinaryRBM, base_bias: Float[Tensor, " K"] | None, seed: int) -> _Pilot:
    """Fit the base to an annealed run from fair coins, unless it is given; then measure the path from it."""
    betas = torch.linspace(0, 1, PILOT_STEPS + 1, dtype=rbm.weight.dtype, device=rbm.weight.device)
    with isolated(spawn(seed, 61)), torch.no_grad():
        path = _fitted_base(rbm, betas) if base_bias is None else _given_base(rbm, base_bias)
        steps = torch.stack(list(_increments(path, betas, path.base(PILOT_CHAINS))))
    return _Pilot(path, steps.std(1))


def _given_base(rbm: BinaryRBM, base_bias: Float[Tensor, " K"]) -> _Path:
    if base_bias.shape != rbm.visible_bias.shape or not bool(torch.isfinite(base_bias).all()):
        raise ValueError(
            f"expected finite base biases of shape {tuple(rbm.visible_bias.shape)}, got {tuple(base_bias.shape)}; "
            "give log_odds(training rows), or None"
        )
    return _Path(rbm, base_bias.detach().to(rbm.visible_bias), torch.zeros_like(rbm.hidden_bias))


def _fitted_base(rbm: BinaryRBM, betas: Float[Tensor, " K"]) -> _Path:
    """The base whose units are on as often as at the end of an annealed run from fair coins."""
    path = _Path(rbm, torch.zeros_like(rbm.visible_bias), torch.zeros_like(rbm.hidden_bias))
    v = path.base(PILOT_CHAINS)
    for beta in betas[1:]:
        v = path.gibbs(beta, path.fields(v))
    hidden = torch.sigmoid(path.hidden_inputs(betas[-1], path.fields(v)))
    return _Path(rbm, _logit_of_mean(v), _logit_of_mean(hidden))


def _frozen(pilot: _Pilot, num_steps: int | None, source: _Source | None, seed: int) -> _Way:
    """The way with `num_steps` temperatures, or as many as bring the variance of the log weights down to .5 nats²."""
    # One standard deviation of the log weight apart, about half of the exchanges are accepted.
    rungs = pilot.betas(2 + math.ceil(float(pilot.spread.sum())))
    if num_steps is not None:
        return _Way(pilot.path, pilot.betas(num_steps), rungs)
    count = PILOT_STEPS
    for attempt in range(12):
        way = _Way(pilot.path, pilot.betas(count), rungs)
        variance = _pilot_variance(way, source, spawn(seed, attempt))
        if variance <= VARIANCE or count == MAX_STEPS:
            break
        count = min(MAX_STEPS, math.ceil(count * min(8.0, max(1.25, variance / VARIANCE))))
    return way


def _pilot_variance(way: _Way, source: _Source | None, seed: int) -> float:
    """Variance of the log weights of a few chains, the larger of both ways where exact draws are to be had."""
    variance = float(_forward_weights(way, PILOT_CHAINS, spawn(seed, 1)).var())
    if source is None or source.cumulative is None:
        return variance
    v = _draws(way, source, PILOT_CHAINS, spawn(seed, 2))
    return max(variance, float(_reverse_weights(way, v, spawn(seed, 3)).var()))


# ---------------------------------------------------------------------------------------------- tempering


def _draws(way: _Way, source: _Source, count: int, seed: int) -> Float[Tensor, "S V"]:
    """Visible states of the machine: exact ones, else by parallel tempering, chain by chain."""
    with isolated(seed), torch.no_grad():
        if source.cumulative is not None:
            return _exact_draws(way.path.rbm, source.cumulative, count)
        return _tempered_draws(way.path, way.rungs, math.ceil(count / TEMPERED_CHAINS))


def _tempered_draws(path: _Path, betas: Float[Tensor, " T"], num_draws: int) -> Float[Tensor, "S V"]:
    """Draws of the last temperature by parallel tempering over block Gibbs; as many sweeps, 200 at least, are left out first."""
    v = path.base(TEMPERED_CHAINS, len(betas))
    kept = []
    left_out = max(LEFT_OUT, num_draws * SWEEPS_A_DRAW)
    for sweep in range(left_out + num_draws * SWEEPS_A_DRAW):
        v = path.gibbs(betas, path.fields(v))
        # Independent units can be drawn afresh, so that new states keep entering at the first temperature.
        v = torch.cat([path.base(TEMPERED_CHAINS, 1), v[:, 1:]], 1)
        v = _exchanged(path, betas, v, sweep % 2)
        if sweep >= left_out and (sweep - left_out) % SWEEPS_A_DRAW == 0:
            kept.append(v[:, -1])
    return torch.stack(kept, 1).flatten(0, 1)


def _exchanged(
    path: _Path, betas: Float[Tensor, " T"], v: Float[Tensor, "C T V"], first: int
) -> Float[Tensor, "C T V"]:
    """Neighbours `first`, `first` + 1 and every second pair after them exchange states by Metropolis' rule."""
    low = torch.arange(first, len(betas) - 1, 2, device=betas.device)
    fields = path.fields(v)
    cold, warm = fields[:, low + 1], fields[:, low]
    ratio = path.log_f(betas[low + 1], warm) + path.log_f(betas[low], cold)
    ratio = ratio - path.log_f(betas[low + 1], cold) - path.log_f(betas[low], warm)
    swap = torch.rand_like(ratio).log() < ratio
    order = torch.arange(len(betas), device=betas.device).repeat(len(v), 1)
    order[:, low] += swap.long()
    order[:, low + 1] -= swap.long()
    return torch.take_along_dim(v, order[..., None], 1)


# ---------------------------------------------------------------------------------------------- both sides


class _Side(NamedTuple):
    """Independent log weights of one way, and what they estimate."""

    estimate: Estimate
    log_w: Float[Tensor, "S 1"]


def _forward(way: _Way, num_chains: int, seed: int) -> _Side:
    begin = time.perf_counter()
    log_w = _forward_weights(way, num_chains, seed)
    mean = weighted_mean(log_w)
    caveat = _untrusted(mean.ess_share, mean.k_hat)
    seconds = time.perf_counter() - begin
    return _Side(Estimate("ais", mean.log_mean, mean.stderr, mean.ess_share, mean.k_hat, seconds, caveat), log_w)


def _reverse(way: _Way, source: _Source, num_chains: int, seed: int) -> _Side:
    begin = time.perf_counter()
    exact = source.cumulative is not None
    log_w = _reverse_weights(way, _draws(way, source, num_chains, spawn(seed, 1)), spawn(seed, 2))
    mean = weighted_mean(-log_w)
    stderr = chain_error(-log_w, TEMPERED_CHAINS, exact=exact)
    caveat = _untrusted(mean.ess_share, mean.k_hat)
    seconds = time.perf_counter() - begin
    estimate = Estimate("reverse ais", -mean.log_mean, stderr, mean.ess_share, mean.k_hat, seconds, caveat)
    return _Side(estimate, thinned(log_w, TEMPERED_CHAINS, exact=exact))


def _untrusted(ess_share: float, k_hat: float) -> str:
    failed = [f"ESS {ess_share:.2%} < {ESS_LIMIT:.0%}"] if ess_share < ESS_LIMIT else []
    return ", ".join([*failed, f"k-hat {k_hat:.2f} > {K_HAT_LIMIT}"] if k_hat > K_HAT_LIMIT else failed)


def _failures(agreement: Agreement, below: _Side, above: _Side, lower: float, upper: float) -> list[str]:
    failed = []
    if agreement.p_value < DISAGREEMENT:
        failed.append(
            f"estimates disagree (p = {agreement.p_value:.2g}): one way misses a mode of the machine; raise num_steps"
        )
    if lower > upper:
        failed.append(
            f"the bounds cross ({lower:.3f} > {upper:.3f}): the draws are not of this machine; raise num_steps"
        )
    for side in (below, above):
        if side.estimate.caveat:
            failed.append(f"{side.estimate.method}: {side.estimate.caveat}; {MORE}")
    return failed


def _combined(source: _Source, below: _Side, above: _Side, failed: list[str]) -> tuple[float, float]:
    if source.estimates:
        return source.estimates[0].log_z, 0.0
    if failed:
        return below.estimate.log_z, below.estimate.stderr
    return _bennett(below.log_w[:, 0], above.log_w[:, 0])


def _bennett(forward: Float[Tensor, " F"], reverse: Float[Tensor, " R"]) -> tuple[float, float]:
    """Log Z at which both ways tell the direction of a path equally well, and its standard error, nats (Bennett, 1976)."""
    odds = math.log(len(reverse) / len(forward))
    pooled = torch.cat([forward, reverse])
    low, high = float(pooled.min()) - abs(odds) - 1, float(pooled.max()) + abs(odds) + 1
    for _ in range(BISECTIONS):
        log_z = (low + high) / 2
        surplus = torch.sigmoid(odds + forward - log_z).sum() - torch.sigmoid(log_z - odds - reverse).sum()
        low, high = (log_z, high) if float(surplus) > 0 else (low, log_z)
    share = torch.sigmoid(odds + pooled - log_z)
    variance = float(1 / (share * (1 - share)).sum()) - 1 / len(forward) - 1 / len(reverse)
    return log_z, math.sqrt(max(0.0, variance))


def _certified(source: _Source, failed: list[str]) -> str:
    if failed:
        return "neither side: a check has failed"
    lower = "the lower bound holds at finite sample size: base and temperatures were frozen after the pilot run"
    if source.cumulative is not None:
        return f"{lower}; the upper bound holds at finite sample size: the draws are exact"
    return f"{lower}; the upper bound holds as far as the parallel-tempering draws are of the machine and, thinned, independent"
