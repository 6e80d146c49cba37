"""Inference methods (model, data, seed) → Posterior, one method per file."""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.inference.boltzmann_learning import BoltzmannLearning
    from probmodel.inference.chees import ChEES
    from probmodel.inference.collapsed_gibbs import CollapsedGibbs
    from probmodel.inference.exact import Exact
    from probmodel.inference.laplace import Laplace
    from probmodel.inference.maximum_likelihood import MaximumLikelihood
    from probmodel.inference.natural_gradients import NaturalGradients
    from probmodel.inference.nuts import NUTS
    from probmodel.inference.svi import SVI
    from probmodel.inference.variational_em import VariationalEM

on_first_use(__name__)

__all__ = [
    "NUTS",
    "SVI",
    "BoltzmannLearning",
    "ChEES",
    "CollapsedGibbs",
    "Exact",
    "Laplace",
    "MaximumLikelihood",
    "NaturalGradients",
    "VariationalEM",
]
