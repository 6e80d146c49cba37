"""x → h: plain modules."""

from probmodel.features.cnn import CNN
from probmodel.features.fixed import Discretise, Standardise
from probmodel.features.half_precision import HalfPrecision
from probmodel.features.mlp import MLP, Identity
from probmodel.features.pooling import AveragePool, MaxPool, UpSample

__all__ = ["CNN", "MLP", "AveragePool", "Discretise", "HalfPrecision", "Identity", "MaxPool", "Standardise", "UpSample"]
