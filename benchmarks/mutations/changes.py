"""Whether the tests see a wrong sign, scale or Jacobian, in the evidence, a sampler or a step: one change at a time.

Each mutation is one textual change of a copy of the package in a temporary folder. The test files that should see it run on
that copy; a mutation that no test notices has survived, and the script exits with 1.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.rows import Row, options, row, tabulate

ROOT = Path(__file__).parents[1]
TIMEOUT = 900
"""Seconds; tests that hang on a mutation have noticed it."""


class Mutation(NamedTuple):
    """One change and the tests that should see it."""

    name: str
    file: str
    before: str
    """Text that has to occur exactly once."""
    after: str
    tests: tuple[str, ...]
    select: str = ""
    """Expression for pytest's -k: the quick ones of these tests."""


TEMPERING, BOUNDS = ("tests/evidence/test_annealing.py",), ("tests/evidence/test_evidence_bounds.py",)
CONTRACT, SITES = ("tests/contracts/test_evidence.py",), ("tests/tracing/test_sites.py",)
TARGET = ("tests/tracing/test_target.py",)
SANDWICH = ("tests/evidence/test_evidence_sandwich.py",)
DESCENT, SAMPLERS = ("tests/inference/test_descent.py",), ("tests/inference/test_samplers.py",)
MIXTURES, NATURAL = ("tests/layers/test_gp_mixture.py",), ("tests/inference/test_natural_gradients.py",)

