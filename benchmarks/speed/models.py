"""Problems: models, guides and data as a user of Pyro writes them, all in float32."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import probmodel as pb
from probmodel.data.locate import VARIABLE, locate

IMAGES = "binarized_mnist/binarized_mnist_packed.npz"
"""File in PROBMODEL_DATA: bit-packed rows of the fixed binarization (Salakhutdinov & Murray, 2008)."""
PIXELS = 784
HIDDEN = 400
CODE = 20
CHANNELS = (32, 64)
"""Channels of the two convolutions, whose images are 14 × 14 and 7 × 7."""
GROUPS = 98
PER_GROUP = 5

Run = Callable[[int], float]
"""Function from a number of steps, taken from a kept state, to their mean loss in nats per row, or to their mean log density.

The loss of eight schools, which has no rows, is that of all data.
"""


class Contender(NamedTuple):
    """Implementation of a step; the first run compiles, and `chunk` divides every number of steps."""

    name: str
    run: Run
    threads: int = 2
    chunk: int = 1


class Settings(NamedTuple):
    """Number of chains, and of warm-up and kept draws per chain."""

    chains: int
    warmup: int
    draws: int

    def label(self, name: str) -> str:
        """Name of a sampler with its settings."""
        return f"{name}, {self.chains} chains, {self.warmup} + {self.draws}"


class Drawn(NamedTuple):
    """Draws of a sampler and its seconds; nan if the sampler does not report them."""

    draws: np.ndarray
    """Unconstrained draws, (chain, draw, D)."""
    compile_seconds: float
    warmup_seconds: float
    sampling_seconds: float
    total_seconds: float
    """Seconds of warm-up and sampling, without compiling."""


class Sampler(NamedTuple):
    """Implementation of a sampler; the first `run(seed)` compiles."""

    name: str
    run: Callable[[int], Drawn]
    package: str
    threads: int = 2


class SVIProblem(NamedTuple):
    """Model and guide to be fitted by stochastic variational inference."""

    name: str
    model: Callable[..., Any]
    guide: Callable[..., Any] | None
    """Guide; None uses a mean-field normal, `AutoNormal`."""
    data: pb.Dataset
    batch_size: int | None
    learning_rate: float
    chunk: int
    """Steps per call of a compiled loop."""
    settle: int
    """Steps over which the losses of the contenders are compared."""

    @property
    def small(self) -> bool:
        """Return whether calls take longer than the computation."""
        return self.batch_size is None

    @property
    def threads(self) -> int:
        """Threads of a step: a second one only slows down small models."""
        return 1 if self.small else 2

    @property
    def convolutional(self) -> bool:
        return self.name.startswith("CNN")


class SamplingProblem(NamedTuple):
    """Model to sample; `sites` are in the order of the flat unconstrained vector, those in `positive` as logarithms."""

    name: str
    model: Callable[..., Any]
    data: pb.Dataset
    sites: tuple[str, ...]
    positive: tuple[str, ...] = ()

    def flat(self, draws: dict[str, np.ndarray]) -> np.ndarray:
        """Convert constrained draws by site, (chain, draw, *event), to one unconstrained array (chain, draw, D)."""
        parts = []
        for site in self.sites:
            value = np.asarray(draws[site], dtype=np.float64)
            value = np.log(value) if site in self.positive else value
            parts.append(value.reshape(*value.shape[:2], -1))
        return np.concatenate(parts, -1)


# ---------------------------------------------------------------------------------------------- small models


def logistic(features: Tensor, y: Tensor | None = None) -> None:
    """Logistic regression: beta ~ N(0, 1), y ~ Bernoulli(features · beta)."""
    beta = pyro.sample("beta", dist.Normal(features.new_zeros(features.shape[1]), 1.0).to_event(1))
    with pyro.plate("rows", len(features)):
        pyro.sample("y", dist.Bernoulli(logits=features @ beta), obs=y)


def eight_schools(sigma: Tensor, y: Tensor | None = None) -> None:
    """Eight schools, non-centered."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(sigma)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)


def hierarchy(y: Tensor) -> None:
    """Normal hierarchy of 98 groups with five values each; so many groups keep tau away from 0, so that there is no funnel."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(2.0))
    with pyro.plate("groups", y.shape[1]):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        with pyro.plate("values", len(y)):
            pyro.sample("y", dist.Normal(mu + tau * eta, 1.0), obs=y)


def logistic_data() -> pb.Dataset:
    """500 rows of 20 standard normal features, coefficients N(0, 1)."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(500, 20, generator=generator)
    beta = torch.randn(20, generator=generator)
    y = torch.bernoulli(torch.sigmoid(features @ beta), generator=generator)
    return pb.Dataset((features,), {"y": y}, 500)


def schools_data() -> pb.Dataset:
    """Effects and standard errors of eight schools (Rubin, 1981)."""
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    return pb.Dataset((torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),), {"y": y})


def hierarchy_data() -> pb.Dataset:
    """Values (5, 98) around 98 group means N(1, 1.5²)."""
    generator = torch.Generator().manual_seed(0)
    means = 1.0 + 1.5 * torch.randn(GROUPS, generator=generator)
    return pb.Dataset((means + torch.randn(PER_GROUP, GROUPS, generator=generator),))


# ---------------------------------------------------------------------------------------------- autoencoders


class MLPEncoder(nn.Module):
    """784 → 400 → location and log scale of the code."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(PIXELS, HIDDEN)
        self.loc = nn.Linear(HIDDEN, CODE)
        self.log_scale = nn.Linear(HIDDEN, CODE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.hidden(x))
        return self.loc(h), self.log_scale(h)


class MLPDecoder(nn.Module):
    """20 → 400 → logits of 784 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(CODE, HIDDEN)
        self.logits = nn.Linear(HIDDEN, PIXELS)

    def forward(self, z: Tensor) -> Tensor:
        return self.logits(torch.relu(self.hidden(z)))


