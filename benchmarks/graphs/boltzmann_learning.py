"""Boltzmann machines learned from samples: bars and stripes, features of digits, binarized MNIST, number of hidden units.

Seconds are those of one process; MNIST needs PROBMODEL_DATA, and with --long an hour of one core.
"""

import math
import time
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch
from scipy.ndimage import convolve
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import minmax_scale
from torch import Tensor

import probmodel as pb
from benchmarks.rows import Row, row
from probmodel.data.locate import locate
from probmodel.families.boltzmann_machines.learning.gradient_ascent import GradientAscent
from probmodel.families.boltzmann_machines.learning.monitor import Monitor
from probmodel.families.boltzmann_machines.learning.phases import Persistent, Phase
from probmodel.inference.boltzmann_learning import BoltzmannLearning
from probmodel.layers.representations.boltzmann.rbm import RBM

PATTERNS = 30
BOUND = 28 * math.log(1 / 32) + 2 * math.log(1 / 16)
"""Largest log probability of the 30 patterns, in nats: all black and all white are bars and stripes, so twice as frequent."""
FALL = 5.0
"""Nats allowed below the goal: sampled gradients move the sum by two, divergence by hundreds (Fischer & Igel, 2010)."""
PUBLISHED = -86.34
"""Nats per image of 500 hidden units trained by CD-25 (Salakhutdinov & Murray, 2008)."""


def initial(hidden: int, rows: Tensor, *, scale: float = 0.01, seed: int = 0) -> RBM:
    """Initial machine with the base rates of the rows."""
    with pb.isolated(seed=seed):
        rbm = RBM(rows.shape[1], hidden).to(rows.dtype)
        with torch.no_grad():
            rbm.weight.copy_(scale * torch.randn_like(rbm.weight))
            rbm.visible_bias.copy_(rbm.units.natural_parameters(rows))
    return rbm


def learned(rbm: RBM, rows: Tensor, settings: BoltzmannLearning, seed: int = 0) -> tuple[RBM, pb.Posterior]:
    """Fitted machine, and the fit."""
    fit = settings(rbm, pb.Dataset((rows,), {}, len(rows)), seed=seed)
    if not isinstance(fit.model, RBM):
        raise TypeError(f"expected an RBM, got {type(fit.model).__name__}; the fit keeps the type of the model")
    return fit.model, fit


def quadratic(fraction: float) -> float:
    """Factor of the learning rate, which falls from 1 to 0, slowly at the end."""
    return (1 - fraction) ** 2


def bars_and_stripes(side: int = 4) -> Tensor:
    """All bars, then all stripes: 2^(side + 1) rows."""
    codes = torch.tensor(list(product([0.0, 1.0], repeat=side)))
    bars = codes[:, None, :].expand(-1, side, side).flatten(1)
    stripes = codes[:, :, None].expand(-1, side, side).flatten(1)
    return torch.cat([bars, stripes])


def all_states(machine: RBM, rows: Tensor, seed: int) -> float:
    """Log Z by the sum over all states of the hidden units."""
    return float(pb.evidence.log_partition(machine).log_z)


