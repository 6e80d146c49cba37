"""Approximation gap and amortization gap of a guide (Cremer, Li & Duvenaud, 2018)."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from probmodel.diagnosis.experiments.mean_field import best_mean_field
from probmodel.evidence.weighing.weights import guide_weights, theta_draws
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.methods import Estimator
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.target import target_of

NARROWEST = 1e-3
"""Smallest initial standard deviation, used if all draws of a guide are equal as those of a point estimate are."""


@dataclass(frozen=True, eq=False)
class Gaps:
    """Gaps in log Z ≥ best ELBO of the family ≥ ELBO of the guide, in nats over the data set.

    Args:
        evidence: estimate of log Z.
        best_by_row: ELBO of the best factorized normal, (R,); R = 1 if rows share latents.
        best_stderr: Monte Carlo error of the sum of `best_by_row`.
        elbo_by_row: ELBO of the guide, (R,).
        elbo_stderr: Monte Carlo error of the sum of `elbo_by_row`.
    """

    evidence: Evidence
    best_by_row: Float[Tensor, " R"]
    best_stderr: float
    elbo_by_row: Float[Tensor, " R"]
    elbo_stderr: float

    @property
    def approximation(self) -> float:
        """Log Z − best ELBO of the family, nats; positive because the posterior is not a factorized normal."""
        return self.evidence.log_z - float(self.best_by_row.sum())

    @property
    def approximation_stderr(self) -> float:
        """Monte Carlo error of `approximation`; nan if the evidence has none."""
        return math.hypot(self.evidence.stderr, self.best_stderr)

    @property
    def amortization(self) -> float:
        """Best ELBO of the family − ELBO of the guide, nats: the cost of one encoder for all rows, or of too few steps."""
        return float(self.amortization_by_row.sum())

    @property
    def amortization_by_row(self) -> Float[Tensor, " R"]:
        """Amortization gap per row, in nats."""
        return self.best_by_row - self.elbo_by_row

    @property
    def amortization_stderr(self) -> float:
        """Monte Carlo error of `amortization`."""
        return math.hypot(self.best_stderr, self.elbo_stderr)

    def __str__(self) -> str:
        rows = len(self.best_by_row)
        return "\n".join(
            [
                f"approximation gap: {self.approximation:.4f} ± {self.approximation_stderr:.2g} nats "
                f"({self.approximation / rows:.4f} per row of {rows})",
                f"amortization gap:  {self.amortization:.4f} ± {self.amortization_stderr:.2g} nats "
                f"({self.amortization / rows:.4f} per row of {rows})",
            ]
        )


@checks_arguments
def inference_gaps(posterior: Posterior, *, estimator: Estimator, seed: int = 0, num_samples: int = 2_000) -> Gaps:
    """Split log Z − ELBO into the cost of the guide's family and the shortfall of the guide within it, in nats.

    The family is the factorized normal in unconstrained coordinates, optimized for each row separately from the mean and
    standard deviation of the guide's draws.  A guide outside the family, such as a normal of full covariance, may have a
    higher ELBO; its amortization gap is then negative.

    Args:
        posterior: fit with a guide and two or more draws of it.
        estimator: estimator of log Z.
        seed: random seed of all draws.
        num_samples: number of draws of the guide for its ELBO.

    Returns:
        Gaps: both gaps with their Monte Carlo errors.

    Raises:
        ValueError: for a posterior without a guide or with fewer than two draws, a model without latents, or a minibatch.

    Reference:
        Cremer, Li & Duvenaud (2018), "Inference suboptimality in variational autoencoders".
    """
    target = target_of(posterior)
    if target.dim == 0:
        raise ValueError(
            "expected latents, got a model without any, whose evidence is its likelihood; pass a fit of a model with latents"
        )
    if posterior.data.num_rows != posterior.data.size:
        raise ValueError(f"expected all {posterior.data.size} rows, got a minibatch; pass a fit of the full data set")
    log_w = guide_weights(posterior, num_samples, seed).double()
    theta = theta_draws(posterior, target)
    if len(theta) < 2:
        raise ValueError(
            f"expected 2 draws of the guide or more to start from, got {len(theta)}; keep more draws in the fit"
        )
    scale = theta.std(0).clamp_min(NARROWEST)
    best = best_mean_field(target, theta.mean(0), scale, seed=seed + 1)
    by_row, elbo_by_row = best.elbo_by_block, log_w.mean(0)
    if len(by_row) != len(elbo_by_row):  # With discrete latents summed out the guide has one weight for all rows.
        by_row, elbo_by_row = by_row.sum()[None], elbo_by_row.sum()[None]
    stderr = float((log_w.var(0) / num_samples).sum().sqrt())
    return Gaps(estimator(posterior, seed=seed + 2), by_row, best.stderr, elbo_by_row, stderr)
