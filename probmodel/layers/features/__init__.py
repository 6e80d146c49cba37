"""Features x → h as plain PyTorch modules (`pb.features`).

Networks: CNN, MLP, HalfPrecision (another network in bfloat16); pooling: MaxPool, AveragePool, UpSample.
Fixed features: Identity, Standardize, Discretize.
"""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.layers.features.cnn import CNN
    from probmodel.layers.features.fixed import Discretize, Standardize
    from probmodel.layers.features.half_precision import HalfPrecision
    from probmodel.layers.features.mlp import MLP, Identity
    from probmodel.layers.features.pooling import AveragePool, MaxPool, UpSample

on_first_use(__name__)

__all__ = ["CNN", "MLP", "AveragePool", "Discretize", "HalfPrecision", "Identity", "MaxPool", "Standardize", "UpSample"]
