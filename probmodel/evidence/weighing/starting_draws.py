"""Posterior draws that an estimator starts from: those of a fit, or particles of sequential Monte Carlo."""

import math
import time
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy.stats import chi2
from torch import Tensor

from probmodel.evidence.annealing.path import AnnealingPath
from probmodel.evidence.annealing.population import LEAST_RELATIVE_ESS, NUM_MOVES, TemperedPopulation, temper
from probmodel.evidence.annealing.reference import Prior, matched
from probmodel.evidence.annealing.schedule import decorrelated
from probmodel.evidence.weighing.closed_form import closed_form
from probmodel.evidence.weighing.label_switching import Symmetry, symmetrized, symmetry
from probmodel.evidence.weighing.modes import MAX_BLOCK, NO_MODES, Modes, missed_modes
from probmodel.evidence.weighing.starting_point import StartingPoint, starting_point
from probmodel.protocols.errors import EvidenceWarning, NotConjugateError, warn
from probmodel.protocols.posterior import Subject, Target
from probmodel.tracing.curvature import block_index
from probmodel.tracing.randomness import isolated, spawn

NUM_PARTICLES = 1_000

PARTICLES_PER_COORDINATE = 8

MAX_BYTES = 2**24

MAX_COORDINATES = 4_000_000
"""Largest number of bytes and of coordinates of a population; costly models, or ones of many rows, get fewer chains."""

GRADIENTS_PER_PARTICLE = 200
"""Gradients per particle from the prior to the posterior, a cautious guess."""

SECONDS_BEFORE_WARNING = 600.0
"""Expected seconds of a run up to which no warning is given."""

RHAT_OF_LONGER_RUN = 1.01
"""R-hat of two populations above which both are run again, longer."""

BY_CHANCE = 1e-4
"""Probability that independent populations of one distribution are taken for different ones."""

THOROUGH, THOROUGH_ESS = 3, 0.8
"""Factor on the moves of the longer runs, and the relative ESS that each of their temperature steps keeps."""

NUM_DECORRELATING = 12
"""Trajectories at β = 1 after which particles count as independent draws."""


class Explored(NamedTuple):
    """Result of a run from the prior, which finds the modes that a chain may miss.

    If ascents find modes that particles from the prior have missed, it is a second run, from those particles and modes.
    """

    path: AnnealingPath
    pilot: TemperedPopulation
    theta: Float[Tensor, "P D"]
    """Particles, moved until they count as independent draws."""
    modes: Modes
    """All modes that ascents have found, if particles from the prior missed one of them; else none."""


