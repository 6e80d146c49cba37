"""Contenders of other packages: Pyro, and NumPyro, blackjax and nutpie (extra `peers`) if installed."""

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
"""Transitions per call of blackjax."""


def svi(problem: SVIProblem, *, quick: bool) -> list[list[Contender]]:
    """Contenders of a step, one list per package."""
    found = []
    if numpyro := _installed("numpyro"):
        # XLA's convolutions on a CPU are some eight times slower inside a scan.
        found += [[numpyro.svi(problem, 1 if problem.convolutional else problem.chunk)]]
    threads = (1,) if quick else (1, 2)
    return [*found, [built("Pyro", count, partial(with_pyro.svi, problem)) for count in threads]]


def samplers(problem: SamplingProblem, few: Settings, many: Settings, short: Settings) -> list[Sampler]:
    """Few long chains and many short ones; a short run of Pyro.

    Args:
        problem: problem to sample.
        few: settings of few long chains.
        many: settings of many short chains.
        short: settings of Pyro.
    """
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
    """Module with the contenders of a package; None, with a printed line, if the package is not installed."""
    try:
        return importlib.import_module(f"benchmarks.speed.with_{package}")
    except ImportError as error:
        print(f"    left out: {package} ({error}); pip install 'probmodel[peers]'", flush=True)
        return None