MUTATIONS = (
    Mutation(
        "equal draws merged",
        "graphs.py",
        "return graph if lost else GraphModule(graph, merged)",
        "return GraphModule(graph, merged)",
        ("tests/tracing/test_compiling.py",),
        "never_taken",
    ),
    Mutation(
        "chains climb the density in place of a bound",
        "inference/settling.py",
        "bound = (above + below) / 2 + log_width.sum(-1)",
        "bound = (above + below) / 2",
        SAMPLERS,
        "hierarch",
    ),
    Mutation(
        "one ill-conditioned result excuses all",
        "rounding.py",
        "allowed = [max(a, AMPLIFIED * m) if m < math.inf else a for a, m in zip(allowed, moved, strict=True)]",
        "allowed = [max([*allowed, *(AMPLIFIED * m for m in moved if m < math.inf)])] * len(allowed)",
        ("tests/tracing/test_compiling.py",),
        "conditioned",
    ),
    Mutation(
        "score-function term left out",
        "objectives/elbo.py",
        "return loss + _score_terms(drawn, replayed, loss)",
        "return loss",
        DESCENT,
        "unbiased",
    ),
    Mutation(
        "Adam without its second bias correction",
        "inference/adam.py",
        "size, root = rate / (1 - first**steps), (1 - second**steps) ** 0.5",
        "size, root = rate / (1 - first**steps), 1.0",
        DESCENT,
        "walk_the_path_of_pytorchs",
    ),
    Mutation(
        "a gradient that is not finite moves its tensor",
        "inference/whole_step.py",
        "old.copy_(torch.where(good, new, old))",
        "old.copy_(new)",
        DESCENT,
        "not_finite",
    ),
    Mutation(
        "a gradient that is not finite overlooked",
        "inference/whole_step.py",
        "return torch.where((loss + total).isfinite(), loss, torch.nan)",
        "return loss",
        DESCENT,
        "not_finite",
    ),
    Mutation(
        "whole steps that forget the optimizer's moments",
        "inference/whole_step.py",
        "self.means, self.squares, self.steps = adam.continued(optimizer, self.leaves)",
        "self.steps = adam.continued(optimizer, self.leaves)[2]",
        DESCENT,
        "in_place_walk",
    ),
    Mutation(
        "hooks of an optimizer overlooked",
        "inference/adam.py",
        "if has_step_hooks(optimizer):",
        "if False:",
        DESCENT,
        "schedule_on_the_optimizer",
    ),
    Mutation(
        "ends of a trajectory counted in full",
        "inference/tree.py",
        "inner = total - 0.5 * (first + last)",
        "inner = total",
        SAMPLERS,
        "brute_force",
    ),
    Mutation(
        "kinetic energy with the wrong sign in a tree",
        "inference/tree.py",
        "gain = log_prob - 0.5 * momentum.square().sum(-1) - state.start",
        "gain = log_prob + 0.5 * momentum.square().sum(-1) - state.start",
        SAMPLERS,
        "skewed and NUTS",
    ),
    Mutation(
        "every proposal of a trajectory taken",
        "inference/chees.py",
        "taken = torch.rand(len(state.theta), **kind) < moved.accept",
        "taken = torch.rand(len(state.theta), **kind) < 2",
        SAMPLERS,
        "skewed and ChEES",
    ),
    Mutation(
        "criterion without the momentum",
        "inference/chees.py",
        "slope = (accept * gained * along).sum()",
        "slope = (accept * gained).sum()",
        SAMPLERS,
        "slope_of_the_criterion",
    ),
    Mutation(
        "upper bound without its minus",
        "evidence/bounds.py",
        "return -lower_bound(-log_w, level)",
        "return lower_bound(log_w, level)",
        BOUNDS,
        "mirror or equal_weights",
    ),
    Mutation(
        "sign of a forward weight",
        "tempering/annealing.py",
        "log_w = log_w + (following.beta - kernel.beta) * point.log_ratio.double()",
        "log_w = log_w - (following.beta - kernel.beta) * point.log_ratio.double()",
        TEMPERING,
        "forward_weights_are_unbiased",
    ),
    Mutation(
        "components of a mixture without their shares",
        "tempering/base.py",
        "component.log_prob(theta) + math.log(share)",
        "component.log_prob(theta)",
        TEMPERING,
        "mixture_has_the_weighted_density",
    ),
    Mutation(
        "sign of a backward weight",
        "tempering/annealing.py",
        "log_w = log_w + (kernel.beta - previous) * point.log_ratio.double()",
        "log_w = log_w - (kernel.beta - previous) * point.log_ratio.double()",
        TEMPERING,
        "backward_weights",
    ),
    Mutation(
        "sign of an increment of frozen populations",
        "tempering/smc.py",
        "log_w = (kernel.beta - betas[-1]) * log_ratio",
        "log_w = (betas[-1] - kernel.beta) * log_ratio",
        TEMPERING,
        "groups_of_particles",
    ),
    Mutation(
        "sign of an increment of the pilot",
        "tempering/smc.py",
        "log_w = increment * log_ratio",
        "log_w = -increment * log_ratio",
        TEMPERING,
        "a_pilot_reaches",
    ),
    Mutation(
        "momentum pushed up the wrong way",
        "tempering/hmc.py",
        "momentum = momentum + half * step * _whiten(moved.slope, kernel, index)",
        "momentum = momentum - half * step * _whiten(moved.slope, kernel, index)",
        TEMPERING,
        "transitions",
    ),
    Mutation(
        "kinetic energy left out of the acceptance",
        "tempering/hmc.py",
        "gain = moved.log_prob(kernel.beta) - 0.5 * momentum.square().sum(-1) - start",
        "gain = moved.log_prob(kernel.beta) - start",
        TEMPERING,
        "transitions",
    ),
    Mutation(
        "tempered density with its ends exchanged",
        "tempering/path.py",
        "else (1 - beta) * self.log_base + beta * self.log_joint",
        "else beta * self.log_base + (1 - beta) * self.log_joint",
        TEMPERING,
        "forward_weights_are_unbiased or transitions",
    ),
    Mutation(
        "truncated normal without its share",
        "tempering/base.py",
        "log_normal - math.log(self.share), -torch.inf",
        "log_normal, -torch.inf",
        TEMPERING,
        "integrates_to_one or backward",
    ),
    Mutation(
        "Student-t without the determinant of its scale",
        "tempering/base.py",
        "return constant - half_log_det - 0.5 * (nu + d)",
        "return constant - 0.5 * (nu + d)",
        TEMPERING,
        "student_density",
    ),
    Mutation(
        "resampling that gives every block the same parents",
        "tempering/smc.py",
        "theta[:, coordinate].gather(0, parents.T)",
        "theta[:, coordinate].gather(0, parents[:1].expand_as(parents).T)",
        TEMPERING,
        "resampling_copies or pilot_tempers_all_rows",
    ),
    Mutation(
        "bound where the wealth is a tenth of 1/α in logs",
        "evidence/bounds.py",
        "wanted = -math.log1p(-level)\n    log_mean",
        "wanted = -0.1 * math.log1p(-level)\n    log_mean",
        BOUNDS,
        "violated or wealth",
    ),
    Mutation(
        "price of confidence left out of the blocks' bound",
        "evidence/bounds.py",
        "wanted = -math.log1p(-level)\n    high",
        "wanted = -0.1 * math.log1p(-level)\n    high",
        BOUNDS,
        "blocks",
    ),
    Mutation(
        "rows of a minibatch not scaled to the full set",
        "sites.py",
        'msg["scale"] = msg["scale"] * self.factor',
        'msg["scale"] = msg["scale"] * 1.0',
        (*SITES, *TARGET),
        "batch or scale",
    ),
    Mutation(
        "log Jacobian left out of the joint",
        "target.py",
        "log_joint(run(theta), found) + layout.log_jacobian(theta).sum(), start)",
        "log_joint(run(theta), found), start)",
        CONTRACT,
        "recovers_the_exact_evidence and (Beta or Gamma) and not digits",
    ),
    Mutation(
        "labels not permuted: log K! is lost",
        "evidence/draws.py",
        "if found is not None:",
        "if found is not None and seed < 0:",
        SANDWICH,
        "log_two_is_not_lost",
    ),
    Mutation(
        "bridge upside down",
        "evidence/bridge.py",
        "updated = top - bottom",
        "updated = bottom - top",
        CONTRACT,
        "annealing_recovers and bridge and Gamma",
    ),
    Mutation(
        "warp without the determinant",
        "evidence/bridge.py",
        "warped = torch.logaddexp(*sides) - math.log(2) + log_det",
        "warped = torch.logaddexp(*sides) - math.log(2)",
        CONTRACT,
        "annealing_recovers and bridge and Gamma",
    ),
    Mutation(
        "correction of the trapezium with the wrong sign",
        "evidence/thermodynamic.py",
        "return (trapezium - correction).sum((0, 2))",
        "return (trapezium + 12 * correction).sum((0, 2))",
        CONTRACT,
        "annealing_recovers and thermodynamic and (Gamma or Dirichlet)",
    ),
    Mutation(
        "sides of the sandwich exchanged",
        "evidence/sandwich.py",
        "lower=-math.inf if failed else lower,",
        "lower=-math.inf if failed else upper,",
        SANDWICH,
        "both_bounds and gamma",
    ),
    Mutation(
        "failed checks that refuse nothing",
        "evidence/sandwich.py",
        "upper=math.inf if failed else upper,",
        "upper=upper,",
        SANDWICH,
        "one_mode_of_two",
    ),
    Mutation(
        "sets of rows without their gate",
        "gaussian_processes/assignments.py",
        "values.append(_log_normal(sub, model.residual[:, rows]) + gate)",
        "values.append(_log_normal(sub, model.residual[:, rows]))",
        MIXTURES,
        "sum_over_sets",
    ),
    Mutation(
        "particles conditioned with the wrong sign",
        "gaussian_processes/assignments_smc.py",
        "left[at, expert] -= gain * error[:, None]",
        "left[at, expert] += gain * error[:, None]",
        MIXTURES,
        "enough_particles",
    ),
    Mutation(
        "a mixture predicts functions without noise",
        "gaussian_processes/soft_assignments.py",
        "variance = (prior - cross.square().sum(-2)).clamp(min=torch.finfo(new.dtype).eps * prior) + noise",
        "variance = (prior - cross.square().sum(-2)).clamp(min=torch.finfo(new.dtype).eps * prior)",
        MIXTURES,
        "one_expert_the_noise",
    ),
    Mutation(
        "natural gradients of a minibatch without size / rows",
        "inference/natural_gradients.py",
        "rows.sum() * ((batch.size or len(rows)) / len(rows))",
        "rows.sum()",
        NATURAL,
        "minibatches",
    ),
    Mutation(
        "a slope in the variance without its half",
        "objectives/expected_log_likelihood.py",
        "(slope, 0.5 * curvature)",
        "(slope, curvature)",
        NATURAL,
        "slopes",
    ),
    Mutation(
        "the guide of linked codes without its weights",
        "gaussian_processes/codes.py",
        "precision = torch.eye(n).to(upper) + (upper * weight[:, None]) @ upper.mT",
        "precision = torch.eye(n).to(upper) + upper @ upper.mT",
        ("tests/layers/test_linked_codes.py",),
        "guide_holds",
    ),
    Mutation(
        "the prior counted by every expert of a committee",
        "gaussian_processes/aggregation.py",
        "joined = 1.0 / (1.0 / prior + (weights * (1.0 / variance - 1.0 / prior)).sum(0))",
        "joined = 1.0 / (weights / variance).sum(0)",
        ("tests/layers/test_gp_product.py",),
        "bcm",
    ),
    Mutation(
        "a line search that fails ends the climb",
        "inference/quasi_newton.py",
        "if stopped or (ended and not coarse) or (bounds is not None and gained <= tolerance and within):",
        "if True:",
        ("tests/inference/test_quasi_newton.py",),
        "cliff",
    ),
    Mutation(
        "priors of Python's numbers on the default device",
        "placing.py",
        "with nullcontext() if device == torch.get_default_device() else device:",
        "with nullcontext():",
        ("tests/tracing/test_devices.py",),
    ),
    Mutation(
        "half precision held to the rounding of float32",
        "rounding.py",
        "if within.half is None else HALF_ROUNDING",
        "if within.half is None else ROUNDING[a.dtype]",
        ("tests/tracing/test_compiling.py",),
        "half_precision",
    ),
)
NUM_QUICK = 3


