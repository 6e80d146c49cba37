"""Draws ↔ bytes of a NetCDF file, which is made and read in memory: HDF5 never opens a path.

A file may name other files (by links, external storage or virtual data), claim sizes that it does not hold, and ask for filters
from libraries; none of this is in a file that `draws_bytes` made, and `draws_of` refuses it.
"""

import io
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from probmodel.draws.arrays import load_netcdf, save_netcdf

GROUP = "posterior"
NUMBERS = "biufc"
"""Kinds of dtypes that draws and their coordinates have."""
IN_PLACE = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS)
"""Layouts whose values stand in the file as they are."""


def draws_bytes(draws: Mapping[str, np.ndarray]) -> bytes:
    """Bytes of a NetCDF file with draws by site, (chain, draw, *event)."""
    file = io.BytesIO()
    save_netcdf(draws, file)
    return file.getvalue()


def draws_of(contents: bytes) -> dict[str, np.ndarray]:
    """Draws by site from the bytes that `draws_bytes` made.

    Raises:
        ValueError: for anything that reaches beyond these bytes.
        OSError, KeyError, TypeError: for bytes that are no such file.
    """
    with h5py.File(io.BytesIO(contents), "r") as file:
        if [name for name, _ in _members(file)] != [GROUP]:
            raise _refused(f"the group {GROUP} alone", sorted(file))
        sizes = [_size(name, each) for name, each in _members(file[GROUP])]
    if sum(sizes) > len(contents):
        raise _refused(f"values that {len(contents)} bytes hold", f"{sum(sizes)} bytes of them")
    return load_netcdf(io.BytesIO(contents))


def _members(group: Any) -> Iterator[tuple[str, Any]]:
    for name in group:
        link = type(group.get(name, getlink=True)).__name__
        if link != "HardLink":
            raise _refused("values in the file itself", f"{name!r} as a link to elsewhere ({link})")
        yield name, group[name]


def _size(name: str, values: Any) -> int:
    """Bytes of the values of a data set that stand in the file."""
    if type(values) is not h5py.Dataset or values.dtype.kind not in NUMBERS:
        raise _refused("an array of numbers", f"{name!r} of another kind")
    plan = values.id.get_create_plist()
    in_place = plan.get_layout() in IN_PLACE or not values.size  # No values have no place.
    if values.external is not None or values.is_virtual or plan.get_nfilters() or not in_place:
        raise _refused("values in the file itself", f"{name!r} that is stored elsewhere, filtered or in chunks")
    if h5py.h5o.get_info(values.id).rc != 1:
        raise _refused("one name for each array", f"another one for {name!r}")
    size = int(values.size) * values.dtype.itemsize
    if values.id.get_storage_size() < size:
        raise _refused(f"{size} bytes of {name!r}", values.id.get_storage_size())
    return size


def _refused(expected: str, got: object) -> ValueError:
    return ValueError(f"expected {expected}, got {got}; save the fit again")
