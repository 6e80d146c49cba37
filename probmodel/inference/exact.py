"""Exact inference where the model is conjugate."""

import time
from dataclasses import dataclass

import torch

from probmodel.conjugate import Conjugate, conjugate
from probmodel.inference.draws import guide_draws
from probmodel.inference.flat_guide import GaussianGuide, SiteGuide
from probmodel.integers import checked_seed, integer
from probmodel.ownership import placed
from probmodel.protocols import Dataset, Draws, Model, Posterior
from probmodel.sites import sites
from probmodel.target import check_training
from probmodel.tracing import isolated


@dataclass(frozen=True)
class Exact:
    """Independent draws of the exact posterior: linear Gaussian models, beta, gamma and Dirichlet sites, Bayesian networks.

    Args:
        num_draws: draws to keep.
    """

    num_draws: int = 1_000

    def __call__(self, model: Model, data: Dataset, *, seed: int) -> Posterior:
        """Raise NotConjugateError where the posterior has no closed form."""
        num_draws, seed = integer("num_draws", self.num_draws), checked_seed(seed)
        check_training(model, data)
        begin = time.perf_counter()
        model = placed(model, data)
        exact = conjugate(model, data)
        guide, draws = _drawn(exact, model, data, num_draws, seed)
        info = {
            "method": "Exact",
            "seed": seed,
            "exact_draws": True,
            "log_evidence": exact.log_z,
            "seconds": time.perf_counter() - begin,
        }
        return Posterior(model, data, draws, info, guide)


def _drawn(exact: Conjugate, model: Model, data: Dataset, num_draws: int, seed: int) -> tuple[Model, Draws]:
    """The posterior as a guide, and its draws by site."""
    if exact.guide is not None:
        with isolated(seed), torch.no_grad():
            return exact.guide, {site: values[None] for site, values in exact.guide.draws(num_draws).items()}
    with isolated(seed):
        latents = sites(model, data).latents
    guide = SiteGuide(dict(exact.by_site)) if exact.gaussian is None else GaussianGuide(exact.gaussian, latents)
    return guide, guide_draws(model, guide, data, num_draws, seed)
