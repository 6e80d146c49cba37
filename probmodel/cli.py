"""Shell commands of the package: `probmodel demo`, `probmodel report FOLDER`, `probmodel info`."""

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from probmodel.comparison.models import Comparison, compare
from probmodel.comparison.report import report
from probmodel.demo import studies
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.posterior import Posterior
from probmodel.storage.fits import load, save
from probmodel.storage.folder import corrupt_on_failure
from probmodel.tracing.target import target_of

HELD_OUT_FILE = "held_out.safetensors"
PACKAGES = ("probmodel", "torch", "pyro-ppl", "gpytorch", "arviz", "numpy", "scikit-learn")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: command line arguments; None reads those of the process.

    Returns:
        Exit status: 0, or 1 after an error.
    """
    parser = argparse.ArgumentParser(prog="probmodel", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="fit four models of handwritten digits, compare them and write a report")
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for report.html and the fits")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--quick", action="store_true", help="a twentieth of the steps, to check that everything runs")
    report_parser = commands.add_parser("report", help="compare the fits in a folder and write its report again")
    report_parser.add_argument(
        "folder", type=Path, help="folder that `probmodel demo` wrote, or any folder of saved fits"
    )
    commands.add_parser("info", help="versions, processors and devices")
    chosen = parser.parse_args(arguments)
    if chosen.command == "info":
        print(json.dumps(_info(), indent=2))
        return 0
    try:
        if chosen.command == "demo":
            _demo(chosen.out, chosen.seed, quick=chosen.quick)
        else:
            _report(chosen.folder)
    except (ValueError, FileNotFoundError, FileExistsError, ArithmeticError) as error:
        print(f"probmodel {chosen.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _demo(out: Path, seed: int, *, quick: bool) -> None:
    begin = time.perf_counter()
    planned, test = studies(seed=seed, quick=quick)
    fits: dict[str, Posterior] = {}
    for name, study in planned.items():
        print(f"{name}: fitting {study.data.size} rows", flush=True)
        fits[name] = study.inference(study.model, study.data, seed=seed)
        save(fits[name], out / "fits" / _file_name(name))
    _save_rows(test, out / "fits" / HELD_OUT_FILE)
    _finish(fits, test, out)
    print(f"{time.perf_counter() - begin:.0f} s in all")


def _report(folder: Path) -> None:
    root = folder / "fits" if (folder / "fits").is_dir() else folder
    if not root.is_dir():
        raise FileNotFoundError(f"expected a folder of saved fits, got nothing at {folder}; run `probmodel demo` first")
    found = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise ValueError(f"expected saved fits in {root}, got none; write them with probmodel.save(fit, folder)")
    rows = root / HELD_OUT_FILE
    _finish({path.name: load(path) for path in found}, _load_rows(rows) if rows.exists() else None, folder)


def _finish(fits: Mapping[str, Posterior], test: Dataset | None, out: Path) -> None:
    """Compare the fits of each data set, print the tables and write the report."""
    groups: dict[str, dict[str, Posterior]] = {}
    for name, fit in fits.items():
        groups.setdefault(target_of(fit).digest, {})[name] = fit
    comparisons: dict[str, Comparison] = {}
    with tqdm(total=len(fits), desc="scoring and diagnosing", leave=True) as bar:

        def notice(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        for group in groups.values():
            size = next(iter(group.values())).data.size
            comparisons[f"{len(group)} fits of {size} rows"] = compare(group, test, notice=notice)
    for heading, comparison in comparisons.items():
        print(f"\n{heading}\n{comparison}")
    path = report(comparisons, out / "report.html", held_out=test, title="probmodel: models of one data set")
    print(f"\nreport: {path}")


def _file_name(name: str) -> str:
    return "_".join("".join(letter if letter.isalnum() else " " for letter in name).split())


def _save_rows(data: Dataset, path: Path) -> None:
    named = {f"args.{i}": value for i, value in enumerate(data.args)}
    named |= {f"kwargs.{name}": value for name, value in data.kwargs.items()}
    save_file({name: value.contiguous() for name, value in named.items()}, path)


def _load_rows(path: Path) -> Dataset:
    with corrupt_on_failure(path, "held-out rows"):
        tensors = load_file(path)
    args = [tensors[name] for name in sorted(tensors) if name.startswith("args.")]
    kwargs = {name.removeprefix("kwargs."): value for name, value in tensors.items() if name.startswith("kwargs.")}
    return Dataset(tuple(args), kwargs, len(args[0]))


def _info() -> dict[str, object]:
    return {
        **{name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "devices": ["cpu", *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))],
    }


if __name__ == "__main__":
    sys.exit(main())
