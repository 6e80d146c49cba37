"""Draws as NumPy arrays by site ↔ xarray data sets and NetCDF files."""

import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import xarray as xr

Arrays = Mapping[str, np.ndarray]
"""Site name → array; the arrays of a posterior have shape (chain, draw, *event)."""


def save_netcdf(posterior: Arrays, path: str | Path | BytesIO) -> None:
    """Write draws, to a path or into memory, as a NetCDF file with the group "posterior", as ArviZ does; any dtype is exact."""
    xarray_dataset(posterior).to_netcdf(path, mode="w", group="posterior", engine="h5netcdf")


def load_netcdf(path: str | Path | BytesIO) -> dict[str, np.ndarray]:
    """Draws by site, (chain, draw, *event), from a file that `save_netcdf` wrote."""
    dataset = xr.load_dataset(path, group="posterior", engine="h5netcdf")
    return {unquote(str(name)): values.to_numpy() for name, values in dataset.data_vars.items()}


# xarray's own dimensions, those made below, and HDF5's names for a group and its parent.
_TAKEN = re.compile(r"chain|draw|sample|model|column|\.+|.*_dim_\d+")


def encoded_name(name: str) -> str:
    """A name that xarray, NetCDF and ArviZ accept; `urllib.parse.unquote` undoes it."""
    safe = name.replace("%", "%25").replace("/", "%2F")
    if not _TAKEN.fullmatch(safe) or safe.startswith("%"):
        return safe
    return "".join(f"%{byte:02X}" for byte in safe[0].encode()) + safe[1:]


def xarray_dataset(
    arrays: Arrays,
    sample_dims: tuple[str, ...] = ("chain", "draw"),
    dims: Mapping[str, Sequence[str | None]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
) -> xr.Dataset:
    """Arrays as an xarray data set with encoded names.

    Args:
        arrays: arrays by name, (*sample_dims, *event).
        sample_dims: names of the leading dimensions.
        dims: array's name → names of its event axes; None for one that is named after the array.
        coords: name of an axis → labels of its entries; 0, 1, … by default.

    Raises:
        ValueError: for an array with fewer axes than `sample_dims`, other axes than `dims` names, or other entries than
            `coords` labels.
    """
    variables: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    named = {encoded_name(name): list(values) for name, values in (coords or {}).items()}
    for name, values in arrays.items():
        array = np.asarray(values)
        if array.ndim < len(sample_dims):
            raise ValueError(
                f"expected {name} of shape ({', '.join(sample_dims)}, *event), got {array.shape}; add the missing axes"
            )
        whole = (*sample_dims, *_event_dims(name, array.ndim - len(sample_dims), (dims or {}).get(name)))
        variables[encoded_name(name)] = (whole, array)
        for dim, size in zip(whole, array.shape, strict=True):
            labels[dim] = _labels(dim, size, named.get(dim), labels.get(dim))
    return xr.Dataset(variables, coords=labels)


def _event_dims(name: str, count: int, given: Sequence[str | None] | None) -> list[str]:
    if given is not None and len(given) != count:
        raise ValueError(f"expected dims for the {count} event axes of {name}, got {list(given)}; name each of them")
    safe = encoded_name(name)
    return [f"{safe}_dim_{i}" if dim is None else encoded_name(dim) for i, dim in enumerate(given or [None] * count)]


def _labels(dim: str, size: int, given: Sequence[Any] | None, known: np.ndarray | None) -> np.ndarray:
    labels = np.arange(size) if given is None else np.asarray(given)
    if len(labels) != size or (known is not None and len(known) != size):
        others = len(labels) if given is not None else size if known is None else len(known)
        raise ValueError(
            f"expected one size of the axis {unquote(dim)!r}, got {size} entries here and {others} elsewhere; give each "
            "axis a name of its own in dims, and one label per entry in coords"
        )
    return labels
