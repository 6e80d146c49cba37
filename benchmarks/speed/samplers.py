"""Effective draws per second of samplers; warm-up and sampling count, compiling does not."""

import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence

import arviz as az
import numpy as np
import torch

import probmodel as pb
from benchmarks.rows import Row, row
from benchmarks.speed import other_packages
from benchmarks.speed.models import Drawn, Sampler, SamplingProblem, Settings
from benchmarks.speed.turns import ratio

SAME_MEAN = 5.0
"""Standard errors by which the means of two samplers may differ, over all coordinates."""
CHEES, NUTS = 2.0, 20.0
"""Smallest ratio allowed of our effective draws per second to theirs: ChEES to the best NUTS in JAX, NUTS to that of Pyro."""


def ours(problem: SamplingProblem, method: type[pb.NUTS] | type[pb.ChEES], threads: int, chosen: Settings) -> Sampler:
    """Our sampler, called as its users call it."""
    settings = method(
        num_samples=chosen.draws, num_warmup=chosen.warmup, num_chains=chosen.chains, compile=True, progress=False
    )

    def run(seed: int) -> Drawn:
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = settings(problem.model, problem.data, seed=seed)
        seconds = time.perf_counter() - begin
        draws = problem.flat({name: value.numpy(force=True) for name, value in fit.draws.items()})
        total = float(fit.info["seconds_sampling"])
        return Drawn(draws, seconds - total, math.nan, math.nan, total)

    return Sampler(chosen.label(f"our {method.__name__}"), run, "ours", threads)


def samplers(problem: SamplingProblem, *, quick: bool, peers: bool) -> list[Sampler]:
    """Contenders of one problem."""
    scale = 10 if quick else 1
    few, many = Settings(4, 1_000 // scale, 1_000 // scale), Settings(64, 300 // scale, 300 // scale)
    found = [ours(problem, pb.ChEES, 2, many._replace(chains=chains)) for chains in ((64,) if quick else (64, 256))]
    found += [ours(problem, pb.NUTS, 1, few._replace(chains=1) if quick else few)]
    if peers:
        found += other_packages.samplers(problem, few, many, Settings(1, 100 // scale, 100 // scale))
    return found


def sampler_rows(problem: SamplingProblem, *, rounds: int, quick: bool, peers: bool) -> Iterator[Row]:
    """Rows of one problem: effective draws per second of each contender, agreement of all, and ours over those of others."""
    contenders = samplers(problem, quick=quick, peers=peers)
    runs: dict[str, list[Drawn]] = {each.name: [] for each in contenders}
    for seed in range(rounds):
        for each in contenders:
            torch.set_num_threads(each.threads)
            # One run of Pyro, of a minute, is precise enough.
            again = each.package == "pyro" and seed > 0
            runs[each.name].append(runs[each.name][0] if again else each.run(seed))
    sizes = {name: [min_ess(run.draws) for run in drawn] for name, drawn in runs.items()}
    rate = {name: [ess / run.total_seconds for ess, run in zip(sizes[name], runs[name], strict=True)] for name in runs}
    for name, drawn in runs.items():
        yield _alone(problem, name, drawn, sizes[name], rate[name])
    worst = _largest_z(runs, sizes)
    yield row(f"draws {problem.name}: same means", worst, "standard errors", reference=0.0, at_most=SAME_MEAN)
    for method, packages, bound in (("ChEES", ("blackjax", "numpyro"), CHEES), ("NUTS", ("pyro",), NUTS)):
        mine = _quickest(contenders, rate, ("ours",), method)
        other = _quickest(contenders, rate, packages, "NUTS")
        if mine and other:
            yield _against(problem, mine, other, rate, bound)


def min_ess(draws: np.ndarray) -> float:
    """Smallest bulk effective sample size over the coordinates (Vehtari et al., 2021)."""
    return min(float(az.ess(draws[:, :, each])) for each in range(draws.shape[2]))


def _alone(problem: SamplingProblem, name: str, drawn: list[Drawn], sizes: list[float], rate: list[float]) -> Row:
    """Row of one contender, without bounds."""
    alone = float(np.median([ess / run.sampling_seconds for ess, run in zip(sizes, drawn, strict=True)]))
    total = float(np.median([run.total_seconds for run in drawn]))
    compiling = drawn[0].compile_seconds
    print(
        f"    {name:<50}{np.median(rate):>10.0f} ESS/s, sampling only {alone:>9.0f}; "
        f"ESS {np.median(sizes):>7.0f} in {total:.3f} s, compiling {compiling:.1f} s",
        flush=True,
    )
    return row(
        f"draws {problem.name}: {name}, min bulk ESS a second",
        float(np.median(rate)),
        "1/s",
        reference=alone,
        seconds=total,
        source="reference: sampling only; no bound",
        compile_seconds=compiling,
    )


def _quickest(
    contenders: Sequence[Sampler], rate: Mapping[str, list[float]], packages: Sequence[str], method: str
) -> str | None:
    """Name of the contender with the most effective draws per second; None if no such package is installed."""
    names = [each.name for each in contenders if each.package in packages and method in each.name]
    return max(names, key=lambda name: float(np.median(rate[name])), default=None)


def _against(problem: SamplingProblem, mine: str, other: str, rate: Mapping[str, list[float]], bound: float) -> Row:
    return row(
        f"draws {problem.name}: {mine} against {other}",
        ratio(rate[mine], rate[other]),
        "times the ESS per second",
        reference=float(np.median(rate[other])),
        at_least=bound,
        seconds=1 / float(np.median(rate[mine])),
        source=f"{other}, min bulk ESS per second; seconds: ours for one effective draw",
    )


def _largest_z(runs: Mapping[str, list[Drawn]], sizes: Mapping[str, list[float]]) -> float:
    """Largest difference of a mean to that of the sampler with the most effective draws, in standard errors."""
    best = max(sizes, key=lambda name: sum(sizes[name]))
    reference = np.concatenate([run.draws.reshape(-1, run.draws.shape[2]) for run in runs[best]])
    gaps = [0.0]
    for name in runs.keys() - {best}:
        for run, size in zip(runs[name], sizes[name], strict=True):
            stderr = reference.std(0) * math.sqrt(1 / size + 1 / sum(sizes[best]))
            gaps.append(np.abs((run.draws.mean((0, 1)) - reference.mean(0)) / stderr).max())
    # The built-in max would ignore NaN.
    return float(np.max(gaps))
