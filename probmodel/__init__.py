"""Layered probabilistic models in Pyro: fitted, compared, and scored by their evidence.

>>> import probmodel as pb
>>> train, test = pb.data.digits(seed=0)
>>> model = pb.Pipeline(pb.CNN(1, 32), pb.VAE(32, 8), pb.Classify(8, 10))
>>> fit = pb.SVI(num_steps=5, batch_size=64, progress=False)(model, train, seed=0)
>>> pb.predict(fit, test.args[0]).action.shape
torch.Size([360])
"""

from probmodel import bayesian_networks, data, diagnosis, evidence, objectives
from probmodel.boltzmann_machines.joined_units import JoinedUnits
from probmodel.boltzmann_machines.units import (
    BernoulliUnits,
    CategoricalUnits,
    ContinuousBernoulliUnits,
    CountUnits,
    GaussianUnits,
)
from probmodel.compare import Comparison, compare
from probmodel.compare_posteriors import PosteriorComparison, compare_posteriors
from probmodel.conjugate import NotConjugateError
from probmodel.decisions import Classify, ClassifyJoint, Regress
from probmodel.diagnosis import (
    Diagnosis,
    conditional_evidence,
    diagnose,
    diagnose_ladder,
    inference_gaps,
    prequential,
    prior_sensitivity,
    widened,
)
from probmodel.exports import to_arviz
from probmodel.features import (
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
from probmodel.gaussian_processes.aggregation import bcm, generalised_robust_bcm, gpoe, poe, robust_bcm
from probmodel.gaussian_processes.gates import DensityGate, DirichletGate, SoftmaxGate, StickBreakingGate
from probmodel.gaussian_processes.normal_mixture import NormalMixture, modes, quantiles
from probmodel.gaussian_processes.shards import kmeans_shards, random_shards
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
    NonFiniteError,
    Persistent,
    Tempered,
    VariationalEM,
    Watch,
)
from probmodel.lift import lift
from probmodel.memory import memory_budget
from probmodel.pipeline import Pipeline
from probmodel.predict import Prediction, predict
from probmodel.protocols import Agreement, Dataset, Estimate, Evidence, Posterior, Target
from probmodel.report import report
from probmodel.representations import (
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
from probmodel.storage import load, save
from probmodel.target import target
from probmodel.tracing import isolated

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
    "widened",
]
