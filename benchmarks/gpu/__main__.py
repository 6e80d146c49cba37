"""How fast on a CUDA device: steps of SVI beside Pyro and hand-written PyTorch, many annealing chains, Gaussian processes, and
whether its numbers are the CPU's.

    python benchmarks/gpu.py [--quick] [--out FILE.json]

Without a device it says so and exits 0. Steps are captured as CUDA graphs, so that a step never waits for the host; matrix
products of feature extractors may use TensorFloat-32 where asked, log densities never do.
"""

import sys
import time
from collections.abc import Iterator

import gp_mixtures
from benchmarks.gaussian_processes import regressions
import numpy as np
from benchmarks.speed import with_pyro
import torch
from gpytorch.kernels import MaternKernel
from benchmarks.rows import Row, options, row, status, tabulate
from benchmarks.speed.hand_written import vae_step_fused
from benchmarks.speed.models import SVI_PROBLEMS, Contender, SVIProblem
from benchmarks.speed.svi import ours
from benchmarks.speed.turns import faster, slower, turns

import probmodel as pb
from probmodel.data.problems import eight_schools

PYRO_STEPS = 10.0
HAND_WRITTEN = 1 / 0.9
"""Our time over the hand-written one: 90 % of its steps a second."""
AGREEMENT = 1e-4
SAME_ARITHMETIC = 1e-8
"""Relative difference in float64."""
CHAINS = 4_096


def step_rows(problem: SVIProblem, rounds: int) -> Iterator[Row]:
    """Our steps beside the others'."""
    contenders = [Contender("ours", ours(problem, "cuda")), Contender("Pyro", with_pyro.svi(problem, "cuda"))]
    if not problem.small:
        contenders.append(Contender("hand-written, fused Adam", vae_step_fused(problem, device="cuda")))
    seconds = turns(contenders, rounds)
    task = f"GPU SVI {problem.name}"
    for name, each in seconds.items():
        yield row(f"{task}: {name}", 1e3 * float(np.median(each)), "ms a step")
    yield faster(task, "ours", "Pyro", seconds, PYRO_STEPS)
    for other in list(seconds)[2:]:
        yield slower(task, "ours", other, seconds, HAND_WRITTEN)


def agreement_rows() -> Iterator[Row]:
    """The same density at the same points on both devices."""
    problem = eight_schools()
    near, far = pb.target(problem.model, problem.data), pb.target(problem.model, problem.data.to("cuda"))
    theta = near.sample_prior(1_000, 0)
    a, b = near.log_joint(theta), far.log_joint(theta.to("cuda")).cpu()
    value = float(((a - b).abs() / a.abs().clamp(min=1)).max())
    yield row("GPU against CPU: log joint, largest relative difference", value, "", at_most=AGREEMENT, reference=0.0)


def annealing_rows() -> Iterator[Row]:
    """Thousands of annealing chains at once."""
    problem = eight_schools()
    target = pb.target(problem.model, problem.data.to("cuda"))
    begin = time.perf_counter()
    found = pb.evidence.ais(target, seed=0, num_chains=CHAINS)
    torch.cuda.synchronize()
    error = abs(found.log_z - problem.log_z) / max(found.stderr, 1e-12)
    seconds = time.perf_counter() - begin
    yield row(f"GPU AIS, {CHAINS} chains: error in standard errors", error, "", at_most=4.0, seconds=seconds)


def process_rows() -> Iterator[Row]:
    """Evidence and predictions of processes, products and mixtures on both devices, in float64."""
    for name, numbers in (("evidence and prediction", _process), ("product", _product), ("mixture", _mixture)):
        near, far = numbers("cpu"), numbers("cuda").cpu()
        value = float(((near - far).abs() / near.abs().max()).max())
        task = f"GPU against CPU: Gaussian process, {name}, difference of the largest"
        yield row(task, value, "", at_most=SAME_ARITHMETIC, reference=0.0)


def _noisy_sine(device: str, rows: int = 500) -> pb.Dataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    y = torch.sin(2 * x[:, 0]) + 0.1 * torch.randn(rows, generator=generator, dtype=torch.float64)
    return pb.Dataset((x,), {"y": y}).to(device)


def _predicted(model: pb.protocols.Model, data: pb.Dataset) -> torch.Tensor:
    found = pb.predict(pb.Posterior(model, data, {}, {}), data.args[0][:50] + 0.1).distribution
    return torch.cat([found.mean.flatten(), found.variance.flatten()])


def _process(device: str) -> torch.Tensor:
    model = gp_mixtures.process(1.0, 1.0, 0.05, kernel=MaternKernel(nu=2.5)).to(device)
    data = _noisy_sine(device)
    evidence = pb.evidence.exact(pb.target(model, data))
    return torch.cat([torch.tensor([evidence.log_z], dtype=torch.float64, device=device), _predicted(model, data)])


def _product(device: str) -> torch.Tensor:
    expert = gp_mixtures.process(1.0, 1.0, 0.05, kernel=MaternKernel(nu=2.5))
    product = pb.gp.GPProduct(expert.kernel, mean=expert.mean, likelihood=expert.likelihood, shards=4)
    return _predicted(product.to(device), _noisy_sine(device))


def _mixture(device: str) -> torch.Tensor:
    mixture, data = gp_mixtures.known_experts(2).to(device), gp_mixtures.alternating().to(device)
    found = pb.evidence.assignments(pb.Posterior(mixture, data, {}, {}))
    return torch.tensor([found.log_z], dtype=torch.float64)


def sparse_rows() -> Iterator[Row]:
    """Protein, 45,730 rows, one split: a sparse process by natural gradients."""
    given = regressions.split(regressions.TASKS["protein"], 0)
    data = given._replace(train=given.train.to("cuda"), x=given.x.to("cuda"), y=given.y.to("cuda"))
    begin = time.perf_counter()
    found = regressions.svgp(data)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    y = data.y.to(found.mean).reshape(found.mean.shape)
    error = float((found.mean - y).square().mean().sqrt() * given.unit)
    at_most = regressions.TASKS["protein"].dropout.rmse[0]
    yield row("GPU protein by SVGP, one split, RMSE", error, "units of y", at_most=at_most, seconds=seconds)
    yield row(f"GPU protein by SVGP, {regressions.STEPS} steps and prediction, compiling included", seconds, "s")


def rows(*, quick: bool) -> Iterator[Row]:
    """What is measured, in order."""
    yield from process_rows()
    for build in list(SVI_PROBLEMS.values())[: 2 if quick else None]:
        yield from step_rows(build(), rounds=3 if quick else 9)
    yield from agreement_rows()
    yield from annealing_rows()
    if not quick:
        yield from sparse_rows()


def main() -> None:
    """Measure, print, write."""
    arguments = options(__doc__).parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing measured")
        return
    table = tabulate(rows(quick=arguments.quick), arguments.out, machine=torch.cuda.get_device_name())
    sys.exit(0 if arguments.quick else status(table))


if __name__ == "__main__":
    main()
