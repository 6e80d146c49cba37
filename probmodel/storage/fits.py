"""Posterior ↔ folder: JSON for the structure, safetensors for tensors, NetCDF for draws; no file can carry code.

Layers of this package are rebuilt from their constructor arguments.  A user's own model or guide is code, and code is not
stored: `load` takes the function again, rebuilds its parameters, and sets them to the fitted values.
"""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Posterior
from probmodel.storage.descriptions import TensorCollection, describe, rebuild, with_strides
from probmodel.storage.draws_file import draws_bytes, draws_of
from probmodel.storage.fitted_pair import describe_pair, needs_code, rebuild_pair, stored_pair
from probmodel.storage.folder import DRAWS_FILE, STRUCTURE, TENSORS, corrupt_on_failure, read, write
from probmodel.tracing.programs.allocations import limited_tensors
from probmodel.tracing.randomness import isolated

FEW_BYTES, TIMES_STORED = 2**24, 16
"""Bytes of the tensors that the description of a fit may make: so many, and so many times those of its files.

Layers make their initial parameters, and what they need to draw them, before the stored ones replace them.
"""


@checks_arguments
def save(posterior: Posterior, folder: str | Path) -> Path:
    """Write a posterior to a folder; an earlier fit in it is replaced once the new one is complete.

    Args:
        posterior: result of any inference, on any device.
        folder: folder for this fit alone.

    Returns:
        The folder.

    Raises:
        FileExistsError: where the folder holds anything but a fit.
        ValueError: naming an argument of the data, or an entry of `info`, that is not a number, string, None, tensor, or
            a list or dictionary of them.
        OSError: where the disk is full or cannot be written; an earlier fit in the folder stays as it was.
    """
    folder, kept = Path(folder), TensorCollection()
    data = posterior.data
    values = {
        "pair": describe_pair(posterior)._asdict(),
        "args": tuple(data.args),
        "kwargs": dict(data.kwargs),
        "size": data.size,
        "columns": {name: list(names) for name, names in data.columns.items()},
        "info": dict(posterior.info),
        "sites": list(posterior.draws),
    }
    content = describe(values, "", kept)
    structure = json.dumps({"content": content, "strides": kept.strides}, allow_nan=False).encode()
    tensors = safetensors.torch.save(kept.tensors)
    draws = draws_bytes({name: value.detach().cpu().numpy() for name, value in posterior.draws.items()})
    write(folder, {STRUCTURE: structure, TENSORS: tensors, DRAWS_FILE: draws})
    return folder


@checks_arguments
def load(folder: str | Path, model: Model | None = None, guide: Model | None = None) -> Posterior:
    """Read a posterior, onto the CPU; its predictions equal those of the saved one bit for bit.

    Args:
        folder: folder that `save` wrote.
        model: the function that was fitted, where it is not made of this package's layers and
            GPyTorch's usual kernels, means, priors and constraints; it is copied.
        guide: the guide that was fitted, where it is the user's own function; for an automatic guide other than Pyro's
            normal and delta ones, the argument of `SVI(autoguide=...)`.

    Returns:
        Posterior.

    Raises:
        FileNotFoundError: where there is no folder.
        CorruptFitError: naming the file that is not as it was written.
        ValueError: where `model` or `guide` is needed, or is not the one that was fitted.
    """
    folder = Path(folder)
    files = read(folder)
    with corrupt_on_failure(folder / TENSORS, "tensors"):
        tensors = safetensors.torch.load(files[TENSORS])
    with corrupt_on_failure(folder / DRAWS_FILE, "draws"):
        draws = {name: torch.from_numpy(values).clone() for name, values in draws_of(files[DRAWS_FILE]).items()}
    limit = FEW_BYTES + TIMES_STORED * sum(map(len, files.values()))
    with corrupt_on_failure(folder / STRUCTURE, "the structure of a fit"), limited_tensors(limit):
        content = _parse(files[STRUCTURE], tensors)
        pair, info = stored_pair(content["pair"]), dict(content["info"])
        columns = {name: tuple(names) for name, names in content.get("columns", {}).items()}
        data = Dataset(tuple(content["args"]), dict(content["kwargs"]), content["size"], columns)
        draws = {name: draws[name] for name in content["sites"]}
        alone = model is None and guide is None and not needs_code(pair)
    # The caller's code may fail for its own reasons; without any, a failure means a corrupt folder.
    blame = corrupt_on_failure(folder / STRUCTURE, "a model with its parameters") if alone else nullcontext()
    with blame, isolated(seed=0):
        fitted, fitted_guide = rebuild_pair(pair, data, draws, model, guide)
    return Posterior(fitted, data, draws, info, fitted_guide)


def _parse(contents: bytes, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    structure = json.loads(contents, parse_constant=_refuse_constant)
    strides = structure["strides"]
    laid = {name: with_strides(values, strides.get(name)) for name, values in tensors.items()}
    with isolated(seed=0):
        return rebuild(structure["content"], laid.__getitem__)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"expected JSON, got the constant {name}")
