"""Seconds of Gaussian processes over those of the Cholesky path of GPyTorch and of scikit-learn, which take turns.

The value of a row is the median over rounds of our seconds over theirs.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

import gpytorch
import numpy as np
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ConstantMean
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk

import probmodel as pb
from benchmarks.rows import Row, row, verdict
from probmodel.families.gaussian_processes.exact import gp_log_marginal
from probmodel.families.gaussian_processes.sparse import svgp_elbo
from probmodel.inference.descent.descent import WINDOW, descent
from probmodel.inference.descent.minibatches import Batches, Order, minibatches
from probmodel.tracing.programs.gradients import Gradient

COLUMNS = 8
OUTPUTSCALE, NOISE = 1.7, 0.2
SIZES = {500: 15, 1000: 9, 2000: 5, 4000: 3}
"""Number of rows of the exact process → rounds."""

SCIKIT_ROUNDS = 1
"""Rounds of scikit-learn from 1,000 rows on, where one takes seconds."""

ASLEEP = 0.3
"""Pause in seconds before a turn, after which the threads of the previous package no longer spin.

An untimed run then warms the caches.
"""

BATCH, INDUCING, ROWS = 256, 128, 2_000
AT_MOST = {"GPyTorch": 0.45, "scikit-learn": 0.2, "GPyTorch, sparse": 0.4}
AGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-5}
"""Largest relative difference allowed of values and of gradients; in float32 after steps whose errors add up."""

Run = Callable[[], tuple[float, np.ndarray]]


class Exact(gpytorch.models.ExactGP):
    """Exact process of GPyTorch with a given kernel."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, kernel: ScaleKernel, likelihood: GaussianLikelihood) -> None:
        super().__init__(x, y, likelihood)
        self.mean, self.kernel = ConstantMean(), kernel

    def forward(self, x: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean(x), self.kernel(x))


class Sparse(gpytorch.models.ApproximateGP):
    """Sparse process of GPyTorch with a given kernel."""

    def __init__(self, inducing: torch.Tensor, kernel: ScaleKernel) -> None:
        q = gpytorch.variational.CholeskyVariationalDistribution(len(inducing), mean_init_std=0.0)
        super().__init__(gpytorch.variational.VariationalStrategy(self, inducing, q))
        self.mean, self.kernel = ConstantMean(), kernel

    def forward(self, x: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean(x), self.kernel(x))


