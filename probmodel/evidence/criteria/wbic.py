"""Widely applicable Bayesian information criterion (Watanabe, 2013), a crude approximation of the evidence."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Chi2, Normal

from probmodel.evidence.criteria.bic import num_rows
from probmodel.evidence.harmonic import AffineMap, affine_map_of
from probmodel.evidence.weighing.starting_draws import posterior_draws
from probmodel.evidence.weighing.weights import ESS_LIMIT, plain
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.errors import EvidenceWarning, warn
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject, Target
from probmodel.protocols.session.progress import shows_progress
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target_of

DEGREES_OF_FREEDOM = 5.0
"""Degrees of freedom of the proposal: tails heavier than any normal's, light enough to keep draws near the mode."""
INFLATION = 1.2
"""Ratio of a proposal's covariance to that of the draws it is matched to, since the next temperature is higher."""
ROUND_FRACTION = 4
"""Draws of the final mean per draw of a round, which only has to find the moments of the next proposal."""
LEAST_ESS = 0.3
"""Least relative ESS of a round's draws at the temperature that it steps to."""
MAX_ROUNDS = 50
DRAWS_PER_CONTROL = 10
"""Draws needed per control variate; with fewer the products of different coordinates are left out."""


@checks_arguments
@shows_progress
def wbic(subject: Subject, *, seed: int = 0, num_samples: int = 20_000, progress: bool = True) -> Evidence:
    """Mean log likelihood E[log p(data | θ)] under p(θ) p(data | θ)^β, β = 1 / log N, in nats; not a reliable log Z.

    Its error is O(√log N), O(log log N) for a singular model, with a constant that can exceed a nat; no draws show it.
    The mean is by importance sampling from a Student-t with 5 degrees of freedom, matched to posterior draws and then
    to its own weighted draws, while the temperature rises from 1 to log N as fast as the weights allow.  Control
    variates, exact for a normal tempered posterior, remove most of the Monte Carlo noise.

    Args:
        subject: a fit, or a target, where N is the number of its observations.
        seed: random seed of the proposals, and of any draws that the subject does not hold.
        num_samples: number of proposals for the mean; each round of the temperature schedule takes a quarter of it.
        progress: whether to show what is being computed.

    Returns:
        Evidence without bounds, whose `stderr` is nan; `info` holds β, the Monte Carlo standard error `mc_stderr` of
        the mean itself, and the relative ESS.

    Raises:
        ValueError: if the data have no rows or fewer than three, or every row has latents of its own.
    """
    target, rows = target_of(subject), num_rows(subject)
    if rows < 3:
        raise ValueError(f"expected at least 3 rows, for a temperature above 1, got {rows}; add data")
    beta = 1 / math.log(rows)
    found = _Mean(plain(target), 0.0, 1.0) if target.dim == 0 else _sample(subject, target, beta, num_samples, seed)
    if found.relative_ess < ESS_LIMIT:
        warn(
            f"wbic: relative ESS {found.relative_ess:.2%} < {ESS_LIMIT:.0%}; raise num_samples, or reparametrize towards a "
            "normal posterior",
            EvidenceWarning,
        )
    return Evidence(
        found.value,
        math.nan,
        method="wbic (crude)",
        given=target.given,
        digest=target.digest,
        info={
            "num_rows": rows,
            "beta": beta,
            "mc_stderr": found.stderr,
            "relative_ess": found.relative_ess,
            "num_samples": num_samples,
        },
    )


class _Mean(NamedTuple):
    value: float
    stderr: float
    relative_ess: float


class _Proposals(NamedTuple):
    """Draws of the proposal, z in standardized coordinates, and all log densities that enter their weights, in nats."""

    z: Float[Tensor, "S D"]
    theta: Float[Tensor, "S D"]
    log_prior: Float[Tensor, " S"]
    log_likelihood: Float[Tensor, " S"]
    log_t: Float[Tensor, " S"]
    """Log density of z under the standardized proposal."""

    def weights(self, beta: float) -> Float[Tensor, " S"]:
        """Importance weights for the posterior at inverse temperature `beta`, which sum to one."""
        return torch.softmax(self.log_prior + beta * self.log_likelihood - self.log_t, 0)

    def relative_ess(self, beta: float) -> float:
        """Relative ESS of the draws (Kong, 1992)."""
        return float(1 / self.weights(beta).square().sum()) / len(self.z)


