"""Draws as NumPy arrays by site ↔ xarray data sets and NetCDF files."""

import re
from collections.abc import Mapping
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


def xarray_dataset(arrays: Arrays, sample_dims: tuple[str, ...] = ("chain", "draw")) -> xr.Dataset:
    """Arrays as an xarray data set with encoded names.

    Args:
        arrays: arrays by name, (*sample_dims, *event).
        sample_dims: names of the leading dimensions.

    Raises:
        ValueError: for an array with fewer axes than `sample_dims`.
    """
    variables: dict[str, Any] = {}
    coords: dict[str, np.ndarray] = {}
    for name, values in arrays.items():
        array, safe = np.asarray(values), encoded_name(name)
        if array.ndim < len(sample_dims):
            raise ValueError(
                f"expected {name} of shape ({', '.join(sample_dims)}, *event), got {array.shape}; add the missing axes"
            )
        dims = (*sample_dims, *(f"{safe}_dim_{i}" for i in range(array.ndim - len(sample_dims))))
        variables[safe] = (dims, array)
        coords |= {dim: np.arange(size) for dim, size in zip(dims, array.shape, strict=True)}
    return xr.Dataset(variables, coords=coords)
