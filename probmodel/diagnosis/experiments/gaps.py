"""What a guide loses to its family and what it loses to amortization (Cremer, Li & Duvenaud, 2018)."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from probmodel.diagnosis.experiments.mean_field import best_mean_field
from probmodel.evidence.weighing.weights import guide_weights, theta_draws
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.methods import Estimator
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.target import target_of

NARROWEST = 1e-3
"""Standard deviation to start from where all draws of a guide are the same: a point estimate has no scale of its own."""


@dataclass(frozen=True, eq=False)
class Gaps:
    """Log Z ≥ best ELBO of the family ≥ ELBO of the guide, in nats over the data set.

    Args:
        evidence: log Z.
        best_by_row: ELBO of the best factorized normal, (R,); R = 1 where rows share latents.
        best_stderr: Monte Carlo error of its sum.
        elbo_by_row: ELBO of the guide, (R,).
        elbo_stderr: Monte Carlo error of its sum.
    """

    evidence: Evidence
    best_by_row: Float[Tensor, " R"]
    best_stderr: float
    elbo_by_row: Float[Tensor, " R"]
    elbo_stderr: float

    @property
    def approximation(self) -> float:
        """Log Z − best ELBO of the family: the posterior is no factorized normal."""
        return self.evidence.log_z - float(self.best_by_row.sum())

    @property
    def approximation_stderr(self) -> float:
        """Monte Carlo error of `approximation`; nan where the evidence has none."""
        return math.hypot(self.evidence.stderr, self.best_stderr)

    @property
    def amortization(self) -> float:
        """Best ELBO of the family − ELBO of the guide: one map for all rows, or too few steps."""
        return float(self.amortization_by_row.sum())

    @property
    def amortization_by_row(self) -> Float[Tensor, " R"]:
        """As `amortization`, nats by row."""
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
                f"({self.approximation / rows:.4f} a row of {rows})",
                f"amortization gap:  {self.amortization:.4f} ± {self.amortization_stderr:.2g} nats "
                f"({self.amortization / rows:.4f} a row of {rows})",
            ]
        )


def inference_gaps(posterior: Posterior, *, estimator: Estimator, seed: int = 0, num_samples: int = 2_000) -> Gaps:
    """Split log Z − ELBO into what the guide's family costs and what the guide falls short of in it, in nats.

    The family is the factorized normal in unconstrained coordinates, optimized for each row by itself from the mean and
    standard deviation of the guide's draws.  A guide outside the family, such as a normal of full covariance, may beat
    it: its amortization gap is then negative.

    Args:
        posterior: with a guide and draws of it.
        estimator: of log Z.
        seed: of all draws.
        num_samples: draws of the guide for its ELBO.

    Raises:
        ValueError: for a posterior without a guide or with fewer than two draws, a model without latents, or a minibatch.

    Reference:
        Cremer, Li & Duvenaud (2018), "Inference suboptimality in variational autoencoders".
    """
    target = target_of(posterior)
    if target.dim == 0:
        raise ValueError("expected latents, got a model without any; its evidence is its likelihood, with no gap to it")
    if posterior.data.num_rows != posterior.data.size:
        raise ValueError(f"expected all {posterior.data.size} rows, got a minibatch; pass a fit of the full data set")
    log_w = guide_weights(posterior, num_samples, seed).double()
    theta = theta_draws(posterior, target)
    if len(theta) < 2:
        raise ValueError(f"expected 2 draws of the guide or more to start from, got {len(theta)}; keep more")
    scale = theta.std(0).clamp_min(NARROWEST)
    best = best_mean_field(target, theta.mean(0), scale, seed=seed + 1)
    by_row, elbo_by_row = best.elbo_by_block, log_w.mean(0)
    if len(by_row) != len(elbo_by_row):  # Discrete latents summed out: the guide is weighed as a whole.
        by_row, elbo_by_row = by_row.sum()[None], elbo_by_row.sum()[None]
    stderr = float((log_w.var(0) / num_samples).sum().sqrt())
    return Gaps(estimator(posterior, seed=seed + 2), by_row, best.stderr, elbo_by_row, stderr)
