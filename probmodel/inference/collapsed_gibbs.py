"""Collapsed Gibbs sampling of the assignments of a mixture of Gaussian processes (Rasmussen & Ghahramani, 2002)."""

import time
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probmodel.families.gaussian_processes.mixtures.assignments import Assigned, gibbs_sweep, log_joint
from probmodel.families.gaussian_processes.mixtures.assignments_smc import order_along_direction, smc_over_rows
from probmodel.families.gaussian_processes.mixtures.gates import log_prior_of_counts
from probmodel.inference.interrupts import Reached, until_interrupted, warn_interrupted
from probmodel.inference.variational_em import PARTICLES, checked_mixture
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.integers import check_counts, checked_seed, integer
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.randomness import isolated


@checks_fields
@dataclass(frozen=True)
class CollapsedGibbs:
    """Posterior draws of the assignments at the mixture's present hyperparameters, with the processes integrated out.

    Chains start at draws from the fitted responsibilities where there are any, else at draws by sequential Monte Carlo.

    Args:
        num_samples: number of assignments to keep per chain.
        num_warmup: number of sweeps per chain before the first assignment kept.
        num_chains: number of independent chains, run side by side.

    Reference:
        Rasmussen & Ghahramani (2002), sec. 3; Neal (2000).
    """

    num_samples: int = 50
    num_warmup: int = 50
    num_chains: int = 4

    def __post_init__(self) -> None:
        check_counts(self, "num_samples", "num_chains")

    @checks_arguments
    def __call__(self, model: Any, data: Dataset, *, seed: int) -> Posterior:
        """Sample the assignments of the rows to experts.

        Returns:
            Posterior of a copy of the mixture that has the drawn assignments as its responsibilities; the draws are at
            the site "assignments", (chain, draw, row), and `info["log_joint"]` is their log p(y, c | x) in nats.

        Raises:
            ValueError: for a model that is not a mixture of experts, data that it does not accept, or settings out of
                range.
        """
        mixture, x, y = checked_mixture(model, data)
        seed, begin = checked_seed(seed), time.perf_counter()
        num_samples, num_chains = integer("num_samples", self.num_samples), integer("num_chains", self.num_chains)
        num_warmup = integer("num_warmup", self.num_warmup, least=0)
        kept, log_p = [], []
        with isolated(seed), torch.no_grad():
            evaluated = mixture.assigned(x, y).double()
            c, reached = _starts(evaluated, mixture.responsibilities, x, num_chains), Reached(())
            with until_interrupted(reached):
                for sweep in range(num_warmup + num_samples):
                    c = gibbs_sweep(evaluated, c).c
                    if sweep >= num_warmup:
                        kept.append(c)
                        log_p.append(_log_p(evaluated, c))
                        reached.keep(len(kept))
        if reached.num_steps < num_samples:
            warn_interrupted("CollapsedGibbs", reached.num_steps, num_samples, "draws per chain")
        kept, log_p = kept[: reached.num_steps], log_p[: reached.num_steps]
        draws = torch.stack(kept, 1)
        one_hot = torch.nn.functional.one_hot(draws.flatten(0, 1), len(evaluated.residual)).to(x)
        occupied = (one_hot.sum(1) > 0).sum(-1)
        info = {
            "method": "CollapsedGibbs",
            "seed": seed,
            "log_joint": torch.stack(log_p, 1).tolist(),
            "interrupted": reached.num_steps < num_samples,
            "num_experts": occupied.bincount(minlength=1).argmax().item(),
            "seconds": time.perf_counter() - begin,
        }
        fitted = deepcopy(mixture).with_responsibilities(one_hot)
        return Posterior(fitted, data, {"assignments": draws}, info)


def _starts(model: Assigned, r: Tensor | None, x: Tensor, num_chains: int) -> Tensor:
    if r is not None:
        sets = torch.arange(num_chains, device=r.device) % len(r)
        return torch.distributions.Categorical(probs=r[sets]).sample()
    filters = [smc_over_rows(model, PARTICLES, order_along_direction(x)) for _ in range(num_chains)]
    return torch.stack([p.c[torch.distributions.Categorical(logits=p.log_weights).sample()] for p in filters])


def _log_p(model: Assigned, c: Tensor) -> Tensor:
    """Log p(y, c | x) per assignment, in nats."""
    counts = torch.nn.functional.one_hot(c, len(model.residual)).sum(1).to(model.residual)
    gate = model.log_input_factors.expand(len(c), -1, -1).gather(2, c[..., None]).sum((1, 2))
    return log_joint(model, c) + gate + log_prior_of_counts(model.count_prior, counts)
