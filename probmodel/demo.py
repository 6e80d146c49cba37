"""Demonstration: four models of handwritten digits, from a convolutional classifier to one that overfits.

All steps run uncompiled, so that the numbers depend on the seed and not on how fast the machine compiles.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch.optim import Adam, AdamW

from probmodel.data import digits
from probmodel.inference import SVI
from probmodel.layers.decisions import Classify
from probmodel.layers.features import CNN
from probmodel.layers.lift import lift
from probmodel.layers.pipeline import Pipeline
from probmodel.layers.representations import DNN, VAE
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.methods import Inference
from probmodel.protocols.model import Model
from probmodel.tracing.randomness import isolated

FEW_ROWS = 200


class Study(NamedTuple):
    """A model, the inference that fits it, and its data."""

    model: Model
    inference: Inference
    data: Dataset


def studies(*, seed: int, quick: bool) -> tuple[Mapping[str, Study], Dataset]:
    """Models of scikit-learn's digits for the demonstration, and the held-out rows.

    Args:
        seed: seed of the split, the initial weights and the subset.
        quick: True for a twentieth of the steps on a fifth of the rows, to check that everything runs.

    Returns:
        Studies by name, and the held-out rows.
    """
    train, test = digits(seed=seed)
    if quick:
        train, test = (rows.rows(slice(None, None, 5))._replace(size=len(rows.args[0][::5])) for rows in (train, test))
    with isolated(seed):
        few = train.rows(torch.randperm(train.size or 0)[:FEW_ROWS])._replace(size=FEW_ROWS)
        steps = (lambda n: max(20, n // 20)) if quick else (lambda n: n)
        decayed = partial(AdamW, lr=3e-3, weight_decay=0.1)
        dnn = Pipeline(CNN(1, 64, channels=(32, 64)), DNN(64, 32, hidden=()), Classify(32, 10))
        vae = Pipeline(CNN(1, 32), VAE(32, 8), Classify(8, 10))
        small = Pipeline(CNN(1, 16, channels=(8, 16), grid=2), DNN(16, 16, hidden=()), Classify(16, 10))
        large = Pipeline(CNN(1, 128, channels=(64, 64)), DNN(128, 128, hidden=(256, 256)), Classify(128, 10))
    svi = partial(SVI, batch_size=128, num_samples=200, compile=False)
    return {
        "cnn → dnn": Study(dnn, svi(steps(300), optimizer=decayed), train),
        "cnn → vae": Study(vae, svi(steps(400)), train),
        "bayesian cnn": Study(lift(small), svi(steps(4_000), optimizer=partial(Adam, lr=1e-2)), train),
        "too large, 200 rows": Study(large, svi(steps(600), batch_size=50, patience=None), few),
    }, test
