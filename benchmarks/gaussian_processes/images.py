"""Deep kernel of CNN features on digits: accuracy, and whether its entropy separates digits from other images.

The digits are the 8 × 8 ones of scikit-learn and MNIST (LeCun et al., 1998).  Unknown images are letters of notMNIST (Bulatov,
2011) and Kuzushiji characters (Clanuwat et al., 2018), standardized as MNIST and averaged to 8 × 8 pixels for the small digits.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.distributions import Categorical

import probmodel as pb
from benchmarks.rows import Row, row

UNKNOWN = {"notMNIST": "notmnist_test/notmnist_test.npz", "KMNIST": "kmnist_test/kmnist_test.npz"}
FEATURES, DRAWS = 16, 100


class Images(NamedTuple):
    """Training and test rows, and the map from other images of 0 … 255 to rows of the same kind."""

    train: pb.Dataset
    test: pb.Dataset
    as_rows: Callable[[np.ndarray], Tensor]


class Size(NamedTuple):
    """Size of a fit, and the accuracy it has to reach."""

    channels: tuple[int, ...]
    num_steps: int
    batch_size: int
    inducing: int
    accuracy: float


def digits() -> Images:
    """1,797 images of 8 × 8 pixels."""
    train, test = pb.data.digits(seed=0)
    raw = load_digits().images
    return Images(train, test, partial(_small, level=raw.mean(), width=raw.std()))


def mnist() -> Images:
    """70,000 images of 28 × 28 pixels."""
    train, test = pb.data.mnist()
    with np.load(pb.data.locate("mnist/mnist.npz")) as file:
        raw = file["x_train"]
    return Images(train, test, partial(_standardized, level=raw.mean(), width=raw.std()))


def _standardized(pictures: np.ndarray, level: float, width: float) -> Tensor:
    return torch.as_tensor((pictures - level) / width, dtype=torch.float32)[:, None]


def _small(pictures: np.ndarray, level: float, width: float) -> Tensor:
    """Average images to 8 × 8 pixels of 0 … 16, the scale of the digits."""
    pixels = torch.as_tensor(pictures, dtype=torch.float32)[:, None] * (16 / 255)
    return (torch.nn.functional.adaptive_avg_pool2d(pixels, 8) - level) / width


SETS: dict[str, Callable[[], Images]] = {"digits": digits, "MNIST": mnist}
SIZES = {
    "digits": Size((16, 32), 800, 128, 100, 0.97),
    "MNIST": Size((16, 32, 64), 1_000, 256, 100, 0.99),
}


def one_cycle(num_steps: int, parameters: list[Tensor]) -> torch.optim.Optimizer:
    """Adam with a learning rate that rises and falls once (Smith & Topin, 2019)."""
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=num_steps + 1)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return optimizer


def fitted(images: Images, size: Size) -> pb.Posterior:
    """Fit of CNN, sparse process and classes jointly."""
    with pb.isolated(0):
        features = pb.CNN(1, FEATURES, channels=size.channels, grid=4 if len(size.channels) > 2 else 2)
        model = pb.Pipeline(features, pb.SparseGP(FEATURES, 10, inducing=size.inducing), pb.Classify(10, 10))
    settings = pb.NaturalGradients(
        size.num_steps,
        size.batch_size,
        optimizer=partial(one_cycle, size.num_steps),
        num_particles=8,
        num_samples=DRAWS,
        progress=False,
    )
    return settings(model, images.train, seed=0)


def predicted(fit: pb.Posterior, x: Tensor) -> Categorical:
    """Class probabilities of many images, computed for a thousand at a time."""
    parts = [pb.predict(fit, part, num_samples=DRAWS).distribution.probs for part in x.split(1_000)]
    return Categorical(probs=torch.cat(parts))


def rows(*, quick: bool, only: str) -> Iterator[Row]:
    """Rows of all sets whose name contains the text; a quick run has few steps on the small digits."""
    for name, load in SETS.items():
        if only not in name or (quick and name != "digits"):
            continue
        size = SIZES[name]._replace(num_steps=200, accuracy=0.9) if quick else SIZES[name]
        yield from _of(name, load(), size, quick=quick)


def _of(name: str, images: Images, size: Size, *, quick: bool) -> Iterator[Row]:
    begin = time.perf_counter()
    fit = fitted(images, size)
    seconds, y = time.perf_counter() - begin, images.test.kwargs["y"]
    known = predicted(fit, images.test.args[0])
    accuracy = float((known.probs.argmax(-1) == y).double().mean())
    error = (accuracy * (1 - accuracy) / len(y)) ** 0.5
    yield row(f"{name}, accuracy", accuracy, "", at_least=size.accuracy, seconds=seconds, stderr=error)
    scores = known.log_prob(y).double()
    yield row(f"{name}, log score", float(scores.mean()), "nats per row", stderr=float(scores.std() / len(y) ** 0.5))
    if quick:
        return
    for other, file in UNKNOWN.items():
        with np.load(pb.data.locate(file)) as arrays:
            unknown = predicted(fit, images.as_rows(arrays["x_test"]))
        entropies = torch.cat([known.entropy(), unknown.entropy()]).numpy()
        labels = np.repeat([0, 1], [len(y), len(unknown.probs)])
        area = float(roc_auc_score(labels, entropies))
        yield row(f"{name}, entropy tells {other}", area, "ROC-AUC", at_least=0.95)
