"""Layered probabilistic models in Pyro: fitted, compared, and scored by their evidence.

>>> import probmodel as pb
>>> train, test = pb.data.digits(seed=0)
>>> model = pb.Pipeline(pb.CNN(1, 32), pb.VAE(32, 8), pb.Classify(8, 10))
>>> fit = pb.SVI(num_steps=5, batch_size=64, progress=False)(model, train, seed=0)
>>> pb.predict(fit, test.args[0]).action.shape
torch.Size([360])
"""

from probmodel.comparison.models import Comparison, compare
from probmodel.comparison.posteriors import PosteriorComparison, compare_posteriors
from probmodel.comparison.report import report
from probmodel.diagnosis import Diagnosis, conditional_evidence, diagnose, diagnose_ladder, inference_gaps
from probmodel.diagnosis.experiments import prequential, prior_sensitivity, recalibrated
from probmodel.families import bayesian_networks
from probmodel.families.boltzmann_machines.discrete_units import BernoulliUnits, CategoricalUnits, CountUnits
from probmodel.families.boltzmann_machines.joined_units import JoinedUnits
from probmodel.families.boltzmann_machines.real_units import ContinuousBernoulliUnits, GaussianUnits
from probmodel.families.gaussian_processes.experts.aggregation import bcm, generalised_robust_bcm, gpoe, poe, robust_bcm
from probmodel.families.gaussian_processes.experts.shards import kmeans_shards, random_shards
from probmodel.families.normal_mixture import NormalMixture, modes, quantiles
from probmodel.inference import (
    NUTS,
    SVI,
    BoltzmannLearning,
    ChEES,
    CollapsedGibbs,
    Contrastive,
    Descent,
    Exact,
    Laplace,
    MaximumLikelihood,
    NaturalGradients,
    Persistent,
    Tempered,
    VariationalEM,
    Watch,
    objectives,
)
from probmodel.layers.decisions import Classify, ClassifyJoint, Regress
from probmodel.layers.features import (
    CNN,
    MLP,
    AveragePool,
    Discretise,
    HalfPrecision,
    Identity,
    MaxPool,
    Standardise,
    UpSample,
)
from probmodel.layers.lift import lift
from probmodel.layers.pipeline import Pipeline
from probmodel.layers.representations import (
    DNN,
    RBM,
    VAE,
    BoltzmannMachine,
    CategoricalNetwork,
    ClassNetwork,
    ClassRBM,
    ConditionalGaussianNetwork,
    DeepBoltzmannMachine,
    GaussianProcess,
    GPMixture,
    GPProduct,
    LinearGaussianNetwork,
    NonlinearNetwork,
    SparseGP,
    StandardNormal,
)
from probmodel.layers.representations.gaussian_process.gates import (
    DensityGate,
    DirichletGate,
    SoftmaxGate,
    StickBreakingGate,
)
from probmodel.prediction.predictive import Prediction, predict
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import NonFiniteError, NotConjugateError
from probmodel.protocols.evidence import Agreement, Estimate, Evidence
from probmodel.protocols.memory import memory_budget
from probmodel.protocols.posterior import Posterior, Target
from probmodel.storage.fits import load, save
from probmodel.storage.to_arviz import to_arviz
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target

__all__ = [
    "CNN",
    "DNN",
    "MLP",
    "NUTS",
    "RBM",
    "SVI",
    "VAE",
    "Agreement",
    "AveragePool",
    "BernoulliUnits",
    "BoltzmannLearning",
    "BoltzmannMachine",
    "CategoricalNetwork",
    "CategoricalUnits",
    "ChEES",
    "ClassNetwork",
    "ClassRBM",
    "Classify",
    "ClassifyJoint",
    "CollapsedGibbs",
    "Comparison",
    "ConditionalGaussianNetwork",
    "ContinuousBernoulliUnits",
    "Contrastive",
    "CountUnits",
    "Dataset",
    "DeepBoltzmannMachine",
    "DensityGate",
    "Descent",
    "Diagnosis",
    "DirichletGate",
    "Discretise",
    "Estimate",
    "Evidence",
    "Exact",
    "GPMixture",
    "GPProduct",
    "GaussianProcess",
    "GaussianUnits",
    "HalfPrecision",
    "Identity",
    "JoinedUnits",
    "Laplace",
    "LinearGaussianNetwork",
    "MaxPool",
    "MaximumLikelihood",
    "NaturalGradients",
    "NonFiniteError",
    "NonlinearNetwork",
    "NormalMixture",
    "NotConjugateError",
    "Persistent",
    "Pipeline",
    "Posterior",
    "PosteriorComparison",
    "Prediction",
    "Regress",
    "SoftmaxGate",
    "SparseGP",
    "StandardNormal",
    "Standardise",
    "StickBreakingGate",
    "Target",
    "Tempered",
    "UpSample",
    "VariationalEM",
    "Watch",
    "bayesian_networks",
    "bcm",
    "compare",
    "compare_posteriors",
    "conditional_evidence",
    "data",
    "diagnose",
    "diagnose_ladder",
    "diagnosis",
    "evidence",
    "generalised_robust_bcm",
    "gpoe",
    "inference_gaps",
    "isolated",
    "kmeans_shards",
    "lift",
    "load",
    "memory_budget",
    "modes",
    "objectives",
    "poe",
    "predict",
    "prequential",
    "prior_sensitivity",
    "quantiles",
    "random_shards",
    "report",
    "robust_bcm",
    "save",
    "target",
    "to_arviz",
    "recalibrated",
]
