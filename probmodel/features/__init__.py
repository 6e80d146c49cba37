"""x → h: plain modules."""

from probmodel.features.cnn import CNN
from probmodel.features.half_precision import HalfPrecision
from probmodel.features.mlp import MLP, Identity
from probmodel.features.pooling import AveragePool, MaxPool, UpSample

__all__ = ["CNN", "MLP", "AveragePool", "HalfPrecision", "Identity", "MaxPool", "UpSample"]
