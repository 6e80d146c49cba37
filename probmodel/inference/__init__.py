"""(model, data, seed) → Posterior: one method a file."""

from probmodel.inference.chees import ChEES
from probmodel.inference.contrastive_divergence import BoltzmannLearning, Descent
from probmodel.inference.contrastive_divergence_phases import Contrastive, Persistent, Tempered
from probmodel.inference.contrastive_divergence_watch import Watch
from probmodel.inference.exact import Exact
from probmodel.inference.laplace import Laplace
from probmodel.inference.maximum_likelihood import MaximumLikelihood
from probmodel.inference.natural_gradients import NaturalGradients
from probmodel.inference.nuts import NUTS
from probmodel.inference.svi import SVI, NonFiniteError
from probmodel.inference.variational_em import CollapsedGibbs, VariationalEM

__all__ = [
    "NUTS",
    "SVI",
    "BoltzmannLearning",
    "ChEES",
    "CollapsedGibbs",
    "Contrastive",
    "Descent",
    "Exact",
    "Laplace",
    "MaximumLikelihood",
    "NaturalGradients",
    "NonFiniteError",
    "Persistent",
    "Tempered",
    "VariationalEM",
    "Watch",
]
