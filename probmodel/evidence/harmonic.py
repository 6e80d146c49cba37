"""Learned harmonic mean estimate of the evidence (McEwen et al., 2021) by normalizing flows (Polanska et al., 2024)."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.draws.diagnostics import mcse_mean
from probmodel.evidence.weighing.starting_draws import posterior_draws
from probmodel.evidence.weighing.weights import ONE_SIDED, plain, warn_if_untrusted, weighted_mean
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject
from probmodel.protocols.session.progress import shows_progress, tick
from probmodel.tracing.randomness import isolated, preserving_validation
from probmodel.tracing.target import target_of

try:
    with preserving_validation():  # It turns the checks of all distributions off.
        import zuko

    HAS_ZUKO = True
except ImportError:
    HAS_ZUKO = False

DRAWS_PER_COORDINATE = 5
"""Draws needed per coordinate for a full covariance matrix; with fewer it is diagonal."""
FEWEST_DRAWS = 40
"""Least number of draws: with fewer, neither half can train a density or show the spread of its weights."""
HELD_OUT_FRACTION = 0.25
"""Fraction of the training half that decides when training stops."""
PATIENCE = 20
"""Optimizer steps without improvement on the held-out draws after which training stops."""


class AffineMap(NamedTuple):
    """Affine map z → θ = loc + scale_tril z that gives a standard normal z the mean and covariance of given draws."""

    loc: Float[Tensor, " D"]
    scale_tril: Float[Tensor, "D D"]

    def __call__(self, z: Float[Tensor, "S D"]) -> Float[Tensor, "S D"]:
        return self.loc + z @ self.scale_tril.T

    def inverse(self, theta: Float[Tensor, "S D"]) -> Float[Tensor, "S D"]:
        """Standardized coordinates z of each draw."""
        return torch.linalg.solve_triangular(self.scale_tril, (theta - self.loc).T, upper=False).T

    def log_det(self) -> Float[Tensor, ""]:
        """Log determinant log |dθ/dz|."""
        return self.scale_tril.diagonal().log().sum()


def affine_map_of(theta: Float[Tensor, "S D"], weights: Float[Tensor, " S"] | None = None) -> AffineMap:
    """Affine map to the mean and covariance of draws, or to their variances alone where draws are few.

    Args:
        theta: the draws.
        weights: one per draw, summing to one; None for equal weights.
    """
    weights = theta.new_full((len(theta),), 1 / len(theta)) if weights is None else weights
    loc = weights @ theta
    centered = theta - loc
    variance = weights @ centered.square()
    # A constant coordinate needs a positive width for the map to be invertible.
    variance = variance.clamp_min(torch.finfo(theta.dtype).tiny ** 0.5)
    if 1 / weights.square().sum() < DRAWS_PER_COORDINATE * theta.shape[1]:
        return AffineMap(loc, torch.diag(variance.sqrt()))
    covariance = centered.T @ (weights[:, None] * centered)
    # One part in a million of each variance keeps rounding errors from making the matrix indefinite.
    return AffineMap(loc, torch.linalg.cholesky(covariance + 1e-6 * torch.diag(variance)))


@checks_arguments
@shows_progress
def harmonic(
    subject: Subject,
    *,
    seed: int = 0,
    temperature: float = 0.8,
    num_layers: int = 2,
    hidden_features: int = 32,
    num_steps: int = 300,
    progress: bool = True,
) -> Evidence:
    """Learned harmonic mean estimate −log 1/S Σ_s φ(θ_s) / p(data, θ_s), θ_s ~ p(θ | data), in nats.

    φ is a neural spline flow, trained by maximum likelihood on one half of the posterior's draws in coordinates
    standardized by their moments.  Its base is then narrowed to the variance `temperature`, so that φ lies inside the
    posterior and the weights are bounded.  The mean is over the other half, and its standard error includes the
    autocorrelation of a chain.

    Args:
        subject: a fit, or a target.
        seed: random seed of the flow, and of any draws that the subject does not hold.
        temperature: variance of the flow's base, in (0, 1]; 0.8–0.9 by Polanska et al. (2024).
        num_layers: number of spline transforms of the flow.
        hidden_features: width of the two hidden layers of each transform.
        num_steps: largest number of Adam steps; training stops earlier if the loss of held-out draws stops falling.
        progress: whether to show what is being computed.

    Returns:
        Evidence with `upper` at 95 %: the estimate of 1/Z is unbiased, so that of log Z is biased upwards.  `info`
        holds the number of draws in the mean, the relative ESS of their weights, and k-hat.

    Raises:
        ImportError: if the package zuko is not installed.
        ValueError: if the temperature is outside (0, 1], or there are too few draws.
    """
    if not HAS_ZUKO:
        raise ImportError("expected the package zuko, got none; pip install 'probmodel[flows]'")
    if not 0 < temperature <= 1:
        raise ValueError(f"expected a temperature in (0, 1], got {temperature}; pass 0.8 to 0.9, as is usual")
    target = target_of(subject)
    if target.dim == 0:
        log_z = plain(target)
        return Evidence(log_z, 0.0, log_z, log_z, method="harmonic", given=target.given, digest=target.digest)
    theta = posterior_draws(subject, seed).detach()
    if len(theta) < FEWEST_DRAWS:
        raise ValueError(f"expected at least {FEWEST_DRAWS} posterior draws, got {len(theta)}; keep more draws")
    # Contiguous halves: neighbors in a chain are dependent, and must not be in both halves.
    training, rest = theta[: len(theta) // 2], theta[len(theta) // 2 :]
    with isolated(seed):
        flow, affine = _fit(training, num_layers, hidden_features, num_steps)
    with torch.no_grad():
        log_w = _log_density(flow, affine, rest, temperature) - target.log_joint(rest)
    mean = weighted_mean(log_w[:, None])
    mean = mean._replace(stderr=max(mean.stderr, _chain_error(log_w, mean.log_mean)))
    warn_if_untrusted("harmonic", mean, "lower the temperature, or keep more posterior draws")
    return Evidence(
        -mean.log_mean,
        mean.stderr,
        upper=-mean.log_mean + ONE_SIDED[0.95] * mean.stderr,
        method="harmonic",
        given=target.given,
        digest=target.digest,
        info={
            "num_samples": len(rest),
            "k_hat": mean.k_hat,
            "relative_ess": mean.relative_ess,
            "temperature": temperature,
        },
    )


def _chain_error(log_w: Float[Tensor, " S"], log_mean: float) -> float:
    """Relative standard error of the mean weight of consecutive draws of a chain; 0 where it cannot be estimated."""
    relative = torch.exp(log_w.double() - log_mean).cpu().numpy()
    return float(np.nan_to_num(mcse_mean({"w": relative[None]})["w"]))


def _fit(
    theta: Float[Tensor, "S D"], num_layers: int, hidden_features: int, num_steps: int
) -> tuple[nn.Module, AffineMap]:
    """Flow of highest held-out likelihood in a training from the identity: never worse there than a matched normal."""
    held_out = max(1, int(HELD_OUT_FRACTION * len(theta)))
    affine = affine_map_of(theta[held_out:])
    test, train = affine.inverse(theta).split([held_out, len(theta) - held_out])
    flow = _identity(theta, num_layers, hidden_features)
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    best_loss, best, since = math.inf, _state(flow), 0
    for _ in range(num_steps):
        tick()
        with torch.no_grad():
            loss = float(-flow().log_prob(test).mean())
        since = 0 if loss < best_loss else since + 1
        if loss < best_loss:
            best_loss, best = loss, _state(flow)
        if since > PATIENCE:
            break
        optimizer.zero_grad()
        (-flow().log_prob(train).mean()).backward()
        optimizer.step()
    flow.load_state_dict(best)
    return flow, affine


def _identity(theta: Float[Tensor, "S D"], num_layers: int, hidden_features: int) -> nn.Module:
    """Neural spline flow (Durkan et al., 2019), initialized as the identity."""
    dim = theta.shape[1]
    flow = zuko.flows.NSF(dim, transforms=num_layers, hidden_features=(hidden_features,) * 2, bins=8)
    for layer in flow.transform.transforms:
        leaves = list(layer.parameters())
        # With one coordinate the spline's knots are parameters; with more, a network's last layer produces them.
        for leaf in leaves if dim == 1 else leaves[-2:]:
            nn.init.zeros_(leaf)
    return flow.to(theta)


def _state(flow: nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in flow.state_dict().items()}


def _log_density(
    flow: nn.Module, affine: AffineMap, theta: Float[Tensor, "S D"], temperature: float
) -> Float[Tensor, " S"]:
    """Log density log φ(θ) of the flow with its base N(0, I) narrowed to N(0, temperature · I)."""
    z, log_det = flow().transform.call_and_ladj(affine.inverse(theta))
    scale = torch.full_like(z, math.sqrt(temperature))
    return torch.distributions.Normal(0.0, scale).log_prob(z).sum(-1) + log_det - affine.log_det()
