"""(model, guide, data) → loss in nats over the whole data set."""

from probmodel.families.gaussian_processes.exact import gp_log_marginal
from probmodel.families.gaussian_processes.sparse import svgp_elbo
from probmodel.inference.objectives.elbo import elbo
from probmodel.inference.objectives.iwae import iwae

__all__ = ["elbo", "gp_log_marginal", "iwae", "svgp_elbo"]
