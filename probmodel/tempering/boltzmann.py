"""Annealing path of a bipartite {0, 1} Boltzmann machine, from independent units (Salakhutdinov & Murray, 2008).

p(v, h) ∝ exp(v W h + b v + c h).  With the hidden units summed out the path runs over v alone,
f_β(v) = exp(((1 − β) a + β b) v) ∏_j (1 + exp((1 − β) d_j + β (c_j + v W_j))), and its sum at β = 0 is known.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from probmodel.protocols import digest
from probmodel.tracing import isolated, spawn

PARAMETERS = ("weight", "visible_bias", "hidden_bias")
THRESHOLD = 40.0
"""Above it log(1 + e^x) is x in double precision; PyTorch's own threshold costs 2e-9 nats a unit."""
PILOT_CHAINS = 500
PILOT_STEPS = 64
MAX_STEPS = 10_000
MAX_PILOTS = 12
GROWTH = (1.25, 8.0)
"""Times the temperatures of a pilot that the next one takes, at least and at most."""
VARIANCE = 0.5
"""Variance of the log weights, nats², that the number of temperatures is chosen for: more chains then beat more steps."""


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


class RBMPath(NamedTuple):
    """f_β(v) from independent units with biases a and d at β = 0 to the machine at β = 1; it draws from the global state."""

    rbm: BinaryRBM
    visible_base: Float[Tensor, " V"]
    hidden_base: Float[Tensor, " H"]

    @property
    def log_z0(self) -> float:
        """Log Σ_v f_0(v)."""
        return float(sum(softplus(base, threshold=THRESHOLD).sum() for base in (self.visible_base, self.hidden_base)))

    def base(self, *size: int) -> Tensor:
        """Draws at β = 0."""
        return bernoulli(self.visible_base.expand(*size, -1))

    def fields(self, v: Tensor) -> Tensor:
        """The products of v that every f_β needs: v W, v a and v b, along the last axis."""
        columns = torch.stack([self.visible_base, self.rbm.visible_bias], 1)
        return v @ torch.cat([self.rbm.weight, columns], 1)

    def hidden_inputs(self, beta: Tensor, fields: Tensor) -> Tensor:
        """(1 − β) d + β (c + v W), log odds of the hidden units given v."""
        beta = beta[..., None]
        return (1 - beta) * self.hidden_base + beta * (self.rbm.hidden_bias + fields[..., :-2])

    def log_f(self, beta: Tensor, fields: Tensor) -> Tensor:
        """Log f_β, nats."""
        inputs = softplus(self.hidden_inputs(beta, fields), threshold=THRESHOLD).sum(-1)
        return (1 - beta) * fields[..., -2] + beta * fields[..., -1] + inputs

    def gibbs(self, beta: Tensor, fields: Tensor) -> Tensor:
        """The next v: hidden units given v, then visible ones given those; reversible with respect to f_β."""
        h = bernoulli(self.hidden_inputs(beta, fields))
        beta = beta[..., None]
        return bernoulli((1 - beta) * self.visible_base + beta * (self.rbm.visible_bias + h @ self.rbm.weight.T))


class RBMPilot(NamedTuple):
    """A path and how far apart, in standard deviations of the log weight, its temperatures are."""

    path: RBMPath
    spread: Float[Tensor, " K"]

    def betas(self, num_steps: int) -> Float[Tensor, " L"]:
        """Temperatures with steps of equal thermodynamic length."""
        # A tenth of the mean everywhere: the pilot's spread is an estimate, and no stretch may be skipped.
        spread = (self.spread + 0.1 * self.spread.mean() + 1e-12).numpy(force=True)
        covered = np.concatenate([[0.0], np.cumsum(spread)])
        grid = np.linspace(0, 1, len(covered))
        betas = np.interp(np.linspace(0, 1, num_steps + 1), covered / covered[-1], grid)
        return torch.as_tensor(betas, dtype=self.spread.dtype, device=self.spread.device)


class RBMWay(NamedTuple):
    """A path, the temperatures along it, and fewer ones between which states are exchanged."""

    path: RBMPath
    betas: Float[Tensor, " K"]
    rungs: Float[Tensor, " T"]


def frozen_way(
    rbm: BinaryRBM,
    base_bias: Float[Tensor, " K"] | None,
    *,
    num_steps: int | None,
    draws: Callable[[int, int], Float[Tensor, "S V"]] | None,
    seed: int,
) -> RBMWay:
    """Base and temperatures, fixed by a pilot run before any weight is computed.

    Args:
        rbm: the machine.
        base_bias: a, and d is 0 then; None fits both to a short annealed run.
        num_steps: temperatures; None takes as many as bring the variance of the log weights to .5 nats², 10,000 at most.
        draws: number, seed → exact draws of the machine, so that reverse weights count too; None where there are none.
        seed: of the pilot run.

    Raises:
        ValueError: for a base that does not fit.
    """
    pilot = _pilot(rbm, base_bias, spawn(seed, 61))
    # One standard deviation of the log weight apart, about half of the exchanges are accepted.
    rungs = pilot.betas(2 + math.ceil(float(pilot.spread.sum())))
    if num_steps is not None:
        return RBMWay(pilot.path, pilot.betas(num_steps), rungs)
    count, (least, most) = PILOT_STEPS, GROWTH
    for attempt in range(MAX_PILOTS):
        way = RBMWay(pilot.path, pilot.betas(count), rungs)
        variance = _variance(way, draws, spawn(spawn(seed, 62), attempt))
        if variance <= VARIANCE or count == MAX_STEPS:
            break
        count = min(MAX_STEPS, math.ceil(count * min(most, max(least, variance / VARIANCE))))
    return way


