"""A file of draws is read from the bytes that were verified, and reaches nothing beyond them."""

import io

import h5py
import numpy as np
import pytest
import torch

from probmodel.layers.decisions import Regress
from probmodel.layers.features import Identity
from probmodel.layers.pipeline import Pipeline
from probmodel.layers.representations import DNN
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import CorruptFitError
from probmodel.protocols.posterior import Posterior
from probmodel.storage import folder as fit_folder
from probmodel.storage.draws_file import draws_bytes, draws_of
from probmodel.storage.fits import load, save
from probmodel.tracing.randomness import isolated

DRAWS = {"a": np.arange(10.0).reshape(2, 5), "b/c": np.ones((2, 5, 3), bool), "none": np.zeros((2, 5, 0), np.float16)}


def test_draws_come_back_from_memory_bit_for_bit():
    found = draws_of(draws_bytes(DRAWS))
    assert list(found) == list(DRAWS)
    for name, values in DRAWS.items():
        assert found[name].dtype == values.dtype and found[name].shape == values.shape
        assert found[name].tobytes() == values.tobytes()


def changed(change) -> bytes:
    file = io.BytesIO(draws_bytes(DRAWS))
    with h5py.File(file, "r+") as opened:
        change(opened["posterior"])
    return file.getvalue()


def replaced_by(link):
    def change(group):
        del group["a"]
        group["a"] = link

    return change


def elsewhere(secret):
    def change(group):
        del group["a"]
        group.create_dataset("a", (2, 5), "u1", external=[(secret, 0, 10)])

    return change


def virtually(secret):
    def change(group):
        del group["a"]
        layout = h5py.VirtualLayout((2, 5), "u1")
        layout[:] = h5py.VirtualSource(secret, "values", (2, 5), "u1")
        group.create_virtual_dataset("a", layout)

    return change


def filtered(group):
    del group["a"]
    group.create_dataset("a", data=np.zeros((2, 5)), compression="gzip")


def unwritten(group):
    """A terabyte that no disk holds."""
    del group["a"]
    group.create_dataset("a", (2, 2**37), "f8")


def twice(group):
    group["again"] = group["a"]


def text(group):
    group["words"] = "text"


def nested(group):
    group.create_group("inner")["a"] = 1.0


HOSTILE = {
    "external link": lambda secret: replaced_by(h5py.ExternalLink(secret, "/values")),
    "soft link": lambda secret: replaced_by(h5py.SoftLink("/posterior/b%2Fc")),
    "external storage": elsewhere,
    "virtual data": virtually,
    "filter": lambda secret: filtered,
    "claimed size": lambda secret: unwritten,
    "one array under two names": lambda secret: twice,
    "text": lambda secret: text,
    "group in the group": lambda secret: nested,
    "second group": lambda secret: lambda group: group.file.create_group("other"),
    "no group": lambda secret: lambda group: group.file.__delitem__("posterior"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_beyond_the_bytes_is_read(kind, tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["values"] = np.full((2, 5), 7.0)
    contents = changed(HOSTILE[kind](str(secret)))
    with pytest.raises(ValueError, match="expected"):
        draws_of(contents)


def fit_with(value):
    with isolated(0):
        model = Pipeline(Identity(), DNN(2, 2), Regress(2))
    return Posterior(model, Dataset(), {"a": torch.full((1, 1), value)}, {})


def test_a_file_that_is_exchanged_after_its_verification_is_not_read(tmp_path, monkeypatch):
    fit, other = save(fit_with(1.0), tmp_path / "fit"), save(fit_with(2.0), tmp_path / "other")
    verified = fit_folder._verified

    def exchanged_afterwards(folder, handle):
        found = verified(folder, handle)
        (other / "draws.nc").replace(fit / "draws.nc")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(fit_folder, "_verified", exchanged_afterwards)
        assert float(load(fit).draws["a"]) == 1.0
    with pytest.raises(CorruptFitError, match="SHA-256"):
        load(fit)