class CNNEncoder(nn.Module):
    """28 × 28 → 14 × 14 × 32 → 7 × 7 × 64 → location and log scale of the code."""

    def __init__(self) -> None:
        super().__init__()
        first, second = CHANNELS
        self.first = nn.Conv2d(1, first, 4, stride=2, padding=1)
        self.second = nn.Conv2d(first, second, 4, stride=2, padding=1)
        self.loc = nn.Linear(49 * second, CODE)
        self.log_scale = nn.Linear(49 * second, CODE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.first(x.reshape(-1, 1, 28, 28)))
        h = torch.relu(self.second(h)).flatten(1)
        return self.loc(h), self.log_scale(h)


class CNNDecoder(nn.Module):
    """20 → 7 × 7 × 64 → 14 × 14 × 32 → logits of 28 × 28 pixels."""

    def __init__(self) -> None:
        super().__init__()
        first, second = CHANNELS
        self.hidden = nn.Linear(CODE, 49 * second)
        self.first = nn.ConvTranspose2d(second, first, 4, stride=2, padding=1)
        self.second = nn.ConvTranspose2d(first, 1, 4, stride=2, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = torch.relu(self.hidden(z)).reshape(-1, CHANNELS[1], 7, 7)
        return self.second(torch.relu(self.first(h))).flatten(1)


class VAE(nn.Module):
    """z ~ N(0, 1), x ~ Bernoulli(decoder(z)), with an amortized normal guide (Kingma & Welling, 2014)."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), CODE), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("rows", len(x)):
            loc, log_scale = self.encoder(x)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def mlp_vae() -> VAE:
    """Autoencoder of fully connected layers 784-400-20 with seeded initial weights."""
    with pb.isolated(seed=0):
        return VAE(MLPEncoder(), MLPDecoder())


def cnn_vae() -> VAE:
    """Autoencoder of two convolutions each way with seeded initial weights."""
    with pb.isolated(seed=0):
        return VAE(CNNEncoder(), CNNDecoder())


def images(rows: int = 10_000) -> pb.Dataset:
    """Binarized MNIST if PROBMODEL_DATA is set, else seeded Bernoulli pixels, which take the same time."""
    if os.environ.get(VARIABLE):
        with np.load(locate(IMAGES)) as file:
            x = torch.from_numpy(np.unpackbits(file["train"][:rows], axis=1)).float()
    else:
        generator = torch.Generator().manual_seed(0)
        share = torch.rand(PIXELS, generator=generator) ** 3
        x = torch.bernoulli(share.expand(rows, PIXELS), generator=generator)
    return pb.Dataset((x,), {}, len(x))


# ---------------------------------------------------------------------------------------------- the lists


def svi_logistic() -> SVIProblem:
    """Mean-field logistic regression."""
    return SVIProblem("logistic", logistic, None, logistic_data(), None, 1e-2, 1_000, 4_000)


def svi_schools() -> SVIProblem:
    """Mean-field eight schools over mu, log tau and eta."""
    return SVIProblem("eight schools", eight_schools, None, schools_data(), None, 1e-2, 1_000, 4_000)


def svi_mlp(batch_size: int) -> SVIProblem:
    """The VAE of fully connected layers."""
    vae = mlp_vae()
    return SVIProblem(f"MLP-VAE, batch {batch_size}", vae.model, vae.guide, images(), batch_size, 1e-3, 50, 300)


def svi_cnn() -> SVIProblem:
    """The VAE of convolutions."""
    vae = cnn_vae()
    return SVIProblem("CNN-VAE, batch 128", vae.model, vae.guide, images(), 128, 1e-3, 20, 100)


SVI_PROBLEMS: dict[str, Callable[[], SVIProblem]] = {
    "logistic": svi_logistic,
    "eight schools": svi_schools,
    "MLP-VAE, batch 128": lambda: svi_mlp(128),
    "MLP-VAE, batch 512": lambda: svi_mlp(512),
    "CNN-VAE, batch 128": svi_cnn,
}


def sampling_schools() -> SamplingProblem:
    """Eight schools: 10 dimensions."""
    return SamplingProblem("eight schools", eight_schools, schools_data(), ("mu", "tau", "eta"), ("tau",))


def sampling_logistic() -> SamplingProblem:
    """Logistic regression: 20 dimensions."""
    return SamplingProblem("logistic", logistic, logistic_data(), ("beta",))


def sampling_hierarchy() -> SamplingProblem:
    """The normal hierarchy: 100 dimensions."""
    return SamplingProblem("hierarchy", hierarchy, hierarchy_data(), ("mu", "tau", "eta"), ("tau",))


SAMPLING_PROBLEMS: dict[str, Callable[[], SamplingProblem]] = {
    "eight schools": sampling_schools,
    "logistic": sampling_logistic,
    "hierarchy": sampling_hierarchy,
}


def batches(problem: SVIProblem, steps: int, generator: np.random.Generator) -> np.ndarray:
    """Row numbers (steps, batch) of successive minibatches, epochs of fresh permutations without incomplete batches."""
    rows, size = problem.data.num_rows, problem.batch_size
    if rows is None or size is None:
        raise ValueError(f"expected a problem with minibatches, got {problem.name}; set batch_size")
    each = rows // size
    epochs = [generator.permutation(rows)[: each * size].reshape(each, size) for _ in range(-(-steps // each))]
    return np.concatenate(epochs)[:steps]
