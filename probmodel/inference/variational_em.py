"""Assignments of rows to Gaussian-process experts, and the experts' hyperparameters, by variational EM (Tresp, 2001)."""

import time
import warnings
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.form import inputs_and_observations
from probmodel.gaussian_processes.assignments import Assigned, gibbs_sweep, log_joint
from probmodel.gaussian_processes.assignments_smc import order_along_direction, smc_over_rows
from probmodel.gaussian_processes.gates import Gate, log_sizes
from probmodel.gaussian_processes.soft_assignments import bound, improved
from probmodel.inference.chains import ConvergenceWarning
from probmodel.inference.quasi_newton import climbed
from probmodel.integers import checked_seed, integer
from probmodel.ownership import placed
from probmodel.protocols import Dataset, Posterior
from probmodel.structural import Structural
from probmodel.target import check_training
from probmodel.tracing import isolated, spawn

PARTICLES = 20
"""Of the filter over rows that a start is drawn from."""
SOFTENING = 0.1
"""Share of a start's responsibilities spread over all experts, so that no row is settled before the first step."""
SMALLEST = 1e-12
"""Responsibility below which a row is as good as not the expert's."""
OCCUPIED = 0.5
"""Rows that an expert needs to count as one."""


@runtime_checkable
class Mixture(Protocol, metaclass=Structural):
    """A model of rows that belong to experts."""

    responsibilities: Tensor | None
    gate: Gate

    def assigned(self, x: Tensor, y: Tensor) -> Assigned: ...

    def with_responsibilities(self, r: Float[Tensor, "S n K"]) -> Any: ...

    def parameters(self) -> Any: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True)
class VariationalEM:
    """Climb the variational bound of a mixture of Gaussian processes, from several starts; the highest is kept.

    A start is an assignment drawn by sequential Monte Carlo over the rows in the order of the inputs, which follows functions
    that cross, or in turn one of regions of the inputs, which suits experts that follow each other.  Some rounds of E-steps
    in closed form and M-steps by L-BFGS settle each; the best ones are then climbed to the end by L-BFGS over
    responsibilities and parameters at once, where EM alone would creep.

    Args:
        num_restarts: starts.
        num_finalists: starts that are climbed to the end.
        num_rounds: of E- and M-steps of every start.
        num_steps: of L-BFGS in an M-step, and E-steps after it.
        max_steps: of the last climb.
        tolerance: nats; a step of the last climb that gains less ends it.

    Reference:
        Lázaro-Gredilla, Van Vaerenbergh & Lawrence (2012), sec. 3; Tresp (2001).
    """

    num_restarts: int = 16
    num_finalists: int = 4
    num_rounds: int = 6
    num_steps: int = 6
    max_steps: int = 500
    tolerance: float = 1e-3

    def __call__(self, model: Any, data: Dataset, *, seed: int) -> Posterior:
        """Fit a copy of the mixture; its `responsibilities` are q(c), and `info["bound"]` the bound in nats.

        Raises:
            ValueError: for a model that is no mixture of experts, or data that it does not take.
        """
        mixture, x, y = _checked(model, data)
        seed, begin = checked_seed(seed), time.perf_counter()
        starts = range(integer("num_restarts", self.num_restarts))
        found = [self._started(deepcopy(mixture), x, y, start, spawn(seed, start)) for start in starts]
        found.sort(key=lambda each: each.bound, reverse=True)
        finalists = found[: integer("num_finalists", self.num_finalists)]
        best = max((self._finished(each, x, y) for each in finalists), key=lambda each: each.bound)
        if not best.settled:
            warnings.warn(
                f"VariationalEM: the bound still rose after {self.max_steps} steps; raise max_steps",
                ConvergenceWarning,
                stacklevel=2,
            )
        counts = best.r.sum(0)
        info = {
            "method": "VariationalEM",
            "seed": seed,
            "bound": best.bound - float(best.mixture.gate.log_prior().detach()),
            "starts": [each.bound for each in found],
            "rows_by_expert": counts.tolist(),
            "num_experts": int((counts > OCCUPIED).sum()),
            "seconds": time.perf_counter() - begin,
        }
        return Posterior(best.mixture.with_responsibilities(best.r[None]), data, {}, info)

    def _started(self, mixture: Any, x: Tensor, y: Tensor, start: int, seed: int) -> "_Climbed":
        with isolated(seed), torch.no_grad():
            evaluated = mixture.assigned(x, y)
            r = (_by_particles if start % 2 == 0 else _by_region)(evaluated, x)
        leaves, value = _leaves(mixture), -np.inf
        for _ in range(integer("num_rounds", self.num_rounds)):
            climbed(partial(_bound, mixture, x, y, r), leaves, max_steps=self.num_steps, tolerance=0.0)
            with torch.no_grad():
                evaluated = mixture.assigned(x, y)
                for _ in range(self.num_steps):
                    r = improved(evaluated, r[None])[0]
                value = float(_bound(mixture, x, y, r))
        return _Climbed(mixture, r, value, False)

    def _finished(self, start: "_Climbed", x: Tensor, y: Tensor) -> "_Climbed":
        mixture = start.mixture
        logits = start.r.clamp(min=SMALLEST).log().requires_grad_(True)

        def value() -> Tensor:
            return _bound(mixture, x, y, logits.softmax(-1))

        leaves = [*_leaves(mixture), logits]
        settled = climbed(value, leaves, max_steps=self.max_steps, tolerance=self.tolerance).settled
        with torch.no_grad():
            evaluated, r = mixture.assigned(x, y), logits.softmax(-1)
            for _ in range(self.num_steps):
                r = improved(evaluated, r[None])[0]
            return _Climbed(mixture, r, float(_bound(mixture, x, y, r)), settled)