def bars_rows(*, quick: bool) -> Iterator[Row]:
    """Rows of sampled gradients on bars and stripes: the final sum, and the smallest one after the goal was reached."""
    rows = bars_and_stripes()
    steps, goal = (300, -math.inf) if quick else (24_000, -105.0)
    monitor = Monitor(every=steps // 40, rows=rows.unique(dim=0), log_partition=all_states)
    phase: Phase = Persistent(num_chains=2_000, num_sweeps=5)
    ascent = GradientAscent(steps, learning_rate=0.1, schedule=quadratic)
    settings = BoltzmannLearning(phase, ascent, None, monitor, progress=False)
    for seed in range(1 if quick else 3):
        _, fit = learned(initial(16, rows, scale=0.1, seed=seed), rows, settings, seed)
        sums = [PATTERNS * value for value in fit.info["log_likelihood"]]
        there = next((number for number, value in enumerate(sums) if value >= goal), len(sums) - 1)
        common = {"reference": BOUND, "seconds": fit.info["seconds"], "steps": fit.info["evaluations"], "sums": sums}
        name = f"bars and stripes 4×4, 16 hidden, persistent chains, seed {seed}: sum over the 30 patterns"
        yield row(f"{name}, at the end", sums[-1], "nats", at_least=goal, **common)
        yield row(f"{name}, lowest once there", min(sums[there:]), "nats", at_least=goal - FALL, **common)


UP, LEFT = [[0, 1, 0], [0, 0, 0], [0, 0, 0]], [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
RIGHT, DOWN = [[0, 0, 0], [0, 0, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
"""Kernels that shift an image by one pixel, as in an example of scikit-learn."""


def shifted_digits() -> tuple[np.ndarray, np.ndarray]:
    """Digits of scikit-learn, and the same shifted by one pixel in four directions, scaled to [0, 1]."""
    images, labels = load_digits(return_X_y=True)
    shaped = images.astype(np.float32).reshape(-1, 8, 8)
    moved = [
        convolve(shaped, np.array([weights]), mode="constant").reshape(-1, 64) for weights in (UP, LEFT, RIGHT, DOWN)
    ]
    every = np.concatenate([shaped.reshape(-1, 64), *moved])
    return minmax_scale(every, feature_range=(0, 1)), np.concatenate([labels] * 5)


def accuracy(train: np.ndarray, test: np.ndarray, labels: tuple[np.ndarray, np.ndarray], strength: float) -> float:
    """Accuracy of logistic regression with inverse regularization `strength`."""
    regression = LogisticRegression(solver="newton-cg", C=strength, tol=1e-3)
    return float(regression.fit(train, labels[0]).score(test, labels[1]))


def hidden_features(train: np.ndarray, others: np.ndarray, hidden_bias: float, num_steps: int) -> list[np.ndarray]:
    """Hidden probabilities of both sets of images, by a machine learned from {0, 1} draws of the training images.

    Args:
        train: images in [0, 1], taken as probabilities.
        others: images in [0, 1].
        hidden_bias: initial value; a negative one makes hidden units sparse (Hinton, 2012).
        num_steps: number of learning steps.
    """
    shades = torch.from_numpy(train)
    with pb.isolated(seed=0):
        rows = torch.bernoulli(shades.repeat(10, 1))
    rbm = initial(100, rows)
    with torch.no_grad():
        rbm.hidden_bias.fill_(hidden_bias)
    settings = BoltzmannLearning(
        Persistent(100), GradientAscent(num_steps, learning_rate=0.15), monitor=None, progress=False
    )
    rbm, _ = learned(rbm, rows, settings)
    return [rbm.hidden(torch.from_numpy(each)).detach().double().numpy() for each in (train, others)]


def digits_rows(*, quick: bool) -> Iterator[Row]:
    """Rows of hidden probabilities as features of digits; the initial bias is chosen on a fifth of the training images."""
    x, y = shifted_digits()
    train, test, labels, test_labels = train_test_split(x, y, test_size=0.2, random_state=0)
    keep, num_steps = (500, 100) if quick else (len(train), 8_000)
    train, labels = train[:keep], labels[:keep]
    begin = time.perf_counter()
    raw = accuracy(train, test, (labels, test_labels), 100.0)
    yield row("nudged digits, logistic regression on pixels: accuracy", raw, "", seconds=time.perf_counter() - begin)
    begin = time.perf_counter()
    cut = len(train) // 5
    found = {}
    for bias in (0.0, -2.0, -4.0):
        known, held = hidden_features(train[cut:], train[:cut], bias, num_steps)
        found[bias] = accuracy(known, held, (labels[cut:], labels[:cut]), 6_000.0)
    best = max(found, key=lambda bias: found[bias])
    features = hidden_features(train, test, best, num_steps)
    value = accuracy(*features, (labels, test_labels), 6_000.0)
    bounds = {} if quick else {"at_least": 0.913}
    yield row(
        "nudged digits, RBM of 100 hidden units + logistic regression: accuracy",
        value,
        "",
        reference=raw,
        seconds=time.perf_counter() - begin,
        hidden_bias=best,
        on_a_fifth=found,
        **bounds,
    )


def size_rows(*, quick: bool) -> Iterator[Row]:
    """Rows by number of hidden units for digits of 8 × 8 pixels: log p(held-out images | fit to the others), with exact log Z.

    The parameters are estimates, so that the log likelihood of the rows they were fitted to is not an evidence; that of
    held-out rows is a conditional one.  The criterion of Schwarz (1978) charges half of log N per parameter.
    """
    train, test = pb.data.problems.binary_digits()
    for hidden in (4, 16) if quick else (2, 4, 8, 12, 16, 20):
        settings = BoltzmannLearning(
            Persistent(200, 2), GradientAscent(100 if quick else 8_000, learning_rate=0.1), monitor=None, progress=False
        )
        rbm, fit = learned(initial(hidden, train), train, settings)
        partition = pb.evidence.log_partition(rbm)
        held, known = (pb.evidence.log_likelihood(rbm, rows, partition).log_z for rows in (test, train))
        each = -rbm.free_energy(test).detach() - partition.log_z
        stderr = float(each.std() / len(test) ** 0.5)
        more = {"seconds": fit.info["seconds"], "stderr": stderr, "training": known / len(train)}
        yield row(f"binary digits, {hidden} hidden units: a held-out image", held / len(test), "nats", **more)
        criterion = known - 0.5 * fit.info["num_parameters"] * math.log(len(train))
        yield row(f"binary digits, {hidden} hidden units: Schwarz's criterion", criterion, "nats")


def evidence_rows(*, quick: bool) -> Iterator[Row]:
    """Rows of the evidence by number of hidden units, weights integrated under standard normal priors: 64 rows of four pixels."""
    states = torch.tensor(list(product([0.0, 1.0], repeat=4)))
    rows = torch.cat([states[[0, 3, 12, 15]]] * 12 + [states])
    data = pb.Dataset((rows,), {}, len(rows))
    for hidden in (1,) if quick else (1, 2, 3):
        begin = time.perf_counter()
        with pb.isolated(seed=0):
            model = pb.lift(RBM(4, hidden))
        found = pb.evidence.sandwich(pb.target(model, data))
        seconds = time.perf_counter() - begin
        more = {"seconds": seconds, "stderr": found.stderr, "interval": [found.lower, found.upper]}
        yield row(f"two of four pixels, {hidden} hidden units: log evidence", found.log_z, "nats", **more)


def mnist(part: str) -> Tensor:
    """Part of binarized MNIST: "train", "valid" or "test"."""
    with np.load(locate("binarized_mnist/binarized_mnist_packed.npz")) as packed:
        return torch.from_numpy(np.unpackbits(packed[part], axis=1)[:, :784]).float()


def mnist_row(name: str, rbm: RBM, fit: pb.Posterior, *, chains: int, steps: int, **bounds: float) -> Row:
    """Row of the test log likelihood per image, between two bounds."""
    test = mnist("test")
    partition = pb.evidence.log_partition_sandwich(rbm, visible=mnist("train"), num_chains=chains, num_steps=steps)
    found = pb.evidence.log_likelihood(rbm, test, partition)
    value, lower, upper = (each / len(test) for each in (found.log_z, found.lower, found.upper))
    return row(
        f"binarized MNIST, {len(rbm.hidden_bias)} hidden, {name}: test log likelihood an image",
        value,
        "nats",
        reference=PUBLISHED,
        seconds=fit.info["seconds"],
        interval=[lower, upper],
        failed=partition.info["failed"],
        **bounds,
    )


def mnist_rows(*, quick: bool, long: bool) -> Iterator[Row]:
    """Rows of runs of ten minutes, and with `long` of an hour; products of the sampling in training are in bfloat16."""
    train = mnist("train")[: 500 if quick else None]
    bound = {} if quick else {"at_least": PUBLISHED}
    runs = {"ten minutes": (50 if quick else 40_000, Persistent(100, num_sweeps=3), 0.2, bound)}
    if long and not quick:
        runs["an hour"] = (200_000, Persistent(100, num_sweeps=5), 0.2, bound)
    for name, (steps, phase, rate, bounds) in runs.items():
        settings = BoltzmannLearning(
            phase,
            GradientAscent(num_steps=steps, learning_rate=rate),
            monitor=None,
            precision=torch.bfloat16,
            progress=False,
        )
        rbm, fit = learned(initial(20 if quick else 500, train), train, settings)
        size = {"chains": 50, "steps": 50} if quick else {"chains": 400, "steps": 2_000}
        yield mnist_row(name, rbm, fit, **size, **bounds)


def groups(*, quick: bool, long: bool) -> dict[str, Callable[[], Iterator[Row]]]:
    """Name of a group → its rows."""
    return {
        "learning, bars and stripes": lambda: bars_rows(quick=quick),
        "learning, digits": lambda: digits_rows(quick=quick),
        "learning, hidden units": lambda: size_rows(quick=quick),
        "learning, evidence of hidden units": lambda: evidence_rows(quick=quick),
        "learning, MNIST": lambda: mnist_rows(quick=quick, long=long),
    }
