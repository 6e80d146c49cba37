"""Posterior ↔ folder: JSON for the structure, safetensors for tensors, NetCDF for draws; no file can carry code.

Layers of this package are rebuilt from their settings.  A model or guide of one's own is code, and code is not stored:
`load` takes the function again, rebuilds the parameters around it, and puts the fitted values in.
"""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from probmodel.draws.arrays import load_netcdf, save_netcdf
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Posterior
from probmodel.storage.descriptions import Kept, describe, laid_out, rebuild
from probmodel.storage.fitted_pair import FittedPair, describe_pair, needs_code, rebuild_pair
from probmodel.storage.folder import DRAWS_FILE, STRUCTURE, TENSORS, read, refusing, write
from probmodel.tracing.randomness import isolated


def save(posterior: Posterior, folder: str | Path) -> Path:
    """Write a posterior; a fit that is there already is replaced once the new one is complete.

    Args:
        posterior: from any inference, on any device.
        folder: of this fit alone.

    Returns:
        The folder.

    Raises:
        FileExistsError: where the folder holds anything but a fit.
        ValueError: naming an argument of the data, or an entry of `info`, that is no number, string, None or tensor.
    """
    folder, kept = Path(folder), Kept()
    data = posterior.data
    values = {
        "pair": describe_pair(posterior)._asdict(),
        "args": tuple(data.args),
        "kwargs": dict(data.kwargs),
        "size": data.size,
        "info": dict(posterior.info),
        "sites": list(posterior.draws),
    }
    content = describe(values, "", kept)
    structure = json.dumps({"content": content, "strides": kept.strides}, allow_nan=False).encode()
    tensors = safetensors.torch.save(kept.tensors)
    draws = {name: value.detach().cpu().numpy() for name, value in posterior.draws.items()}
    write(
        folder,
        {
            STRUCTURE: lambda path: path.write_bytes(structure),
            TENSORS: lambda path: path.write_bytes(tensors),
            DRAWS_FILE: lambda path: save_netcdf(draws, path),
        },
    )
    return folder


def load(folder: str | Path, model: Model | None = None, guide: Model | None = None) -> Posterior:
    """Read a posterior, onto the CPU; it predicts bit for bit what the saved one did.

    Args:
        folder: what `save` wrote.
        model: the function that was fitted, where it is not made of this package's layers and
            GPyTorch's usual kernels, means, priors and constraints; it is copied.
        guide: the guide that was fitted, where it is a function of one's own; for an automatic guide other than Pyro's
            normal and delta ones, what `SVI(autoguide=...)` was given.

    Returns:
        Posterior.

    Raises:
        FileNotFoundError: where there is no folder.
        CorruptFitError: naming the file that is not as it was written.
        ValueError: where `model` or `guide` is needed, or is another one than was fitted.
    """
    folder = Path(folder)
    files = read(folder)
    with refusing(folder / TENSORS, "tensors"):
        tensors = safetensors.torch.load(files[TENSORS])
    with refusing(folder / DRAWS_FILE, "draws"):
        draws = {name: torch.from_numpy(values).clone() for name, values in load_netcdf(folder / DRAWS_FILE).items()}
    with refusing(folder / STRUCTURE, "the structure of a fit"):
        content = _parse(files[STRUCTURE], tensors)
        pair, info = FittedPair(**content["pair"]), dict(content["info"])
        data = Dataset(tuple(content["args"]), dict(content["kwargs"]), content["size"])
        draws = {name: draws[name] for name in content["sites"]}
        alone = model is None and guide is None and not needs_code(pair)
    # Code of the caller's may fail for reasons of its own; without any, a failure is the folder's.
    blame = refusing(folder / STRUCTURE, "a model with its parameters") if alone else nullcontext()
    with blame, isolated(seed=0):
        fitted, fitted_guide = rebuild_pair(pair, data, draws, model, guide)
    return Posterior(fitted, data, draws, info, fitted_guide)


def _parse(contents: bytes, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    structure = json.loads(contents, parse_constant=_refuse_constant)
    strides = structure["strides"]
    laid = {name: laid_out(values, strides.get(name)) for name, values in tensors.items()}
    with isolated(seed=0):
        return rebuild(structure["content"], laid.__getitem__)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"expected JSON, got the constant {name}")