class Outcome(NamedTuple):
    """What the tests said."""

    caught: bool
    seconds: float
    tail: str


def mutate(package: Path, mutation: Mutation) -> None:
    """Change the copy.

    Raises:
        ValueError: where the text does not occur exactly once: the code has moved on and the mutation has to follow.
    """
    file = package / mutation.file
    text = file.read_text()
    count = text.count(mutation.before)
    if count != 1:
        raise ValueError(f"{mutation.name}: expected the text once in {mutation.file}, got it {count} times")
    file.write_text(text.replace(mutation.before, mutation.after))


def run(mutation: Mutation | None, tests: tuple[str, ...], select: str) -> Outcome:
    """Tests on a copy of the package; without a mutation they have to pass.

    Raises:
        RuntimeError: where another copy of the package would be imported, or pytest found no test.
    """
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        ignored = shutil.ignore_patterns("__pycache__")
        for part in ("probmodel", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", copy)
        if mutation is not None:
            mutate(copy / "probmodel", mutation)
        environment = os.environ | {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        place = [sys.executable, "-c", "import probmodel; print(probmodel.__file__)"]
        imported = subprocess.run(place, capture_output=True, text=True, cwd=copy, env=environment, check=True).stdout
        if not Path(imported.strip()).is_relative_to(copy):
            raise RuntimeError(f"expected the copy in {copy} to be imported, got {imported.strip()}")
        command = [sys.executable, "-m", "pytest", "-q", "-x", *tests, *(("-k", select) if select else ())]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=copy, env=environment, timeout=TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            return Outcome(True, time.perf_counter() - begin, "timed out")
    if done.returncode not in (0, 1):
        raise RuntimeError(f"expected pytest to run tests, got exit status {done.returncode}: {done.stdout[-2_000:]}")
    return Outcome(done.returncode == 1, time.perf_counter() - begin, done.stdout[-2_000:])


def check_texts() -> None:
    """Raise ValueError at once for a mutation whose text is no longer found."""
    with tempfile.TemporaryDirectory() as folder:
        for number, mutation in enumerate(MUTATIONS):
            copy = Path(folder) / str(number) / "probmodel"
            (copy / mutation.file).parent.mkdir(parents=True)
            shutil.copy(ROOT / "probmodel" / mutation.file, copy / mutation.file)
            mutate(copy, mutation)


def rows(mutations: Iterable[Mutation]) -> Iterator[Row]:
    """The rows of the table."""
    sound: dict[tuple[tuple[str, ...], str], Outcome] = {}
    for mutation in mutations:
        key = (mutation.tests, mutation.select)
        if key not in sound:
            sound[key] = run(None, *key)
        if sound[key].caught:
            raise RuntimeError(f"{mutation.name}: its tests fail without it; mend them first\n{sound[key].tail}")
        outcome = run(mutation, *key)
        yield row(
            f"mutation: {mutation.name}",
            float(outcome.caught),
            "caught",
            reference=1.0,
            at_least=1.0,
            seconds=outcome.seconds,
            source=f"{mutation.file}, seen by {', '.join(mutation.tests)}",
        )


def line(found: Row) -> str:
    """Whether a mutation was caught."""
    name = found["task"].removeprefix("mutation: ")
    return f"{name:<55}{'caught' if found['value'] else 'SURVIVED':<10}{found['seconds']:>7.1f} s"


def main() -> None:
    """Print the table; write it where asked; exit with 1 if any mutation survives."""
    parser = options(__doc__, f"the first {NUM_QUICK} mutations")
    parser.add_argument("--only", default="", metavar="TEXT", help="mutations whose name contains the text")
    arguments = parser.parse_args()
    check_texts()
    chosen = [each for each in MUTATIONS if arguments.only in each.name][: NUM_QUICK if arguments.quick else None]
    table = tabulate(rows(chosen), arguments.out, line)
    survived = [each["task"] for each in table if not each["value"]]
    if survived:
        sys.exit(f"{len(survived)} of {len(table)} survived: {'; '.join(survived)}")


if __name__ == "__main__":
    main()
