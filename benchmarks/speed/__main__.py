"""Speed of SVI steps, samplers, gradients, compiling, memory and Gaussian processes, as ratios to other contenders in one run.

    python -m benchmarks.speed [--quick] [--peers] [--only TEXT] [--out FILE.json]

Contenders take turns (A B A B …) and a ratio is the median over the turns, so that other load on the machine affects both.
Hand-written PyTorch is always among the contenders of steps and gradients; `--peers` adds Pyro and those of NumPyro, blackjax and
nutpie (extra `peers`) that are installed.  Gaussian processes are compared with GPyTorch and scikit-learn.  `--only` selects the
tasks whose name contains the text, for example "SVI logistic", "HMC logistic", "draws hierarchy", "first step", "memory",
"import" or "Gaussian processes".  Steps are compared only after all contenders have reached the same loss, draws only with
equal means.
"""

import argparse
import json
import sys
from collections.abc import Iterator

import torch

from benchmarks.rows import Row, add_only, line, options, status, tabulate
from benchmarks.speed import gaussian_processes
from benchmarks.speed.gradients import gradient_rows
from benchmarks.speed.models import SAMPLING_PROBLEMS, SVI_PROBLEMS
from benchmarks.speed.processes import first_step_rows, import_rows, memory_rows, probe
from benchmarks.speed.samplers import sampler_rows
from benchmarks.speed.svi import svi_rows

ROUNDS, QUICK_ROUNDS = 9, 3
SEEDS = 3
QUICK_SVI, QUICK_SAMPLING = 2, 1
"""Number of the selected problems in a quick run."""


def rows(only: str, *, quick: bool, peers: bool) -> Iterator[Row]:
    """Rows of all tasks whose name contains `only`."""
    rounds, threads = QUICK_ROUNDS if quick else ROUNDS, torch.get_num_threads()
    if only in "import":
        yield from import_rows(rounds=rounds)
    for name in [each for each in SVI_PROBLEMS if only in f"SVI {each}"][: QUICK_SVI if quick else None]:
        yield from svi_rows(SVI_PROBLEMS[name](), rounds=rounds, quick=quick, peers=peers)
    if only in "HMC logistic":
        yield from gradient_rows(rounds=rounds, peers=peers)
    for name in [each for each in SAMPLING_PROBLEMS if only in f"draws {each}"][: QUICK_SAMPLING if quick else None]:
        yield from sampler_rows(SAMPLING_PROBLEMS[name](), rounds=1 if quick else SEEDS, quick=quick, peers=peers)
    costly = [] if quick else [each for each in SVI_PROBLEMS if each != "MLP-VAE, batch 512"]
    yield from first_step_rows([each for each in costly if only in f"first step {each}"])
    yield from memory_rows([each for each in costly if "VAE" in each and only in f"memory {each}"])
    if only in "Gaussian processes":
        torch.set_num_threads(threads)  # Turns above set the number that each contender is fastest with.
        yield from gaussian_processes.process_rows(quick=quick)


def text(found: Row) -> str:
    """Text of a row; Gaussian processes show the milliseconds of both."""
    return gaussian_processes.line(found) if "reference_seconds" in found else line(found)


def main() -> None:
    """Print the table, and write it if asked to."""
    parser = options(__doc__, "smoke size: few turns, few problems, no losses compared")
    parser.add_argument("--peers", action="store_true", help="compare with Pyro, NumPyro, blackjax and nutpie")
    add_only(parser, "tasks")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        print(json.dumps(probe(*arguments.probe)))
        return
    table = tabulate(rows(arguments.only, quick=arguments.quick, peers=arguments.peers), arguments.out, text)
    sys.exit(0 if arguments.quick else status(table))


if __name__ == "__main__":
    main()
