"""How fast: steps of SVI, draws of samplers, gradients, compiling and memory, each as a ratio to another contender in one run.

    python benchmarks/speed.py [--quick] [--peers] [--only TEXT] [--out FILE.json]

Contenders take turns (A B A B …) and a ratio is the median over the turns, so that a busy machine hits both. Hand-written
PyTorch is always beside ours; `--peers` adds Pyro, NumPyro, blackjax and nutpie (extra `peers`). `--only` keeps the tasks whose
name contains the text. Steps are compared only after contenders have been seen to reach the same loss, draws the same means.
"""

import argparse
import ctypes
import gc
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import torch
from pyro.infer.autoguide import AutoNormal
from speed_hand_written import leapfrogs, small_step, vae_step_fused, vae_step_in_graph
from speed_models import (
    SAMPLING_PROBLEMS,
    SVI_PROBLEMS,
    Contender,
    Drawn,
    Sampler,
    SamplingProblem,
    SVIProblem,
    sampling_logistic,
)

import probmodel as pb
from probmodel.inference.descent import WINDOW, Batches, descent, minibatches
from probmodel.tracing import Batched, Gradient, own

ROUNDS = 9
QUICK_ROUNDS = 3
TURN_SECONDS = 0.4
"""About how long a contender runs before the other's turn."""
SAME_LOSS = 0.02
"""Relative difference of mean losses that one draw a step leaves."""
SAME_MEAN = 5.0
"""Standard errors that the means of two samplers may differ by, over all coordinates."""

AT_MOST = {"hand-written": {True: 1.3, False: 1.1}, "NumPyro": {True: 1.3, False: 1.0}}
"""Our time of a step over theirs: of small models (True) and of autoencoders."""
PYRO_STEPS = 15.0
CHEES = 2.0
NUTS = 20.0
FIRST_STEP = 20.0
WARM_STEP = 3.0
MEMORY = 1.2
CHAINS, LEAPFROGS, STEP_SIZE = 256, 10, 0.05


# ---------------------------------------------------------------------------------------------- ours


def ours(problem: SVIProblem, threads: int) -> Contender:
    """Our steps, as `pb.SVI` runs them: minibatch, traced and compiled ELBO with its gradient, Adam."""
    data = problem.data
    with pb.isolated(seed=0):
        model, guide, leaves = own(problem.model, problem.guide, AutoNormal, data)
    parts, order = Batches(data.tensors(), data.num_rows), minibatches(data, problem.batch_size)
    first = next(order)

    def loss(*tensors: torch.Tensor) -> torch.Tensor:
        values = iter(tensors)
        return pb.objectives.elbo(model, guide, data.map(lambda _: next(values)))

    gradient = Gradient(loss, list(leaves.values()), *parts.at(first))
    optimizer = torch.optim.Adam(list(leaves.values()), lr=problem.learning_rate, fused=True)
    way = descent(gradient, parts, chain([first], order), optimizer)
    way.compile()

    def run(n: int) -> float:
        done: list[float] = []
        while len(done) < n:
            done += way.advance(min(WINDOW, n - len(done))).losses
        return sum(done) / n / (data.size or 1)

    return Contender(f"ours, {_threads(threads)}", run, threads)


def our_first_step(problem: SVIProblem) -> None:
    """What a user waits for: ten steps of a compiled fit."""
    settings = pb.SVI(
        num_steps=10, batch_size=problem.batch_size, guide=problem.guide, compile=True, num_draws=1, progress=False
    )
    settings(problem.model, problem.data, seed=0)


def our_nuts(problem: SamplingProblem, chains: int, warmup: int, draws: int) -> Sampler:
    """`pb.NUTS` as called by its users."""
    settings = pb.NUTS(num_samples=draws, num_warmup=warmup, num_chains=chains, compile=True, progress=False)
    return Sampler(f"our NUTS, {chains} chains, {warmup} + {draws}", _fitted(problem, settings), "ours", 1)


