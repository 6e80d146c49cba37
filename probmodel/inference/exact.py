"""Exact inference for conjugate models."""

import time
from dataclasses import dataclass

import torch

from probmodel.inference.guides.draws import guide_draws
from probmodel.inference.guides.exact import GaussianGuide, SiteGuide
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.integers import check_counts, checked_seed, integer
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Draws, Posterior
from probmodel.tracing.checks import check_training
from probmodel.tracing.conjugate import Conjugate, conjugate
from probmodel.tracing.ownership import copied_to_data
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import density_of


@checks_fields
@dataclass(frozen=True)
class Exact:
    """Independent draws of the exact posterior: linear Gaussian models, beta, gamma and Dirichlet sites, Bayesian networks.

    Args:
        num_samples: number of draws to keep.
    """

    num_samples: int = 1_000

    def __post_init__(self) -> None:
        check_counts(self, "num_samples")

    @checks_arguments
    def __call__(self, model: Model, data: Dataset, *, seed: int) -> Posterior:
        """Draw from the exact posterior.

        Returns:
            Posterior whose draws are independent; `info["log_evidence"]` is the exact log evidence in nats.

        Raises:
            NotConjugateError: where the posterior has no closed form.
        """
        num_samples, seed = integer("num_samples", self.num_samples), checked_seed(seed)
        check_training(model, data)
        begin = time.perf_counter()
        model = copied_to_data(model, data)
        exact = conjugate(model, data)
        guide, draws = _drawn(exact, model, data, num_samples, seed)
        info = {
            "method": "Exact",
            "seed": seed,
            "exact_draws": True,
            "log_evidence": exact.log_z,
            "seconds": time.perf_counter() - begin,
        }
        return Posterior(model, data, draws, info, guide)


def _drawn(exact: Conjugate, model: Model, data: Dataset, num_samples: int, seed: int) -> tuple[Model, Draws]:
    """Posterior as a guide, and its draws by site."""
    if exact.guide is not None:
        with isolated(seed), torch.no_grad():
            return exact.guide, {site: values[None] for site, values in exact.guide.draws(num_samples).items()}
    latents = density_of(model, data).sites.latents
    guide = SiteGuide(dict(exact.by_site)) if exact.gaussian is None else GaussianGuide(exact.gaussian, latents)
    return guide, guide_draws(guide, data, latents, num_samples, seed)