def problem(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in COLUMNS dimensions, and a smooth function of three of them with noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, COLUMNS, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    return x, torch.sin(2.0 * x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + 0.3 * noise


def modules() -> tuple[ScaleKernel, GaussianLikelihood]:
    """Scaled ARD kernel and Gaussian noise, with values that are not the defaults."""
    kernel, likelihood = ScaleKernel(RBFKernel(ard_num_dims=COLUMNS)).double(), GaussianLikelihood().double()
    kernel.base_kernel.lengthscale = torch.linspace(1.0, 3.0, COLUMNS, dtype=torch.float64)
    # A Python float would pass through float32.
    kernel.outputscale, likelihood.noise = torch.tensor([OUTPUTSCALE, NOISE], dtype=torch.float64)
    return kernel, likelihood


def exact_runs(n: int) -> dict[str, Run]:
    """Value and gradient at the same parameters by each package, the gradient with respect to their logarithms."""
    x, y = problem(n)
    kernel, likelihood = modules()
    model = Exact(x, y, kernel, likelihood).train()
    mean = model.mean.double()
    mll = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    wanted = [kernel.raw_outputscale, kernel.base_kernel.raw_lengthscale, likelihood.noise_covar.raw_noise]
    values = [kernel.outputscale, kernel.base_kernel.lengthscale, likelihood.noise]
    by_log = torch.cat([(v / torch.sigmoid(r)).detach().flatten() for v, r in zip(values, wanted, strict=True)])

    def gradient(value: torch.Tensor) -> tuple[float, np.ndarray]:
        grads = torch.cat([g.flatten() for g in torch.autograd.grad(value, wanted)])
        return value.item(), (grads * by_log).numpy()

    def ours() -> tuple[float, np.ndarray]:
        return gradient(gp_log_marginal(mean, kernel, likelihood, x, y))

    def theirs() -> tuple[float, np.ndarray]:
        with gpytorch.settings.fast_computations(False, False, False), gpytorch.settings.max_cholesky_size(10**6):
            return gradient(mll(model(x), y) * n)

    lengthscale = kernel.base_kernel.lengthscale.detach().numpy().ravel()
    scikit = GaussianProcessRegressor(
        sk.ConstantKernel(OUTPUTSCALE) * sk.RBF(lengthscale) + sk.WhiteKernel(NOISE), alpha=0.0, optimizer=None
    )
    scikit.X_train_, scikit.y_train_, scikit.kernel_ = x.numpy(), y.numpy(), scikit.kernel

    def by_scikit() -> tuple[float, np.ndarray]:
        return scikit.log_marginal_likelihood(scikit.kernel.theta, eval_gradient=True)

    return {"probmodel": ours, "GPyTorch": theirs, "scikit-learn": by_scikit}


def sparse_runs(dtype: torch.dtype) -> dict[str, Run]:
    """Window of Adam steps by each package, which returns the last loss and no gradient; both take the same steps."""
    x, y = (t.to(dtype) for t in problem(ROWS))
    data = pb.Dataset((x, y), size=ROWS)

    def parts() -> tuple[Sparse, GaussianLikelihood, list[torch.Tensor]]:
        kernel, likelihood = (module.to(dtype) for module in modules())
        model = Sparse(x[:INDUCING].clone(), kernel).to(dtype).train()
        model.variational_strategy.variational_params_initialized.fill_(1)
        return model, likelihood, [*model.parameters(), *likelihood.parameters()]

    def order() -> Order:
        with pb.isolated(seed=1):
            return minibatches(data, BATCH)

    def ours() -> Run:
        model, likelihood, leaves = parts()
        strategy, q = model.variational_strategy, model.variational_strategy._variational_distribution
        given = strategy.inducing_points, q.variational_mean, q.chol_variational_covar

        def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return -svgp_elbo(model.mean, model.kernel, likelihood, *given, x, y, ROWS)

        rows = order()
        gradient = Gradient(loss, leaves, x[rows.first], y[rows.first])
        optimizer = torch.optim.Adam(leaves, 1e-3, fused=True)
        steps = descent(gradient, Batches((x, y), ROWS), rows, optimizer)
        steps.compile()
        return lambda: (steps.advance(WINDOW).losses[-1], np.zeros(0))

    def theirs() -> Run:
        model, likelihood, leaves = parts()
        optimizer = torch.optim.Adam(leaves, 1e-3, fused=True)
        mll = gpytorch.mlls.VariationalELBO(likelihood, model, ROWS)
        rows = order()

        def steps() -> tuple[float, np.ndarray]:
            for index in islice(rows, WINDOW):
                optimizer.zero_grad()
                loss = -mll(model(x[index]), y[index]) * ROWS
                loss.backward()
                optimizer.step()
            return loss.item(), np.zeros(0)

        return steps

    return {"probmodel": ours(), "GPyTorch, sparse": theirs()}


def race(
    task: str, runs: Mapping[str, Run], rounds: Mapping[str, int], dtype: torch.dtype = torch.float64
) -> Iterator[Row]:
    """Rows of one task: the packages take turns, and their results have to agree."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    warm_up = {name: run() for name, run in runs.items()}
    for i in range(max(rounds.values())):
        found = {}
        for name, run in runs.items():
            if i < rounds[name]:
                time.sleep(ASLEEP)
                if all(turns > SCIKIT_ROUNDS for turns in rounds.values()):
                    run()
                begin = time.perf_counter()
                found[name] = run()
                seconds[name].append(time.perf_counter() - begin)
        _check_agreement(task, found, AGREEMENT[dtype])
    _check_agreement(task, warm_up, AGREEMENT[dtype])
    for name in list(runs)[1:]:
        yield row(
            f"{task} / {name}",
            statistics.median(a / b for a, b in zip(seconds["probmodel"], seconds[name], strict=False)),
            "ratio of seconds",
            reference=AT_MOST[name],
            at_most=AT_MOST[name],
            seconds=statistics.median(seconds["probmodel"]),
            reference_seconds=statistics.median(seconds[name]),
            rounds=len(seconds[name]),
            threads=torch.get_num_threads(),
            source=f"{name}, seconds for the same number in the same run, in turns",
        )


def _check_agreement(task: str, found: Mapping[str, tuple[float, np.ndarray]], agreement: float) -> None:
    value, gradient = found["probmodel"]
    for name, (other, theirs) in found.items():
        apart = max(abs(value - other) / abs(other), np.max(np.abs(gradient - theirs), initial=0.0) / abs(other))
        if not apart < agreement:
            raise RuntimeError(
                f"expected equal results of {task}, got those of {name} and probmodel {apart:.1e} apart; times are comparable "
                "for equal results only"
            )


def process_rows(*, quick: bool) -> Iterator[Row]:
    """Rows of all tasks."""
    for n, rounds in {200: 3}.items() if quick else SIZES.items():
        of_scikit = rounds if n < 1000 else SCIKIT_ROUNDS
        each = {"probmodel": rounds, "GPyTorch": rounds, "scikit-learn": of_scikit}
        yield from race(f"exact, {n} × {COLUMNS}", exact_runs(n), each)
    windows = 2 if quick else 9
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Matrices this small are faster on one thread.
    for dtype in (torch.float32, torch.float64):
        name = f"{WINDOW} steps, {INDUCING} inducing, batch {BATCH}, {str(dtype).removeprefix('torch.')}, 1 thread"
        yield from race(name, sparse_runs(dtype), {"probmodel": windows, "GPyTorch, sparse": windows}, dtype)
    torch.set_num_threads(threads)


def line(found: Row) -> str:
    """Text of a row: milliseconds of both and their ratio."""
    return (
        f"{found['task']:<52}{1e3 * found['seconds']:>10.2f} ms{1e3 * found['reference_seconds']:>12.2f} ms"
        f"{found['value']:>8.3f}  at most {found['at_most']:g} {verdict(found)}"
    )
