"""Hand-written PyTorch: the step that an expert would write for one model, compiled as a whole."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from benchmarks.speed.models import CODE, Run, SamplingProblem, SVIProblem, batches

BETAS = (0.9, 0.999)
EPSILON = 1e-8
FIRST_SCALE = 0.1
"""Initial scale of the mean-field normal, as in `AutoNormal`."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Function from flat parameters and noise to the loss in nats."""


def small_step(problem: SVIProblem, *, cpp_wrapper: bool = True) -> Run:
    """One compiled step: noise, loss, gradient and Adam on one flat buffer, in place.

    Args:
        problem: logistic regression or eight schools.
        cpp_wrapper: whether the wrapper of Inductor is in C++ instead of Python, for less time between kernels.
    """
    loss, dim = _SMALL[problem.name](problem)
    phi = torch.cat([torch.zeros(dim), torch.full((dim,), math.log(FIRST_SCALE))])
    first, second, count, total = torch.zeros(2 * dim), torch.zeros(2 * dim), torch.zeros(()), torch.zeros(())
    rate = problem.learning_rate

    def step(phi: Tensor, first: Tensor, second: Tensor, count: Tensor, total: Tensor) -> None:
        gradient, value = grad_and_value(loss)(phi, torch.randn(dim))
        t = count + 1
        _adam(phi, gradient, first, second, t, rate)
        count.copy_(t)
        total.add_(value)

    compiled = torch.compile(step, fullgraph=True, dynamic=False, options={"cpp_wrapper": cpp_wrapper})
    rows = problem.data.size or 1

    def run(n: int) -> float:
        total.zero_()
        with torch.no_grad():
            for _ in range(n):
                compiled(phi, first, second, count, total)
        return float(total) / n / rows

    return run


def vae_step_in_graph(problem: SVIProblem, *, channels_last: bool = False, cpp_wrapper: bool = False) -> Run:
    """One compiled step of a VAE: rows gathered, noise, loss, gradient and Adam of each tensor in place.

    Args:
        problem: autoencoder of either network.
        channels_last: whether the weights of convolutions, and with them the images, have that memory format.
        cpp_wrapper: see `small_step`.
    """
    networks = _networks(problem, channels_last=channels_last)
    values = dict(networks.named_parameters())
    parameters = {name: value.detach() for name, value in values.items()}
    first = {name: torch.zeros_like(value) for name, value in parameters.items()}
    second = {name: torch.zeros_like(value) for name, value in parameters.items()}
    count, total = torch.zeros(()), torch.zeros(())
    data = problem.data.args[0]
    rate = problem.learning_rate

    def step(index: Tensor) -> None:
        x = data[index]
        noise = torch.randn(len(index), CODE)
        gradients, value = grad_and_value(lambda p: functional_call(networks, p, (x, noise)))(parameters)
        t = count + 1
        for name, gradient in gradients.items():
            _adam(parameters[name], gradient, first[name], second[name], t, rate)
        count.copy_(t)
        total.add_(value)

    compiled = torch.compile(step, fullgraph=True, dynamic=False, options={"cpp_wrapper": cpp_wrapper})
    return partial(_descend, problem, compiled, total, np.random.default_rng(0))


def vae_step_fused(problem: SVIProblem, *, channels_last: bool = False, device: str = "cpu") -> Run:
    """Step with a compiled loss under autograd and the fused Adam of PyTorch."""
    networks = _networks(problem, channels_last=channels_last).to(device)
    optimizer = torch.optim.Adam(networks.parameters(), lr=problem.learning_rate, fused=True)
    data = problem.data.args[0].to(device)
    total = torch.zeros((), device=device)

    def loss(x: Tensor, index: Tensor) -> Tensor:
        return networks(x[index], torch.randn(len(index), CODE, device=device))

    compiled = torch.compile(loss, dynamic=False, mode="reduce-overhead" if device == "cuda" else None)

    def step(index: Tensor) -> None:
        with torch.enable_grad():
            value = compiled(data, index.to(device))
            optimizer.zero_grad(set_to_none=True)
            value.backward()
        optimizer.step()
        total.add_(value.detach())

    return partial(_descend, problem, step, total, np.random.default_rng(0))