class StartingDraws(NamedTuple):
    """Draws that an estimator starts from."""

    target: Target
    theta: Float[Tensor, "C N D"]
    """Draws by chain, in unconstrained coordinates; labels of exchangeable components permuted at random."""
    exact: bool
    """True if the draws are independent and of the posterior itself, not of a chain or an approximation."""
    source: str
    """Source of the draws, in words."""
    symmetry: Symmetry | None
    modes: Modes = NO_MODES
    """Modes of a run from the prior that its particles alone would have missed."""
    disagreement: float = 1.0
    """Rank-normalized R-hat of two independent populations of particles; 1 for other draws."""

    @property
    def flat(self) -> Float[Tensor, "S D"]:
        return self.theta.flatten(0, 1)

    @property
    def fitted(self) -> Float[Tensor, "F D"]:
        """First half of each chain, to which proposals are fitted."""
        return self.theta[:, : self.theta.shape[1] // 2].flatten(0, 1)

    @property
    def scored(self) -> Float[Tensor, "H D"]:
        """Second half of each chain, to which no proposal is fitted."""
        return self.theta[:, self.theta.shape[1] // 2 :].flatten(0, 1)


def population(target: Target) -> int:
    """Number of chains to run at once: fewer if one needs much memory, but enough to estimate a covariance."""
    size = block_index(target).shape[1]
    few = max(NUM_PARTICLES // 2, PARTICLES_PER_COORDINATE * size)
    wanted = max(few, min(NUM_PARTICLES, MAX_BYTES // max(1, target.bytes_per_draw)))
    return max(32, min(wanted, NUM_PARTICLES, MAX_COORDINATES // max(1, target.dim)))


def posterior_draws(subject: Subject, seed: int) -> Float[Tensor, "S D"]:
    """Posterior draws in unconstrained coordinates: of a chain or an exact fit, else of sequential Monte Carlo."""
    return starting_draws(subject, seed).flat


def own_draws(subject: Subject, seed: int) -> Float[Tensor, "S D"]:
    """A fit's own draws, also of a guide, which suffice to place a proposal; for a target `posterior_draws`."""
    point = starting_point(subject)
    return chain_draws(point).flatten(0, 1) if point.model is not None else posterior_draws(subject, seed)


def chain_draws(point: StartingPoint) -> Float[Tensor, "C N D"]:
    """Posterior draws by chain, in unconstrained coordinates.

    Raises:
        ValueError: if there are no draws, they are of another model, or the density is not finite at one of them.
    """
    target = point.target
    if not point.draws:
        raise ValueError("expected draws, got a posterior without any; fit the model again and keep draws")
    chains = {tuple(draws.shape[:2]) for draws in point.draws.values()}
    if len(chains) > 1:
        raise ValueError(
            f"expected equal numbers of chains and draws at every site, got {sorted(chains)}; pass draws of one fit"
        )
    theta = target.unconstrain({name: draws.flatten(0, 1) for name, draws in point.draws.items()})
    if theta.shape[1] != target.dim:
        raise ValueError(
            f"expected draws of {target.dim} coordinates, got {theta.shape[1]} in shapes "
            f"{ {name: tuple(draws.shape[2:]) for name, draws in point.draws.items()} }; pass draws of the same model"
        )
    with torch.no_grad():
        bad = ~torch.isfinite(target.log_joint(theta))
    if bad.any():
        raise ValueError(
            f"expected a finite log density at every draw, got NaN or infinity at {int(bad.sum())} of {len(theta)}; the draws "
            "are of another model, or the model leaves its support: check the likelihood there"
        )
    count, each = chains.pop()
    return theta.reshape(count, each, target.dim)


@lru_cache(maxsize=8)
def starting_draws(subject: Subject, seed: int) -> StartingDraws:
    """Posterior draws: exact ones if there is a closed form, else a fit's own, else particles from the prior.

    Raises:
        ValueError: if there are no draws and the prior cannot be sampled, or the draws do not fit the model.
    """
    point = starting_point(subject)
    target = point.target
    own = chain_draws(point) if point.has_posterior_draws else None
    modes, is_population = NO_MODES, False
    independent = _exact_draws(point, spawn(seed, 4))
    if independent is not None:
        theta, source = independent[None], "exact draws"
    elif own is not None:
        theta, source = own, f"draws by {point.info.get('method', 'a sampler')}"
    else:
        seen = explored(target, seed)
        theta, source, modes = _particles(seen, seed)[None], "particles of sequential Monte Carlo", seen.modes
        is_population = True
    found = symmetry(target, theta.flatten(0, 1))
    if found is not None:
        with isolated(spawn(seed, 3)):
            theta = symmetrized(target, theta.flatten(0, 1), found).reshape(theta.shape)
    differing = population_rhat(*theta[0].chunk(2)) if is_population else 1.0
    return StartingDraws(target, theta, independent is not None, source, found, modes, differing)


@lru_cache(maxsize=8)
def explored(target: Target, seed: int) -> Explored:
    """Result of sequential Monte Carlo from the prior to the posterior.

    Raises:
        ValueError: if the prior cannot be sampled, or none of its draws has a finite density.
    """
    prior = Prior(target, spawn(seed, 1))
    path = AnnealingPath(prior, target)
    if target.improper:
        raise ValueError(
            f"expected a prior that can be sampled, got improper ones of {list(target.improper)}; fit the model with NUTS "
            "first"
        )
    _warn_if_slow(path, target)
    found = _tempered(path, spawn(seed, 2), NO_MODES)
    modes = missed_modes(target, found.theta, found.pilot.log_z, prior.sample(population(target)), spawn(seed, 6))
    if not modes:
        return found
    return _tempered(AnnealingPath(modes.joined(matched(target, found.theta)), target), spawn(seed, 7), modes)


def _tempered(path: AnnealingPath, seed: int, modes: Modes, *, thorough: bool = False) -> Explored:
    factor = THOROUGH if thorough else 1
    with isolated(seed):
        pilot = temper(
            path,
            population(path.target),
            relative_ess=THOROUGH_ESS if thorough else LEAST_RELATIVE_ESS,
            num_moves=factor * NUM_MOVES,
        )
        theta = decorrelated(path, pilot.point, pilot.kernels[-1], factor * NUM_DECORRELATING).theta
    return Explored(path, pilot, theta, modes)


def _warn_if_slow(path: AnnealingPath, target: Target) -> None:
    """Warn of the expected time of a run whose chains are evaluated one by one, before it begins."""
    if not path.batched.eager:
        return
    theta = target.sample_prior(1, 0)
    begin = time.perf_counter()
    path.at(theta, 0.5)
    expected = (time.perf_counter() - begin) * population(target) * GRADIENTS_PER_PARTICLE
    if expected > SECONDS_BEFORE_WARNING:
        warn(
            f"particles from the prior will take about {expected / 3600:.1f} hours, since this model runs one chain at a time; "
            "use evidence.iwae of an SVI fit, a lower bound in seconds, or a GPU, which runs chains in parallel",
            EvidenceWarning,
        )


def _particles(found: Explored, seed: int) -> Float[Tensor, "S D"]:
    """Particles, and as many of a second run from a Student-t around them; two longer runs if these differ.

    What is fitted to the first half is evaluated on the second, which knows nothing of it but the base.
    """
    target = found.path.target
    if block_index(target).shape[1] > MAX_BLOCK:
        with isolated(spawn(seed, 5)):
            point = found.path.at(found.theta, 1.0)
            return torch.cat(
                [found.theta, decorrelated(found.path, point, found.pilot.kernels[-1], NUM_DECORRELATING).theta]
            )
    second = _again(found.theta, found, spawn(seed, 5))
    pooled = torch.cat([found.theta, second])
    if population_rhat(found.theta, second) <= rhat_limit(RHAT_OF_LONGER_RUN, *second.shape):
        return pooled
    return torch.cat([_again(pooled, found, spawn(seed, branch), thorough=True) for branch in (8, 9)])


def _again(theta: Float[Tensor, "P D"], found: Explored, seed: int, *, thorough: bool = False) -> Float[Tensor, "Q D"]:
    base = found.modes.joined(matched(found.path.target, theta))
    return _tempered(AnnealingPath(base, found.path.target), seed, found.modes, thorough=thorough).theta


def population_rhat(first: Float[Tensor, "P D"], second: Float[Tensor, "P D"]) -> float:
    """Largest rank-normalized R-hat over coordinates, and over their distances from the median, of two populations.

    Reference:
        Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), "Rank-normalization, folding, and localization".
    """
    # Interleaved, so that ties are broken in favor of neither.
    draws = torch.stack([first, second], 1).flatten(0, 1).double()
    folded = (draws - draws.median(0).values).abs()
    ranks = torch.cat([draws, folded], 1).argsort(dim=0, stable=True).argsort(dim=0) + 1.0
    scores = torch.special.ndtri((ranks - 0.375) / (len(draws) + 0.25)).reshape(len(first), 2, -1)
    within = scores.var(0).mean(0)
    between = (scores[:, 0].mean(0) - scores[:, 1].mean(0)).square() / 2
    return float((1 - 1 / len(first) + between / within).sqrt().max())


def rhat_limit(limit: float, num_particles: int, num_coordinates: int) -> float:
    """The limit, or the R-hat that independent populations of one distribution exceed by chance, if that is larger."""
    chi_square = float(chi2.isf(BY_CHANCE / (2 * num_coordinates), 1))
    return max(limit, math.sqrt(1 + chi_square / num_particles))


def _exact_draws(point: StartingPoint, seed: int) -> Float[Tensor, "S D"] | None:
    """Independent draws of a posterior in closed form, or those that an exact fit has kept; None if there are none."""
    target = point.target
    if point.has_exact_draws:
        return chain_draws(point).flatten(0, 1)
    try:
        exact = closed_form(point.subject)
    except NotConjugateError:
        return None
    with isolated(seed), torch.no_grad():
        if exact.gaussian is not None:
            return exact.gaussian.sample(2 * population(target))
        if exact.guide is not None:
            return target.unconstrain(exact.guide.draws(2 * population(target)))
        return target.unconstrain(
            {name: each.sample((2 * population(target),)) for name, each in exact.by_site.items()}
        )
