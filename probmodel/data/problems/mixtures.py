"""Mixtures of normals, whose evidence counts every labeling of the components (Neal, 1999)."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from probmodel.data.locate import locate
from probmodel.data.problems.problem import Problem
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset

GALAXY_LOG_Z = {2: (-239.761, 0.001), 3: (-226.812, 0.001)}
"""Number of components → log evidence and its standard error, in nats."""
MISPRINTED, CORRECTED = 77, 26.960
"""Index, from 0, of the velocity that the common data file gives as 26.690, and its value in the literature."""


@checks_arguments
def galaxy(num_components: int = 2) -> Problem:
    """Velocities of 82 galaxies as a mixture of normals with one variance: K! modes, none of which may be missed.

    y_i ~ Σ_k weights_k N(mu_k, sigma2), in 1000 km/s; mu_k ~ N(20, 100), 100 the variance, sigma2 ~ InvGamma(3, 20),
    weights ~ Dirichlet(1, …, 1); labels are not ordered, assignments are summed out. The 78th velocity is 26.960.

    Log evidence -239.761 ± 0.001 nats for K = 2 and -226.812 ± 0.001 for K = 3. The value of Chib (1995)
    for K = 2, -240.464, is that of one labeling alone, too low by log 2.

    Args:
        num_components: number of components K, a key of `GALAXY_LOG_Z`.

    Raises:
        ValueError: where the evidence for that K is not known.
        FileNotFoundError: where PROBMODEL_DATA names no folder with evidence/galaxies.csv.

    Reference:
        Roeder (1990), JASA 85; Chib (1995), Marginal likelihood from the Gibbs output, JASA 90; Neal (1999), Erroneous
        results in "Marginal likelihood from the Gibbs output".
    """
    if num_components not in GALAXY_LOG_Z:
        known = sorted(GALAXY_LOG_Z)
        raise ValueError(f"expected num_components in {known}, got {num_components}; pass one with known evidence")
    y = torch.from_numpy(np.loadtxt(locate("evidence/galaxies.csv"), delimiter=",", skiprows=1)[:, 1] / 1000)
    y[MISPRINTED] = CORRECTED
    log_z, uncertainty = GALAXY_LOG_Z[num_components]
    data = Dataset((y.new_ones(num_components),), {"y": y})
    source = "importance sampling; Chib (1995) as corrected by Neal (1999), data of Roeder (1990)"
    return Problem(f"galaxy, {num_components} components", _mixture, data, log_z, uncertainty, source)


def _mixture(concentration: Tensor, y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(20 * torch.ones_like(concentration), 10.0).to_event(1))
    sigma2 = pyro.sample("sigma2", dist.InverseGamma(mu.new_tensor(3.0), mu.new_tensor(20.0)))
    weights = pyro.sample("weights", dist.Dirichlet(concentration))
    components = dist.Normal(mu, sigma2.sqrt().expand_as(mu))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=y)