class Settled(nn.Module):
    """Negative ELBO of a batch in nats, with the divergence in closed form."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        loc, log_scale = self.encoder(x)
        scale = log_scale.exp()
        logits = self.decoder(loc + scale * noise)
        divergence = (0.5 * (scale**2 + loc**2 - 1) - log_scale).sum()
        return divergence + F.binary_cross_entropy_with_logits(logits, x, reduction="sum")


def leapfrogs(problem: SamplingProblem, chains: int, steps: int, step_size: float) -> Run:
    """Hamiltonian Monte Carlo of logistic regression, the gradient written out; one compiled graph per transition.

    Args:
        problem: logistic regression.
        chains: number of chains, run at once.
        steps: leapfrog steps per transition.
        step_size: step size of the leapfrog integrator.

    Returns:
        Function from the number of transitions to the mean log density, without constants.
    """
    features, y = problem.data.tensors()
    dim = features.shape[1]
    state = {"theta": torch.zeros(chains, dim)}

    def log_density(theta: Tensor) -> tuple[Tensor, Tensor]:
        logits = theta @ features.T
        slope = (y - torch.sigmoid(logits)) @ features - theta
        return (y * logits - F.softplus(logits)).sum(-1) - 0.5 * theta.square().sum(-1), slope

    def transition(theta: Tensor) -> tuple[Tensor, Tensor]:
        momentum = torch.randn_like(theta)
        value, slope = log_density(theta)
        start = value - 0.5 * momentum.square().sum(-1)
        moved, at, slope_at = theta, value, slope
        for _ in range(steps):
            momentum = momentum + 0.5 * step_size * slope_at
            moved = moved + step_size * momentum
            at, slope_at = log_density(moved)
            momentum = momentum + 0.5 * step_size * slope_at
        accepted = torch.rand(chains).log() < at - 0.5 * momentum.square().sum(-1) - start
        return torch.where(accepted[:, None], moved, theta), torch.where(accepted, at, value).mean()

    compiled = torch.compile(transition, fullgraph=True, dynamic=False)

    def run(n: int) -> float:
        means = []
        with torch.no_grad():
            for _ in range(n):
                state["theta"], mean = compiled(state["theta"])
                means.append(mean)
        return float(torch.stack(means).mean())

    return run


def _adam(phi: Tensor, gradient: Tensor, first: Tensor, second: Tensor, t: Tensor, rate: float) -> None:
    """Step of Adam in place (Kingma & Ba, 2015)."""
    first.mul_(BETAS[0]).add_(gradient, alpha=1 - BETAS[0])
    second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    scale = (second / (1 - BETAS[1] ** t)).sqrt() + EPSILON
    phi.sub_(rate / (1 - BETAS[0] ** t) * first / scale)


def _descend(
    problem: SVIProblem, step: Callable[[Tensor], None], total: Tensor, generator: np.random.Generator, n: int
) -> float:
    total.zero_()
    with torch.no_grad():
        for index in torch.from_numpy(batches(problem, n, generator)):
            step(index)
    return float(total) / n / (problem.batch_size or 1)


def _networks(problem: SVIProblem, *, channels_last: bool) -> Settled:
    vae = problem.model.__self__  # type: ignore[attr-defined]
    fresh = Settled(type(vae.encoder)(), type(vae.decoder)())
    fresh.load_state_dict(vae.state_dict())
    return fresh.to(memory_format=torch.channels_last) if channels_last else fresh


def _divergence(loc: Tensor, log_scale: Tensor, prior_scale: float) -> Tensor:
    """Kullback–Leibler divergence of normals from N(0, prior_scale²), in nats."""
    variance = (2 * log_scale).exp()
    return (0.5 * ((variance + loc**2) / prior_scale**2 - 1) - log_scale + math.log(prior_scale)).sum()


def _logistic(problem: SVIProblem) -> tuple[Loss, int]:
    features, y = problem.data.tensors()
    dim = features.shape[1]

    def loss(phi: Tensor, noise: Tensor) -> Tensor:
        loc, log_scale = phi[:dim], phi[dim:]
        logits = features @ (loc + log_scale.exp() * noise)
        return _divergence(loc, log_scale, 1.0) + F.binary_cross_entropy_with_logits(logits, y, reduction="sum")

    return loss, dim


def _schools(problem: SVIProblem) -> tuple[Loss, int]:
    sigma, y = problem.data.tensors()
    dim = 2 + len(y)
    constant = float(sigma.log().sum()) + 0.5 * len(y) * math.log(2 * math.pi)
    half_cauchy = math.log(2 / (math.pi * 5))

    def loss(phi: Tensor, noise: Tensor) -> Tensor:
        loc, log_scale = phi[:dim], phi[dim:]
        theta = loc + log_scale.exp() * noise
        tau = theta[1].exp()
        log_likelihood = -0.5 * ((y - theta[0] - tau * theta[2:]) / sigma).square().sum() - constant
        log_q = -0.5 * noise[1] ** 2 - log_scale[1] - 0.5 * math.log(2 * math.pi)
        log_prior = half_cauchy - torch.log1p((tau / 5) ** 2) + theta[1]
        normal = _divergence(loc[0], log_scale[0], 5.0) + _divergence(loc[2:], log_scale[2:], 1.0)
        return normal + log_q - log_prior - log_likelihood

    return loss, dim


_SMALL: dict[str, Callable[[SVIProblem], tuple[Loss, int]]] = {"logistic": _logistic, "eight schools": _schools}
