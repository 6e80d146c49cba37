"""How fast: steps of SVI, draws of samplers, gradients, compiling and memory, each as a ratio to another contender in one run.

    python benchmarks/speed.py [--quick] [--peers] [--only TEXT] [--out FILE.json]

Contenders take turns (A B A B …) and a ratio is the median over the turns, so that a busy machine hits both. Hand-written
PyTorch is always beside ours; `--peers` adds Pyro and whichever of NumPyro, blackjax and nutpie (extra `peers`) are installed.
`--only` keeps the tasks whose name contains the text. Steps are compared only after contenders have been seen to reach the same
loss, draws the same means.
"""

import argparse
import json
import sys
from collections.abc import Iterator

from benchmarks.rows import Row, options, status, tabulate
from benchmarks.speed.gradients import gradient_rows
from benchmarks.speed.models import SAMPLING_PROBLEMS, SVI_PROBLEMS
from benchmarks.speed.processes import first_step_rows, memory_rows, probe
from benchmarks.speed.samplers import sampler_rows
from benchmarks.speed.svi import svi_rows

ROUNDS, QUICK_ROUNDS = 9, 3
SEEDS = 3
QUICK_SVI, QUICK_SAMPLING = 2, 1
"""How many of the chosen problems a quick run takes."""


def rows(only: str, *, quick: bool, peers: bool) -> Iterator[Row]:
    """All rows of the tasks whose name contains `only`."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    for name in [each for each in SVI_PROBLEMS if only in f"SVI {each}"][: QUICK_SVI if quick else None]:
        yield from svi_rows(SVI_PROBLEMS[name](), rounds=rounds, quick=quick, peers=peers)
    if only in "HMC logistic":
        yield from gradient_rows(rounds=rounds, peers=peers)
    for name in [each for each in SAMPLING_PROBLEMS if only in f"draws {each}"][: QUICK_SAMPLING if quick else None]:
        yield from sampler_rows(SAMPLING_PROBLEMS[name](), rounds=1 if quick else SEEDS, quick=quick, peers=peers)
    costly = [] if quick else [each for each in SVI_PROBLEMS if each != "MLP-VAE, batch 512"]
    yield from first_step_rows([each for each in costly if only in f"first step {each}"])
    yield from memory_rows([each for each in costly if "VAE" in each and only in f"memory {each}"])


def main() -> None:
    """Print the table; write it where asked."""
    parser = options(__doc__, "smoke size: few turns, few problems, no losses compared")
    parser.add_argument("--peers", action="store_true", help="beside Pyro, NumPyro, blackjax and nutpie")
    parser.add_argument("--only", default="", metavar="TEXT", help="tasks whose name contains the text")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        print(json.dumps(probe(*arguments.probe)))
        return
    table = tabulate(rows(arguments.only, quick=arguments.quick, peers=arguments.peers), arguments.out)
    sys.exit(0 if arguments.quick else status(table))


if __name__ == "__main__":
    main()