def our_chees(problem: SamplingProblem, chains: int, warmup: int, draws: int) -> Sampler:
    """`pb.ChEES`, many chains at once.

    Raises:
        AttributeError: where the package has no such sampler.
    """
    settings = pb.ChEES(num_samples=draws, num_warmup=warmup, num_chains=chains, compile=True, progress=False)
    return Sampler(f"our ChEES, {chains} chains, {warmup} + {draws}", _fitted(problem, settings), "ours", 2)


def our_leapfrogs(problem: SamplingProblem) -> Contender:
    """Transitions of Hamiltonian Monte Carlo on the traced, compiled log joint of all chains."""
    target = pb.target(problem.model, problem.data)

    def negative(theta: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        value = target.log_joint(theta)
        return value.sum(), (value,)

    gradient = Batched(negative, eager=False)
    gradient.compile()
    state = {"theta": torch.zeros(CHAINS, target.dim)}

    def run(n: int) -> float:
        means = []
        for _ in range(n):
            theta = state["theta"]
            momentum = torch.randn_like(theta)
            slope, value = gradient(theta)
            start = value - 0.5 * momentum.square().sum(-1)
            moved, at = theta, value
            for _ in range(LEAPFROGS):
                momentum = momentum + 0.5 * STEP_SIZE * slope
                moved = moved + STEP_SIZE * momentum
                slope, at = gradient(moved)
                momentum = momentum + 0.5 * STEP_SIZE * slope
            accepted = torch.rand(CHAINS).log() < at - 0.5 * momentum.square().sum(-1) - start
            state["theta"] = torch.where(accepted[:, None], moved, theta)
            means.append(torch.where(accepted, at, value).mean())
        return float(torch.stack(means).mean())

    return Contender("ours", run)


def _fitted(problem: SamplingProblem, settings: Any) -> Callable[[int], Drawn]:
    def run(seed: int) -> Drawn:
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = settings(problem.model, problem.data, seed=seed)
        seconds = time.perf_counter() - begin
        draws = problem.flat({name: value.numpy(force=True) for name, value in fit.draws.items()})
        # Without the word of the fit itself, tracing and compiling count as sampling: against us.
        total = float(fit.info.get("seconds_sampling", seconds))
        return Drawn(draws, seconds - total, math.nan, math.nan, total)

    return run


# ---------------------------------------------------------------------------------------------- taking turns


def turns(contenders: Sequence[Any], rounds: int, seconds: float = TURN_SECONDS) -> dict[str, list[float]]:
    """Seconds a step of each contender in each round, all taking turns; the first run of each, which compiles, is left out."""
    steps = {}
    for each in contenders:
        torch.set_num_threads(each.threads)
        each.run(each.chunk)
        begin = time.perf_counter()
        each.run(each.chunk)
        steps[each.name] = each.chunk * max(1, round(seconds / (time.perf_counter() - begin)))
    found: dict[str, list[float]] = {each.name: [] for each in contenders}
    for _ in range(rounds):
        for each in contenders:
            torch.set_num_threads(each.threads)
            begin = time.perf_counter()
            each.run(steps[each.name])
            found[each.name].append((time.perf_counter() - begin) / steps[each.name])
    return found


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Median of the ratios of neighbours in time."""
    return float(np.median(np.asarray(a) / np.asarray(b)))


def fastest(contenders: Sequence[Contender], rounds: int = 3) -> Contender:
    """The one with the least median time a step; a short race."""
    if len(contenders) == 1:
        return contenders[0]
    seconds = turns(contenders, rounds, 0.2)
    return min(contenders, key=lambda each: float(np.median(seconds[each.name])))


# ---------------------------------------------------------------------------------------------- steps of SVI


def hand_written(problem: SVIProblem, counts: "Counter[str]", *, quick: bool) -> Contender:
    """The fastest of a few ways to write the step by hand."""
    if problem.small:
        ways = [("Python wrapper", 1, lambda: small_step(problem, cpp_wrapper=False))]
        ways += [("C++ wrapper", 1, lambda: small_step(problem, cpp_wrapper=True))]
    else:
        ways = [("Adam in graph", 2, lambda: vae_step_in_graph(problem))]
        ways += [("fused Adam", 2, lambda: vae_step_fused(problem))]
        if problem.name.startswith("CNN"):
            ways += [("Adam in graph, channels last", 2, lambda: vae_step_in_graph(problem, channels_last=True))]
            ways += [("fused Adam, channels last", 2, lambda: vae_step_fused(problem, channels_last=True))]
    return fastest(
        [
            _counted(_built(f"hand-written, {name}", threads, build), counts)
            for name, threads, build in ways[: 1 if quick else 4]
        ]
    )


def svi_rows(problem: SVIProblem, *, rounds: int, quick: bool, peers: bool) -> Iterator[dict[str, Any]]:
    """Rows of one problem: our seconds a step over each other contender's."""
    threads = (1, 2) if problem.small and not quick else (1 if problem.small else 2,)
    counts: Counter[str] = Counter()
    mine = fastest(
        [
            _counted(_built(f"ours, {_threads(count)}", count, lambda count=count: ours(problem, count).run), counts)
            for count in threads
        ]
    )
    contenders: list[Any] = [mine, hand_written(problem, counts, quick=quick)]
    if peers:
        from speed_peers import numpyro_svi, pyro_svi  # noqa: PLC0415 - an extra

        convolutional = problem.name.startswith("CNN")
        contenders += [_counted(numpyro_svi(problem, 1 if convolutional else problem.chunk), counts)]
        choices = [_counted(pyro_svi(problem, count), counts) for count in ((1, 2) if not quick else (1,))]
        contenders += [fastest(choices)]
    seconds = turns(contenders, rounds)
    most = max(counts[each.name] for each in contenders)
    settled = {} if quick else {each.name: _settled(each, problem, most, counts) for each in contenders}
    for name, loss in settled.items():
        print(f"    {name:<46}{np.median(seconds[name]) * 1e3:>10.4f} ms a step   loss {loss:.4f}", flush=True)
    for name in () if settled else seconds:
        print(f"    {name:<46}{np.median(seconds[name]) * 1e3:>10.4f} ms a step", flush=True)
    if settled:
        spread = max(settled.values()) / min(settled.values()) - 1
        yield _row(f"SVI {problem.name}: largest difference of losses", spread, "share", 0.0, at_most=SAME_LOSS)
    for other in contenders[1:]:
        task = f"SVI {problem.name}: {mine.name} against {other.name}"
        common = {"reference": float(np.median(seconds[other.name])), "seconds": float(np.median(seconds[mine.name]))}
        source = f"{other.name}, seconds a step; median of {rounds} ratios of neighbouring turns"
        if other.name.startswith("Pyro"):
            bound = {"at_least": PYRO_STEPS} if problem.small else {"at_least": 1.0}
            value = ratio(seconds[other.name], seconds[mine.name])
            yield _row(task, value, "times faster", source=source, **common, **bound)
            continue
        bounds = AT_MOST[other.name.split(",")[0]]
        value = ratio(seconds[mine.name], seconds[other.name])
        yield _row(task, value, "times their time", source=source, at_most=bounds[problem.small], **common)


def _settled(contender: Any, problem: SVIProblem, steps: int, counts: "Counter[str]") -> float:
    """Mean loss once a contender has taken as many steps as the fastest one: an early loss says how early it is."""
    torch.set_num_threads(contender.threads)
    behind = steps - counts[contender.name]
    contender.run(contender.chunk * max(1, math.ceil(behind / contender.chunk)))
    return contender.run(contender.chunk * math.ceil(problem.settle / contender.chunk))


def _counted(contender: Any, counts: "Counter[str]") -> Any:
    """The contender, with its steps counted under its name."""

    def run(n: int) -> float:
        counts[contender.name] += n
        return contender.run(n)

    return contender._replace(run=run)


# ---------------------------------------------------------------------------------------------- samplers


def min_ess(draws: np.ndarray) -> float:
    """Least bulk effective sample size of the coordinates (Vehtari et al., 2021)."""
    return min(float(az.ess(draws[:, :, each])) for each in range(draws.shape[2]))


def samplers(problem: SamplingProblem, *, quick: bool, peers: bool) -> list[Any]:
    """Contenders of one problem; ChEES is left out where the package has none."""
    found: list[Any] = []
    scale = 10 if quick else 1
    try:
        found += [our_chees(problem, chains, 300 // scale, 300 // scale) for chains in ((64,) if quick else (64, 256))]
    except AttributeError as error:
        print(f"    left out: {error}")
    found.append(our_nuts(problem, 1 if quick else 4, 1_000 // scale, 1_000 // scale))
    if not peers:
        return found
    import speed_peers as other  # noqa: PLC0415 - an extra

    few, many = other.Settings(4, 1_000 // scale, 1_000 // scale), other.Settings(64, 300 // scale, 300 // scale)
    found += [other.blackjax_nuts(problem, settings) for settings in (few._replace(chains=1), few, many)]
    found += [other.blackjax_chees(problem, many)]
    found += [other.numpyro_nuts(problem, few, "sequential"), other.numpyro_nuts(problem, few, "vectorized")]
    found += [
        other.numpyro_nuts(problem, many, "vectorized"),
        other.numpyro_nuts(problem, few._replace(chains=2), "parallel"),
    ]
    found += [other.nutpie_nuts(problem, few)]
    found += [other.pyro_nuts(problem, other.Settings(1, 100 // scale, 100 // scale))]
    return found


def sampler_rows(problem: SamplingProblem, *, rounds: int, quick: bool, peers: bool) -> Iterator[dict[str, Any]]:
    """Rows of one problem: effective draws a second, warm-up and sampling counted, compiling not."""
    contenders = samplers(problem, quick=quick, peers=peers)
    runs: dict[str, list[Drawn]] = {each.name: [] for each in contenders}
    for seed in range(rounds):
        for each in contenders:
            if each.package == "pyro" and seed:
                runs[each.name].append(runs[each.name][0])  # A minute of Pyro says as much as three.
                continue
            torch.set_num_threads(each.threads)
            runs[each.name].append(each.run(seed))
    sizes = {name: [min_ess(run.draws) for run in drawn] for name, drawn in runs.items()}
    rate = {name: [ess / run.total_seconds for ess, run in zip(sizes[name], runs[name], strict=True)] for name in runs}
    for name, drawn in runs.items():
        alone = np.median([ess / run.sampling_seconds for ess, run in zip(sizes[name], drawn, strict=True)])
        total = np.median([run.total_seconds for run in drawn])
        print(
            f"    {name:<50}{np.median(rate[name]):>10.0f} ESS/s, sampling only {alone:>9.0f}; "
            f"ESS {np.median(sizes[name]):>7.0f} in {total:.3f} s, compiling {drawn[0].compile_seconds:.1f} s",
            flush=True,
        )
        yield _row(
            f"draws {problem.name}: {name}, min bulk ESS a second",
            float(np.median(rate[name])),
            "1/s",
            float(alone),
            seconds=float(total),
            source="reference: sampling only; no bound",
            compile_seconds=drawn[0].compile_seconds,
        )
    yield _row(f"draws {problem.name}: same means", _largest_z(runs, sizes), "standard errors", 0.0, at_most=SAME_MEAN)
    if not peers:
        return
    nuts = [each.name for each in contenders if each.package in ("blackjax", "numpyro") and "NUTS" in each.name]
    best = max(nuts, key=lambda name: float(np.median(rate[name])))
    chees = [each.name for each in contenders if each.name.startswith("our ChEES")]
    if chees:
        mine = max(chees, key=lambda name: float(np.median(rate[name])))
        yield _against(problem, mine, best, rate, CHEES)
    mine = next(each.name for each in contenders if each.name.startswith("our NUTS"))
    slow = next(each.name for each in contenders if each.package == "pyro")
    yield _against(problem, mine, slow, rate, NUTS)


def _against(
    problem: SamplingProblem, mine: str, other: str, rate: dict[str, list[float]], bound: float
) -> dict[str, Any]:
    return _row(
        f"draws {problem.name}: {mine} against {other}",
        ratio(rate[mine], rate[other]),
        "times the ESS a second",
        float(np.median(rate[other])),
        at_least=bound,
        seconds=1 / float(np.median(rate[mine])),
        source=f"{other}, min bulk ESS a second; seconds: ours for one effective draw",
    )


def _largest_z(runs: dict[str, list[Drawn]], sizes: dict[str, list[float]]) -> float:
    """Largest difference of a coordinate's mean to that of the sampler with most effective draws, in standard errors."""
    best = max(sizes, key=lambda name: sum(sizes[name]))
    reference = np.concatenate([run.draws.reshape(-1, run.draws.shape[2]) for run in runs[best]])
    worst = 0.0
    for name, drawn in runs.items():
        if name == best:
            continue
        for run, size in zip(drawn, sizes[name], strict=True):
            stderr = reference.std(0) * math.sqrt(1 / size + 1 / sum(sizes[best]))
            gap = run.draws.mean((0, 1)) - reference.mean(0)
            worst = max(worst, float(np.abs(gap / stderr).max()))
    return worst


# ---------------------------------------------------------------------------------------------- gradients


def leapfrog_rows(*, rounds: int, peers: bool) -> Iterator[dict[str, Any]]:
    """Gradients a second of 256 chains of Hamiltonian Monte Carlo with ten leapfrogs."""
    problem = sampling_logistic()
    contenders: list[Any] = [our_leapfrogs(problem)]
    contenders += [Contender("hand-written", leapfrogs(problem, CHAINS, LEAPFROGS, STEP_SIZE))]
    if peers:
        from speed_peers import blackjax_hmc  # noqa: PLC0415 - an extra

        contenders += [blackjax_hmc(problem, CHAINS, LEAPFROGS, STEP_SIZE, 20)]
    seconds = turns(contenders, rounds)
    mine = contenders[0].name
    for name, found in seconds.items():
        print(f"    {name:<46}{CHAINS * LEAPFROGS / np.median(found):>12.0f} gradients a second", flush=True)
    for other in contenders[1:]:
        yield _row(
            f"HMC logistic, {CHAINS} chains, {LEAPFROGS} leapfrogs: {mine} against {other.name}",
            ratio(seconds[mine], seconds[other.name]),
            "times their time",
            float(np.median(seconds[other.name])),
            at_most=AT_MOST["hand-written"][True],
            seconds=float(np.median(seconds[mine])),
            source=f"{other.name}, seconds a transition",
        )


# ---------------------------------------------------------------------------------------------- compiling and memory


def compile_rows(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Seconds to a compiled fit's first steps in a new process: without compiled code kept by an earlier one, then with."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for label, bound in (("first process", FIRST_STEP), ("second process", WARM_STEP)):
                found = _probe("compile", name, {"TORCHINDUCTOR_CACHE_DIR": folder})
                task = f"first step {name}, {label}"
                yield _row(
                    task,
                    found["seconds"],
                    "s",
                    at_most=bound,
                    reference=bound,
                    seconds=found["seconds"],
                    source="required; imports not counted",
                )


def memory_rows(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Peak memory of a step, ours over hand-written, each in its own process."""
    for name in names:
        mine, other = _probe("memory ours", name), _probe("memory hand-written", name)
        for key, label in (("allocated", "tensors"), ("resident", "process")):
            yield _row(
                f"memory {name}, {label}",
                mine[key] / max(other[key], 1),
                "times theirs",
                float(other[key]),
                at_most=MEMORY,
                seconds=0.0,
                source=f"hand-written, Adam in graph, bytes; ours {mine[key]}",
            )


def probe(what: str, name: str) -> dict[str, float]:
    """One measurement in this process, which must be a new one."""
    problem = SVI_PROBLEMS[name]()
    torch.set_num_threads(1 if problem.small else 2)
    if what == "compile":
        begin = time.perf_counter()
        our_first_step(problem)
        return {"seconds": time.perf_counter() - begin}
    contender = ours(problem, 2) if what == "memory ours" else Contender("hand-written", vae_step_in_graph(problem))
    run, steps = contender.run, max(3, contender.chunk)
    run(steps)
    resident = _resident_growth(run, steps)
    return {"allocated": _allocated_peak(run, steps), "resident": resident}


def _allocated_peak(run: Callable[[int], float], steps: int) -> float:
    """Most bytes that tensors made within the steps held at once."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run(steps)
    kineto = profile.profiler.kineto_results.events()
    sizes = [(event.start_ns(), event.nbytes()) for event in kineto if event.name() == "[memory]"]
    return float(np.cumsum([size for _, size in sorted(sizes)]).max(initial=0.0))


def _resident_growth(run: Callable[[int], float], steps: int) -> float:
    """Bytes by which the process grows at most within the steps; Linux only, nan elsewhere."""
    if not Path("/proc/self/clear_refs").exists():
        return math.nan
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # Resets the high-water mark.
    before = _status("VmRSS")
    run(steps)
    return float(_status("VmHWM") - before)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _probe(what: str, name: str, environment: dict[str, str] | None = None) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), "--probe", what, name]
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"expected a measurement of {what!r} on {name!r}, got:\n{done.stderr[-2_000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------------------------------------- the table


def rows(only: str, *, quick: bool, peers: bool) -> Iterator[dict[str, Any]]:
    """All rows of the tasks whose name contains `only`."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    chosen = list(SVI_PROBLEMS)[:2] if quick else list(SVI_PROBLEMS)
    for name in chosen:
        if only in f"SVI {name}":
            yield from svi_rows(SVI_PROBLEMS[name](), rounds=rounds, quick=quick, peers=peers)
    if only in f"HMC {sampling_logistic().name}":
        yield from leapfrog_rows(rounds=rounds, peers=peers)
    for name, build in list(SAMPLING_PROBLEMS.items())[: 1 if quick else None]:
        if only in f"draws {name}":
            yield from sampler_rows(build(), rounds=1 if quick else 3, quick=quick, peers=peers)
    costly = [] if quick else [each for each in SVI_PROBLEMS if each != "MLP-VAE, batch 512"]
    yield from compile_rows([each for each in costly if only in f"first step {each}"])
    yield from memory_rows([each for each in costly if "VAE" in each and only in f"memory {each}"])


def show(row: dict[str, Any]) -> bool:
    """Print one row; whether it holds."""
    holds = not (row["value"] > row.get("at_most", math.inf) or row["value"] < row.get("at_least", -math.inf))
    bound = f"≤ {row['at_most']:g}" if "at_most" in row else f"≥ {row['at_least']:g}" if "at_least" in row else ""
    verdict = "" if not bound else "ok" if holds else "OFF"
    print(f"{row['task']:<104}{row['value']:>12.4g} {row['unit']}  {bound} {verdict}", flush=True)
    return holds


def main() -> None:
    """Print the table; write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smoke size: few turns, small models, no losses compared")
    parser.add_argument("--peers", action="store_true", help="beside Pyro, NumPyro, blackjax and nutpie")
    parser.add_argument("--only", default="", metavar="TEXT", help="tasks whose name contains the text")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        print(json.dumps(probe(*arguments.probe)))
        return
    result: dict[str, Any] = {"machine": platform.platform(), "commit": _commit(), "rows": []}
    wrong = []
    for row in rows(arguments.only, quick=arguments.quick, peers=arguments.peers):
        result["rows"].append(row)
        if not show(row):
            wrong.append(row["task"])
        if arguments.out:
            arguments.out.write_text(json.dumps(result, indent=1))
    sys.exit(f"outside their bounds: {wrong}" if wrong and not arguments.quick else 0)


def _row(task: str, value: float, unit: str, reference: float = math.nan, **more: Any) -> dict[str, Any]:
    row = {"task": task, "value": value, "reference": reference, "unit": unit, "seconds": 0.0, "source": "this run"}
    return {**row, **more}


def _built(name: str, threads: int, build: Callable[[], Callable[[int], float]]) -> Contender:
    """A contender compiled under the number of threads it will run with, which Inductor writes into its code."""
    torch.set_num_threads(threads)
    return Contender(f"{name}, {_threads(threads)}" if "thread" not in name else name, build(), threads)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()


if __name__ == "__main__":
    main()
