"""x → h: plain modules."""

from probmodel.layers.features.cnn import CNN
from probmodel.layers.features.fixed import Discretise, Standardise
from probmodel.layers.features.half_precision import HalfPrecision
from probmodel.layers.features.mlp import MLP, Identity
from probmodel.layers.features.pooling import AveragePool, MaxPool, UpSample

__all__ = ["CNN", "MLP", "AveragePool", "Discretise", "HalfPrecision", "Identity", "MaxPool", "Standardise", "UpSample"]