def forward(way: RBMWay, num_chains: int, seed: int) -> Float[Tensor, "S 1"]:
    """Log weights with mean Z, of independent chains from the base."""
    with isolated(seed), torch.no_grad():
        return way.path.log_z0 + _annealed(way.path, way.betas, way.path.base(num_chains))


def backward(way: RBMWay, v: Float[Tensor, "S V"], seed: int) -> Float[Tensor, "S 1"]:
    """Log weights with E exp(−log w) = 1/Z, of chains that start at draws of the machine."""
    with isolated(seed), torch.no_grad():
        return way.path.log_z0 - _annealed(way.path, way.betas.flip(0), v)


def bernoulli(logits: Tensor) -> Tensor:
    """Draws of {0, 1} with these log odds; call it inside `isolated`."""
    return (torch.rand_like(logits) < torch.sigmoid(logits)).to(logits)


def logit_of_mean(values: Float[Tensor, "N K"]) -> Float[Tensor, " K"]:
    """Log odds of the mean over rows in [0, 1], one row of each end added."""
    mean = (values.sum(0) + 1) / (len(values) + 2)
    return torch.logit(mean)


def _pilot(rbm: BinaryRBM, base_bias: Float[Tensor, " K"] | None, seed: int) -> RBMPilot:
    """Fit the base to an annealed run from fair coins, unless it is given; then measure the path from it."""
    betas = torch.linspace(0, 1, PILOT_STEPS + 1, dtype=rbm.weight.dtype, device=rbm.weight.device)
    with isolated(seed), torch.no_grad():
        path = _fitted_base(rbm, betas) if base_bias is None else _given_base(rbm, base_bias)
        steps = torch.stack(list(_increments(path, betas, path.base(PILOT_CHAINS))))
    return RBMPilot(path, steps.std(1))


def _increments(path: RBMPath, betas: Float[Tensor, " K"], v: Float[Tensor, "S V"]) -> Iterator[Float[Tensor, " S"]]:
    """Log f_after(v) − log f_before(v) from one temperature to the next, a block Gibbs step after each.

    Their sum has E exp = Z_last / Z_first where v is drawn at the first temperature; run backwards it is the reverse chain.
    """
    for before, after in pairwise(betas):
        fields = path.fields(v)
        yield path.log_f(after, fields) - path.log_f(before, fields)
        v = path.gibbs(after, fields)


def _annealed(path: RBMPath, betas: Float[Tensor, " K"], v: Float[Tensor, "S V"]) -> Float[Tensor, "S 1"]:
    log_w = v.new_zeros(len(v))
    for increment in _increments(path, betas, v):
        log_w = log_w + increment
    return log_w[:, None]


def _given_base(rbm: BinaryRBM, base_bias: Float[Tensor, " K"]) -> RBMPath:
    if base_bias.shape != rbm.visible_bias.shape or not bool(torch.isfinite(base_bias).all()):
        raise ValueError(
            f"expected finite base biases of shape {tuple(rbm.visible_bias.shape)}, got {tuple(base_bias.shape)}; "
            "give log_odds(training rows), or None"
        )
    return RBMPath(rbm, base_bias.detach().to(rbm.visible_bias), torch.zeros_like(rbm.hidden_bias))


def _fitted_base(rbm: BinaryRBM, betas: Float[Tensor, " K"]) -> RBMPath:
    """The base whose units are on as often as at the end of an annealed run from fair coins."""
    path = RBMPath(rbm, torch.zeros_like(rbm.visible_bias), torch.zeros_like(rbm.hidden_bias))
    v = path.base(PILOT_CHAINS)
    for beta in betas[1:]:
        v = path.gibbs(beta, path.fields(v))
    hidden = torch.sigmoid(path.hidden_inputs(betas[-1], path.fields(v)))
    return RBMPath(rbm, logit_of_mean(v), logit_of_mean(hidden))


def _variance(way: RBMWay, draws: Callable[[int, int], Float[Tensor, "S V"]] | None, seed: int) -> float:
    """Variance of the log weights of a few chains, the larger of both ways where exact draws are to be had."""
    variance = float(forward(way, PILOT_CHAINS, spawn(seed, 1)).var())
    if draws is None:
        return variance
    v = draws(PILOT_CHAINS, spawn(seed, 2))
    return max(variance, float(backward(way, v, spawn(seed, 3)).var()))
