"""Digits classified by Bayesian networks of the codes of a CNN and the class, compared with the CNN itself.

The CNN is trained on the training rows; its codes are then fixed, and discretized or standardized by the training rows alone.
Accuracy and log score are those of held-out rows.
"""

import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

import probmodel as pb
from benchmarks.rows import Row, row
from probmodel.families.bayesian_networks.categorical_data import CategoricalData
from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.all_families import family_scores
from probmodel.families.bayesian_networks.scores.categorical_scores import BDeu
from probmodel.families.bayesian_networks.structure.exact_search import best_dag
from probmodel.layers.decisions import ClassifyJoint
from probmodel.layers.features import Discretize, Standardize
from probmodel.layers.representations import ClassNetwork
from probmodel.layers.representations.bayesian_network import (
    best_augmented,
    conditional_information,
    gaussian_conditional_information,
    naive_bayes,
    tree_augmented,
)
from probmodel.prediction.scores.scoring_rules import accuracy, log_score_per_datum
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.posterior import Posterior

NUM_CODES, NUM_CLASSES, BINS = 10, 10, 5
CODES = [f"code {i}" for i in range(NUM_CODES)]
SAMPLE_SIZE = 10.0
"""Prior sample size: one row per class."""
REQUIRED = 0.95


def trained_cnn(train: Dataset, num_steps: int) -> Posterior:
    """Fit of a CNN with a layer of 32 units to classes, by maximum likelihood."""
    with pb.isolated(seed=0):
        cnn = pb.CNN(1, NUM_CODES)
        model = pb.Pipeline(cnn, pb.DNN(NUM_CODES, 32), pb.Classify(32, NUM_CLASSES))
    adam = partial(torch.optim.Adam, lr=0.003)
    return pb.SVI(num_steps=num_steps, batch_size=128, optimizer=adam, num_samples=1, progress=False)(
        model, train, seed=0
    )


def discrete_graphs(h: Tensor, y: Tensor) -> Iterator[tuple[str, DAG]]:
    """Names and graphs of networks of discretized codes."""
    levels = {**dict.fromkeys(CODES, tuple(map(str, range(BINS)))), "class": tuple(map(str, range(NUM_CLASSES)))}
    data = CategoricalData(levels, np.column_stack([h.long().numpy(), y.numpy()]))
    families = family_scores(data, BDeu(SAMPLE_SIZE))
    yield "naive Bayes", naive_bayes(CODES)
    yield "tree-augmented", tree_augmented(conditional_information(h, y), CODES)
    yield "augmented, best of all", best_augmented(families, CODES)
    yield "best of all graphs", best_dag(families, data.names).dag


def real_graphs(h: Tensor, y: Tensor) -> Iterator[tuple[str, DAG]]:
    """Names and graphs of networks of real codes."""
    yield "naive Bayes", naive_bayes(CODES)
    yield "tree-augmented", tree_augmented(gaussian_conditional_information(h, y), CODES)


def scored(fit: Posterior, name: str, test: Dataset, seconds: float, bound: float | None) -> Iterator[Row]:
    """Rows of accuracy and log score of held-out rows, and of the evidence if it is exact."""
    y = test.kwargs["y"]
    prediction = pb.predict(fit, test.args[0], seed=0)
    bounds = {} if bound is None else {"at_least": bound}
    yield row(f"digits, {name}, accuracy", float(accuracy(prediction.action, y)), "", seconds=seconds, **bounds)
    yield row(f"digits, {name}, log score", float(log_score_per_datum(prediction.distribution, y)), "nats per row")
    if "log_evidence" in fit.info:
        yield row(f"digits, {name}, log p(codes, classes)", fit.info["log_evidence"], "nats")


def class_rows(*, quick: bool = False) -> Iterator[Row]:
    """Rows of the CNN and of all networks."""
    train, test = pb.data.digits(seed=0)
    begin = time.perf_counter()
    fit = trained_cnn(train, 300 if quick else 1_500)
    yield from scored(fit, "the CNN's own layers", test, time.perf_counter() - begin, None)
    network: nn.Module = fit.model.features  # type: ignore[attr-defined]
    x, y = train.args[0], train.kwargs["y"]
    kinds = {
        "discretized codes": (Discretize.fitted(network, x, BINS), discrete_graphs, dict.fromkeys(CODES, BINS)),
        "real codes": (Standardize.fitted(network, x), real_graphs, {}),
    }
    for kind, (features, graphs, cardinalities) in kinds.items():
        with torch.no_grad():
            h = features(x)
        for name, dag in graphs(h, y):
            begin = time.perf_counter()
            representation = ClassNetwork(dag, NUM_CLASSES, cardinalities=cardinalities, sample_size=SAMPLE_SIZE)
            model = pb.Pipeline(features, representation, ClassifyJoint(NUM_CLASSES))
            fit = pb.Exact(num_samples=200)(model, train, seed=0)
            bound = None if quick else REQUIRED
            yield from scored(fit, f"{name} of {kind}", test, time.perf_counter() - begin, bound)
