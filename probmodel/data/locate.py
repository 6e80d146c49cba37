"""Paths of data files below the folder that the environment variable PROBMODEL_DATA names."""

import os
from pathlib import Path

from probmodel.protocols.arguments.checks import checks_arguments

VARIABLE = "PROBMODEL_DATA"
"""Name of the environment variable with the folder of data files."""


@checks_arguments
def locate(relative_path: str) -> Path:
    """Path of a data file below the folder in PROBMODEL_DATA.

    Args:
        relative_path: path of the file within the folder, such as "mnist/mnist.npz".

    Raises:
        ValueError: for a path that leaves the folder.
        FileNotFoundError: where the variable is not set, or the folder has no such file.
    """
    relative = Path(relative_path)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"expected a path below {VARIABLE}, got {relative_path!r}; pass it relative to that folder")
    folder = os.environ.get(VARIABLE)
    if not folder:
        remedy = f"set {VARIABLE} to the folder that holds {relative_path}"
        raise FileNotFoundError(f"expected a folder in {VARIABLE}, got nothing; {remedy}")
    path = Path(folder) / relative
    if not path.is_file():
        remedy = f"put the file there or correct {VARIABLE}"
        raise FileNotFoundError(f"expected the file {path}, got no such file; {remedy}")
    return path
