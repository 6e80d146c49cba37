"""Fits that release 0.1 saved, before names changed, load and predict what they did."""

import json
from pathlib import Path

import pytest
import torch

import probmodel as pb

FOLDER = Path(__file__).parent / "saved_by_0_1"
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def expected(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def test_there_is_a_fit_of_each_family():
    assert set(NAMES) == {
        "lifted_pictures",
        "machine",
        "mixture_of_processes",
        "process",
        "product_of_processes",
        "standardised_classes",
    }


@pytest.mark.parametrize("name", [name for name in NAMES if name != "machine"])
def test_a_fit_of_release_0_1_predicts_what_it_did(name):
    fit = pb.load(FOLDER / name)
    found = pb.predict(fit, fit.data.args[0][:3], num_samples=4, seed=0).distribution
    mean = found.probs if isinstance(found, torch.distributions.Categorical) else found.mean
    # The code of each row is drawn anew by a VAE: two draws of four differ by what four draws leave open.
    atol = 0.2 if name == "standardised_classes" else 1e-5
    torch.testing.assert_close(mean.double(), torch.tensor(expected(name)["mean"]).double(), rtol=1e-4, atol=atol)


def test_a_machine_of_release_0_1_has_its_energies():
    machine = pb.load(FOLDER / "machine")
    rows = machine.data.args[0][:3]
    found = machine.model.free_energy(rows)
    torch.testing.assert_close(found, torch.tensor(expected("machine")["free_energy"]).double())