def _sample(subject: Subject, target: Target, beta: float, num_samples: int, seed: int) -> _Mean:
    base, reached = affine_map_of(posterior_draws(subject, seed).detach().double()), 1.0
    with isolated(seed), torch.no_grad():
        for _ in range(MAX_ROUNDS):
            drawn = _propose(target, _wider(base), num_samples // ROUND_FRACTION)
            reached = _lowest(drawn, beta, reached)
            base = affine_map_of(drawn.theta, drawn.weights(reached))
            if reached <= beta:
                break
        # For a normal tempered posterior the controls remove all noise if the proposal has its moments.
        drawn = _propose(target, base, num_samples)
        return _controlled_mean(_propose(target, affine_map_of(drawn.theta, drawn.weights(beta)), num_samples), beta)


def _wider(base: AffineMap) -> AffineMap:
    return base._replace(scale_tril=math.sqrt(INFLATION) * base.scale_tril)


def _lowest(drawn: _Proposals, beta: float, reached: float) -> float:
    """Lowest inverse temperature from `beta` to `reached` at which the weights keep `LEAST_ESS`, by bisection."""
    if drawn.relative_ess(beta) >= LEAST_ESS:
        return beta
    low, high = beta, reached
    for _ in range(20):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if drawn.relative_ess(middle) >= LEAST_ESS else (middle, high)
    return high


def _propose(target: Target, base: AffineMap, num_samples: int) -> _Proposals:
    z, log_t = _student(base, num_samples)
    theta = base(z)
    there = theta.to(target.dtype)
    log_prior, log_likelihood = target.log_prior(there).double(), target.log_likelihood(there).double()
    # Beyond the range of its dtype a model returns nan or infinity; the density there is zero.
    finite = torch.isfinite(log_prior) & torch.isfinite(log_likelihood)
    log_prior = torch.where(finite, log_prior, -math.inf)
    return _Proposals(z, theta, log_prior, torch.where(finite, log_likelihood, 0.0), log_t)


def _student(base: AffineMap, num_samples: int) -> tuple[Float[Tensor, "S D"], Float[Tensor, " S"]]:
    """Draws of the standard Student-t of unit covariance, and their log densities."""
    dim, nu = len(base.loc), base.loc.new_tensor(DEGREES_OF_FREEDOM)
    shrink = ((nu - 2) / nu).sqrt()
    stretch = (Chi2(nu).sample((num_samples, 1)) / nu).rsqrt()
    z = shrink * stretch * torch.randn(num_samples, dim, dtype=base.loc.dtype, device=base.loc.device)
    squared = (z / shrink).square().sum(-1)
    log_t = (
        torch.lgamma((nu + dim) / 2)
        - torch.lgamma(nu / 2)
        - dim / 2 * torch.log(nu * torch.pi)
        - dim * shrink.log()
        - (nu + dim) / 2 * torch.log1p(squared / nu)
    )
    return z, log_t


def _controlled_mean(drawn: _Proposals, beta: float) -> _Mean:
    """Σ w L / Σ w, both sums by regression on controls whose mean under the proposal is known (Owen, 2013, section 8.9)."""
    count = len(drawn.z)
    weights = count * drawn.weights(beta)
    rough = weights @ drawn.log_likelihood / count
    centered = drawn.log_likelihood - rough  # A constant common to both sums would only add rounding errors.
    controls = _controls(drawn.z, drawn.log_t)
    design = torch.cat([torch.ones_like(weights)[:, None], controls], 1)
    responses = torch.stack([weights * centered, weights], 1)
    coefficients = torch.linalg.lstsq(design, responses, driver="gelsd").solution
    numerator, denominator = coefficients[0]
    value = numerator / denominator
    residual = responses - design @ coefficients
    spread = (residual[:, 0] - value * residual[:, 1]).square().sum() / (count - design.shape[1])
    return _Mean(float(rough + value), float((spread / count).sqrt() / denominator), drawn.relative_ess(beta))


def _controls(z: Float[Tensor, "S D"], log_t: Float[Tensor, " S"]) -> Float[Tensor, "S C"]:
    """Control variates r − 1, r z_i, r (z_i z_j − δ_ij) with r = N(z; 0, I) / t(z), each of mean zero under t."""
    count, dim = z.shape
    ratio = torch.exp(Normal(0.0, torch.ones_like(z)).log_prob(z).sum(-1) - log_t)[:, None]
    products = torch.triu_indices(dim, dim)
    if DRAWS_PER_CONTROL * (products.shape[1] + dim + 1) > count:
        products = torch.arange(dim).expand(2, -1)
    first, second = products.to(z.device)
    squares = z[:, first] * z[:, second] - (first == second).to(z)
    return torch.cat([ratio - 1, ratio * z, ratio * squares], 1)
