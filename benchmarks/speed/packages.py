"""Other packages' contenders in the speed tables: Pyro, and NumPyro, blackjax and nutpie (extra `peers`) where installed."""

import importlib
import os
from functools import partial
from typing import Any

from benchmarks.speed import with_pyro
from benchmarks.speed.models import Contender, Sampler, SamplingProblem, Settings, SVIProblem
from benchmarks.speed.turns import built

# XLA sees two host devices, so that NumPyro's parallel chains have one each.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

TRANSITIONS = 20
"""Of one call of blackjax."""


def svi(problem: SVIProblem, *, quick: bool) -> list[list[Contender]]:
    """Ways to take a step, by package."""
    found = []
    if numpyro := _installed("numpyro"):
        # XLA's convolutions on a CPU are some eight times slower inside a scan.
        found += [[numpyro.svi(problem, 1 if problem.convolutional else problem.chunk)]]
    threads = (1,) if quick else (1, 2)
    return [*found, [built("Pyro", count, partial(with_pyro.svi, problem)) for count in threads]]


def samplers(problem: SamplingProblem, few: Settings, many: Settings, short: Settings) -> list[Sampler]:
    """Few long chains and many short ones; of Pyro a short run."""
    found = []
    if blackjax := _installed("blackjax"):
        found += [blackjax.nuts(problem, settings) for settings in (few._replace(chains=1), few, many)]
        found += [blackjax.chees(problem, many)]
    if numpyro := _installed("numpyro"):
        found += [numpyro.nuts(problem, few, "sequential"), numpyro.nuts(problem, few, "vectorized")]
        found += [numpyro.nuts(problem, many, "vectorized")]
        found += [numpyro.nuts(problem, few._replace(chains=2), "parallel")]
    if nutpie := _installed("nutpie"):
        found += [nutpie.nuts(problem, few)]
    return [*found, with_pyro.nuts(problem, short)]


def hmc(problem: SamplingProblem, chains: int, leapfrogs: int, step_size: float) -> list[Contender]:
    """Transitions of many chains at once."""
    blackjax = _installed("blackjax")
    return [blackjax.hmc(problem, chains, leapfrogs, step_size, TRANSITIONS)] if blackjax else []


def _installed(package: str) -> Any:
    """The module of a package's contenders; None, and a line that says so, without the package."""
    try:
        return importlib.import_module(f"speed_{package}")
    except ImportError as error:
        print(f"    left out: {package} ({error}); pip install 'probmodel[peers]'", flush=True)
        return None
