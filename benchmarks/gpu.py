"""How fast on a CUDA device: steps of SVI beside Pyro and hand-written PyTorch, many annealing chains, agreement with the CPU.

    python benchmarks/gpu.py [--quick] [--out FILE.json]

Without a device it says so and exits 0. Steps are captured as CUDA graphs, so that a step never waits for the host; matrix
products of feature extractors may use TensorFloat-32 where asked, log densities never do.
"""

import sys
import time
from collections.abc import Iterator

import speed_pyro
import torch
from rows import Row, options, row, status, tabulate
from speed_hand_written import vae_step_fused
from speed_models import SVI_PROBLEMS, Contender, SVIProblem
from speed_svi import ours
from speed_turns import faster, slower, turns

import probmodel as pb
from probmodel.data.problems import eight_schools

PYRO_STEPS = 10.0
HAND_WRITTEN = 1 / 0.9
"""Our time over the hand-written one: 90 % of its steps a second."""
AGREEMENT = 1e-4
CHAINS = 4_096


def step_rows(problem: SVIProblem, rounds: int) -> Iterator[Row]:
    """Our steps beside the others'."""
    contenders = [Contender("ours", ours(problem, "cuda")), Contender("Pyro", speed_pyro.svi(problem, "cuda"))]
    if not problem.small:
        contenders.append(Contender("hand-written, fused Adam", vae_step_fused(problem, device="cuda")))
    seconds = turns(contenders, rounds)
    task = f"GPU SVI {problem.name}"
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


def rows(*, quick: bool) -> Iterator[Row]:
    """What is measured, in order."""
    for build in list(SVI_PROBLEMS.values())[: 2 if quick else None]:
        yield from step_rows(build(), rounds=3 if quick else 9)
    yield from agreement_rows()
    yield from annealing_rows()


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