class _Climbed(NamedTuple):
    mixture: Any
    r: Float[Tensor, "n K"]
    bound: float
    """With the log prior of the gate's parameters."""
    settled: bool


@dataclass(frozen=True)
class CollapsedGibbs:
    """Draws of the assignments at the hyperparameters that the mixture has, the processes integrated out.

    Chains start at the fitted responsibilities where there are any, else at draws by sequential Monte Carlo.

    Args:
        num_draws: kept of each chain.
        num_warmup: sweeps before them.
        num_chains: side by side.

    Reference:
        Rasmussen & Ghahramani (2002), sec. 3; Neal (2000).
    """

    num_draws: int = 50
    num_warmup: int = 50
    num_chains: int = 4

    def __call__(self, model: Any, data: Dataset, *, seed: int) -> Posterior:
        """The mixture with the drawn assignments as its responsibilities; the draws are at the site "assignments".

        Raises:
            ValueError: for a model that is no mixture of experts, or data that it does not take.
        """
        mixture, x, y = _checked(model, data)
        seed, begin = checked_seed(seed), time.perf_counter()
        num_draws, num_chains = integer("num_draws", self.num_draws), integer("num_chains", self.num_chains)
        num_warmup = integer("num_warmup", self.num_warmup, least=0)
        kept, log_p = [], []
        with isolated(seed), torch.no_grad():
            evaluated = mixture.assigned(x, y).double()
            c = _starts(evaluated, mixture.responsibilities, x, num_chains)
            for sweep in range(num_warmup + num_draws):
                c = gibbs_sweep(evaluated, c).c
                if sweep >= num_warmup:
                    kept.append(c)
                    log_p.append(_log_p(evaluated, c))
        draws = torch.stack(kept, 1)
        one_hot = torch.nn.functional.one_hot(draws.flatten(0, 1), len(evaluated.residual)).to(x)
        occupied = (one_hot.sum(1) > 0).sum(-1)
        info = {
            "method": "CollapsedGibbs",
            "seed": seed,
            "log_joint": torch.stack(log_p, 1).tolist(),
            "num_experts": occupied.bincount(minlength=1).argmax().item(),
            "seconds": time.perf_counter() - begin,
        }
        fitted = deepcopy(mixture).with_responsibilities(one_hot)
        return Posterior(fitted, data, {"assignments": draws}, info)


def _checked(model: Any, data: Dataset) -> tuple[Any, Tensor, Tensor]:
    if not isinstance(model, Mixture):
        raise ValueError(f"expected a GPMixture, got {type(model).__name__}; fit one process by MaximumLikelihood")
    check_training(model, data)
    return placed(model, data), *inputs_and_observations(data)


def _bound(mixture: Any, x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return bound(mixture.assigned(x, y), r[None])[0] + mixture.gate.log_prior().to(r)


def _leaves(mixture: Any) -> list[Tensor]:
    return [each for each in mixture.parameters() if each.requires_grad]


def _by_particles(model: Assigned, x: Tensor) -> Float[Tensor, "n K"]:
    """One assignment drawn by a filter over rows in the order of a random direction of the inputs."""
    particles = smc_over_rows(model, PARTICLES, order_along_direction(x))
    c = particles.c[torch.distributions.Categorical(logits=particles.log_weights).sample()]
    return _softened(c, len(model.residual), x)


def _by_region(model: Assigned, x: Tensor) -> Float[Tensor, "n K"]:
    """Each row to the nearest of K rows drawn at random."""
    centres = x[torch.randperm(len(x))[: len(model.residual)]]
    return _softened(torch.cdist(x, centres).argmin(1), len(model.residual), x)


def _softened(c: Tensor, num_experts: int, x: Tensor) -> Float[Tensor, "n K"]:
    hard = torch.nn.functional.one_hot(c, num_experts).to(x)
    return (1 - SOFTENING) * hard + SOFTENING / num_experts


def _starts(model: Assigned, r: Tensor | None, x: Tensor, num_chains: int) -> Tensor:
    if r is not None:
        sets = torch.arange(num_chains, device=r.device) % len(r)
        return torch.distributions.Categorical(probs=r[sets]).sample()
    filters = [smc_over_rows(model, PARTICLES, order_along_direction(x)) for _ in range(num_chains)]
    return torch.stack([p.c[torch.distributions.Categorical(logits=p.log_weights).sample()] for p in filters])


def _log_p(model: Assigned, c: Tensor) -> Tensor:
    """Log p(y, c | x) of each assignment, nats."""
    counts = torch.nn.functional.one_hot(c, len(model.residual)).sum(1).to(model.residual)
    gate = model.log_rows.expand(len(c), -1, -1).gather(2, c[..., None]).sum((1, 2))
    return log_joint(model, c) + gate + log_sizes(model.coupling, counts)
