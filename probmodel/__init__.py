"""Layered probabilistic models in Pyro: fitted, compared, and scored by their evidence.

>>> import probmodel as pb
>>> train, test = pb.data.digits(seed=0)
>>> model = pb.Pipeline(pb.CNN(1, 32), pb.VAE(32, 8), pb.Classify(8, 10))
>>> fit = pb.SVI(num_steps=5, batch_size=64, progress=False)(model, train, seed=0)
>>> pb.predict(fit, test.args[0]).action.shape
torch.Size([360])

Layers: Pipeline, CNN, MLP, Identity, DNN, VAE, StandardNormal, RBM, GaussianProcess, SparseGP, Classify, ClassifyJoint, Regress.
Inference: SVI, NUTS, ChEES, Laplace, Exact, MaximumLikelihood, NaturalGradients, VariationalEM, CollapsedGibbs,
BoltzmannLearning.
Values: Dataset, Target, Posterior, Evidence, Prediction, Diagnosis, Comparison.
Verbs: lift, target, predict, diagnose, compare, compare_posteriors, report, save, load, to_arviz, isolated, memory_budget.
Namespaces: gp, bn, boltzmann, features, objectives, scores, evidence, diagnosis, data, studies, errors.
"""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel import data, diagnosis, evidence, studies
    from probmodel.comparison import Comparison, compare, compare_posteriors, report
    from probmodel.diagnosis import Diagnosis, diagnose
    from probmodel.inference import (
        NUTS,
        SVI,
        BoltzmannLearning,
        ChEES,
        CollapsedGibbs,
        Exact,
        Laplace,
        MaximumLikelihood,
        NaturalGradients,
        VariationalEM,
        objectives,
    )
    from probmodel.layers import Pipeline, features, lift
    from probmodel.layers.decisions import Classify, ClassifyJoint, Regress
    from probmodel.layers.features import CNN, MLP, Identity
    from probmodel.layers.representations import DNN, RBM, VAE, GaussianProcess, SparseGP, StandardNormal, boltzmann
    from probmodel.layers.representations import bayesian_network as bn
    from probmodel.layers.representations import gaussian_process as gp
    from probmodel.prediction import Prediction, predict, scores
    from probmodel.protocols import Dataset, Evidence, Posterior, Target, errors
    from probmodel.protocols.memory import memory_budget
    from probmodel.storage import load, save, to_arviz
    from probmodel.tracing.randomness import isolated
    from probmodel.tracing.target import target

on_first_use(__name__)

__version__ = _version("probmodel")

__all__ = [
    "BoltzmannLearning",
    "CNN",
    "ChEES",
    "Classify",
    "ClassifyJoint",
    "CollapsedGibbs",
    "Comparison",
    "DNN",
    "Dataset",
    "Diagnosis",
    "Evidence",
    "Exact",
    "GaussianProcess",
    "Identity",
    "Laplace",
    "MLP",
    "MaximumLikelihood",
    "NUTS",
    "NaturalGradients",
    "Pipeline",
    "Posterior",
    "Prediction",
    "RBM",
    "Regress",
    "SVI",
    "SparseGP",
    "StandardNormal",
    "Target",
    "VAE",
    "VariationalEM",
    "bn",
    "boltzmann",
    "compare",
    "compare_posteriors",
    "data",
    "diagnose",
    "diagnosis",
    "errors",
    "evidence",
    "features",
    "gp",
    "isolated",
    "lift",
    "load",
    "memory_budget",
    "objectives",
    "predict",
    "report",
    "save",
    "scores",
    "studies",
    "target",
    "to_arviz",
]
