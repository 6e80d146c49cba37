"""Work that fills the device: thousands of annealing chains, and a sparse Gaussian process of 45,730 rows."""

import time
from collections.abc import Iterator

import torch

import probmodel as pb
from benchmarks.gaussian_processes import regressions
from benchmarks.rows import Row, row
from probmodel.data.problems import eight_schools

CHAINS = 4_096


def annealing_rows() -> Iterator[Row]:
    """Row of annealing with thousands of chains at once."""
    problem = eight_schools()
    target = pb.target(problem.model, problem.data.to("cuda"))
    begin = time.perf_counter()
    found = pb.evidence.ais(target, seed=0, num_chains=CHAINS)
    torch.cuda.synchronize()
    error = abs(found.log_z - problem.log_z) / max(found.stderr, 1e-12)
    seconds = time.perf_counter() - begin
    yield row(f"GPU AIS, {CHAINS} chains: error in standard errors", error, "", at_most=4.0, seconds=seconds)


def sparse_rows() -> Iterator[Row]:
    """Rows of a sparse process by natural gradients on one split of protein, 45,730 rows."""
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
