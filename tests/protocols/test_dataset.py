"""Rows from arrays, frames and tensors are counted and converted; what is no number is refused with the remedy."""

import copy
import math
import pickle
import re

import numpy as np
import pandas as pd
import pyro as pyro
import pyro.distributions as dist
import pytest
import torch

import probmodel as pb
from probmodel.protocols.arrays import as_tensor

pytestmark = pytest.mark.usefixtures("annotations_unchecked")

X = np.arange(12.0).reshape(6, 2)
Y = np.arange(6)


@pytest.mark.parametrize("kind", [np.asarray, pd.DataFrame, torch.as_tensor])
def test_rows_are_counted_and_keep_their_numbers_and_types(kind):
    data = pb.Dataset.of_rows(kind(X), y=kind(Y).squeeze() if kind is pd.DataFrame else kind(Y))
    assert data.size == data.num_rows == 6
    assert torch.equal(data.args[0], torch.as_tensor(X)) and data.args[0].dtype == torch.float64
    assert torch.equal(data.kwargs["y"], torch.as_tensor(Y)) and data.kwargs["y"].dtype == torch.int64


def test_what_is_no_array_passes_and_arrays_are_copied():
    x = X.copy()
    data = pb.Dataset.of_rows(x, 3.0, name="a", scale=None)
    x[:] = -1
    assert torch.equal(data.args[0], torch.as_tensor(X))
    assert data.args[1] == 3.0 and data.kwargs == {"name": "a", "scale": None}


def test_big_endian_numbers_keep_their_values():
    assert torch.equal(as_tensor("x", X.astype(">f8")), torch.as_tensor(X))


def test_unsigned_integers_become_signed_ones_that_torch_computes_with():
    assert as_tensor("y", np.array([1, 2], dtype=np.uint32)).dtype == torch.int64
    assert as_tensor("y", np.array([1, 2], dtype=np.uint8)).dtype == torch.uint8


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pb.Dataset.of_rows([[1.0], [2.0]]), TypeError, r"got a list; pass torch\.as_tensor"),
        (lambda: pb.Dataset.of_rows(X, y=["a"] * 6), TypeError, "as y, got a list"),
        (lambda: pb.Dataset.of_rows(X, y=np.array(["a"] * 6)), TypeError, r"encode text as class numbers"),
        (
            lambda: pb.Dataset.of_rows(pd.DataFrame({"a": [1, "b"]})),
            TypeError,
            "array of object; convert all columns to one type of numbers",
        ),
        (
            lambda: pb.Dataset.of_rows(np.ma.array([1.0, 2.0], mask=[True, False])),
            TypeError,
            "masked array; drop or impute",
        ),
        (lambda: pb.Dataset.of_rows(X.astype(np.longdouble)), TypeError, "up to 64 bits in"),
        (lambda: pb.Dataset.of_rows(np.array([2**63], dtype=np.uint64)), TypeError, "below 2⁶³"),
        (lambda: pb.Dataset.of_rows(X, y=Y[:4]), ValueError, "y with 6 rows, got 4; pass"),
        (lambda: pb.Dataset.of_rows(), ValueError, r"got none; pass Dataset\.of_rows\(x, y=y\)"),
        (
            lambda: pb.Dataset.of_rows(torch.tensor(1.0), y=Y),
            ValueError,
            "rows in the first argument, got a single number",
        ),
    ],
)
def test_what_has_no_rows_of_numbers_is_refused(call, error, message):
    with pytest.raises(error, match=rf"expected .*{message}"):
        call()


def test_a_data_set_prints_its_shapes_and_no_numbers():
    data = pb.Dataset.of_rows(X, y=Y)
    assert repr(data) == "Dataset of 6 rows: args[0] (6, 2) float64, y (6,) int64"
    assert "(2 of them here)" in repr(data.rows(slice(2)))
    assert repr(pb.Dataset()) == "Dataset without rows: no arguments"
    assert repr(pb.Dataset(("text",), size=3)) == "Dataset of 3 rows: args[0] str"
    assert "<td>(6, 2)</td>" in data._repr_html_()


@pytest.mark.parametrize("kind", [np.asarray, pd.DataFrame, torch.as_tensor, pb.Dataset.of_rows])
def test_predictions_do_not_depend_on_how_new_rows_are_passed(kind):
    def line(x, y=None):
        w = pyro.sample("w", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    fit = pb.Exact(num_samples=50)(line, pb.Dataset.of_rows(X, y=Y.astype(float)), seed=0)
    expected = pb.predict(fit, torch.as_tensor(X[:2])).action
    assert torch.equal(pb.predict(fit, kind(X[:2])).action, expected)
    single = pd.DataFrame(X[:2].astype(np.float32))
    assert torch.equal(pb.predict(fit, single).action, expected)
    with pytest.raises(TypeError, match=r"args\[0\], got a list"):
        pb.predict(fit, [[1.0, 2.0]])


FRAME = pd.DataFrame(X, columns=["age", "dose"])


def exact_fit(data):
    def line(x, y=None):
        w = pyro.sample("w", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    return pb.Exact(num_samples=50)(line, data, seed=0)


@pytest.mark.parametrize("make", [lambda x, y: pb.Dataset((x,), {"y": y}, 6), lambda x, y: pb.Dataset.of_rows(x, y=y)])
def test_arrays_and_frames_are_the_tensors_of_their_numbers(make):
    expected = pb.evidence.exact(exact_fit(make(torch.as_tensor(X), torch.as_tensor(Y).double()))).log_z
    for x, y in (
        (X, Y.astype(float)),
        (FRAME, pd.Series(Y, dtype=float)),
        (FRAME.astype(object).astype(float), Y * 1.0),
    ):
        data = make(x, y)
        assert torch.is_tensor(data.args[0]) and torch.is_tensor(data.kwargs["y"])
        assert pb.evidence.exact(exact_fit(data)).log_z == expected
    with pytest.raises(TypeError, match="encode text as class numbers"):
        make(X, np.array(list("abcabc")))
    with pytest.raises(TypeError, match="array of object"):
        make(FRAME.assign(dose="much"), Y)


def test_the_names_of_columns_stay_with_the_rows():
    data = pb.Dataset((FRAME, X), {"y": pd.Series(Y), "z": FRAME[["dose"]]}, 6)
    assert data.columns == {"args[0]": ("age", "dose"), "z": ("dose",)}
    for same in (data.rows(slice(3)), data.to(torch.float32), data.map(torch.abs), data._replace(size=9)):
        assert same.columns == data.columns
    for same in (pickle.loads(pickle.dumps(data)), copy.deepcopy(data)):
        assert same.columns == data.columns and torch.equal(same.args[0], data.args[0])
    assert pb.data.split(data, seed=0)[1].columns == data.columns
    assert pb.Dataset.of_rows(X).columns == {}


def test_predictions_find_the_columns_of_a_frame_by_their_names(tmp_path):
    fit = exact_fit(pb.Dataset.of_rows(FRAME, y=Y.astype(float)))
    expected = pb.predict(fit, FRAME).distribution.mean
    turned = FRAME[["dose", "age"]].assign(name="a")
    assert not torch.allclose(pb.predict(fit, turned[["dose", "age"]].to_numpy()).distribution.mean, expected)
    read = pb.load(pb.save(fit, tmp_path / "fit"), model=fit.model)
    for found in (fit, read):
        assert torch.equal(pb.predict(found, turned).distribution.mean, expected)
        data = pb.Dataset.of_rows(FRAME[["dose", "age"]], y=Y.astype(float))
        assert torch.equal(pb.predict(found, data).distribution.mean, expected)
        assert torch.equal(pb.predict(found, X).distribution.mean, expected)
    for wrong in (FRAME[["dose"]], FRAME.rename(columns={"age": "Age"}), pd.DataFrame(X)):
        with pytest.raises(
            ValueError, match=r"columns \['age', 'dose'\] of args\[0\] .* without \['(age|dose)'.*; name"
        ):
            pb.predict(fit, wrong)
    by_array = exact_fit(pb.Dataset.of_rows(X, y=Y.astype(float)))
    assert torch.equal(pb.predict(by_array, turned[["age", "dose"]]).distribution.mean, expected)


def test_held_out_rows_find_their_columns_by_name():
    x = np.random.default_rng(0).normal(size=(40, 2)) * [1.0, 5.0]
    frame = pd.DataFrame(x, columns=["age", "dose"])
    y = x[:, 0] - x[:, 1]
    fit = exact_fit(pb.Dataset.of_rows(frame[:20], y=y[:20]))
    scores = [
        pb.diagnose(fit, pb.Dataset.of_rows(rows, y=y[20:]))["held-out log score"].value
        for rows in (frame[20:], frame[["dose", "age"]][20:])
    ]
    assert scores[0] == scores[1] > -3


@pytest.mark.parametrize("name", ["sigma", "args[1]"])
def test_every_argument_of_rows_has_as_many_as_the_first(name):
    sigma = np.ones(5)
    with pytest.raises(ValueError, match=rf"expected {re.escape(name)} with 6 rows, got 5; .*size=6"):
        pb.Dataset.of_rows(X, y=Y, sigma=sigma) if name == "sigma" else pb.Dataset.of_rows(X, sigma, y=Y)
    assert pb.Dataset.of_rows(X, y=Y, sigma=np.ones(1), scale=torch.tensor(2.0)).size == 6


def test_numbers_that_are_not_finite_are_named_by_their_argument():
    for data, name in (
        (pb.Dataset((torch.as_tensor(X) / 0,), {"y": torch.as_tensor(Y)}, 6), r"args\[0\]"),
        (pb.Dataset((torch.as_tensor(X),), {"y": torch.as_tensor(Y) / 0.0}, 6), "y"),
        (pb.Dataset((), {"x": torch.as_tensor(X), "z": torch.full((6,), float("nan"))}, 6), "z"),
    ):
        for read in (lambda data=data: pb.target(bernoulli, data), lambda data=data: pb.data.split(data, seed=0)):
            with pytest.raises(ValueError, match=rf"in {name}[ ,]"):
                read()


@pytest.mark.parametrize("target", ["cuda:7", "gpu", None, 3.5, "meta device"])
def test_a_device_that_is_absent_is_refused(target):
    with pytest.raises(ValueError, match=r"expected a device of this machine, among \['cpu'.*, got .*; pass 'cpu'"):
        pb.Dataset.of_rows(X, y=Y).to(target)


def test_every_value_has_a_table_for_notebooks():
    fit = pb.Exact(num_samples=50)(bernoulli, pb.Dataset((), {"y": torch.ones(3)}, 3), seed=0)
    found = pb.evidence.exact(fit)
    assert f"{found.log_z:.4f}" in found._repr_html_() and "both sides" in found._repr_html_()
    assert "<td>p</td>" in fit._repr_html_() and "Exact" in fit._repr_html_()


def bernoulli(y=None):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("rows", 3):
        pyro.sample("y", dist.Bernoulli(p), obs=y)


def test_a_frame_in_which_a_name_occurs_twice_is_refused():
    frame = pd.DataFrame(X, columns=["dose", "dose"])
    with pytest.raises(ValueError, match=r"each column of args\[0\] once, got \['dose'\]"):
        pb.Dataset.of_rows(frame, y=Y)


def test_data_sets_are_equal_where_all_of_their_arguments_are():
    one = pb.Dataset.of_rows(X, y=Y)
    assert one == pb.Dataset.of_rows(X.copy(), y=Y)
    assert one != pb.Dataset.of_rows(X, y=Y + 1)
    assert one != pb.Dataset.of_rows(X.astype(np.float32), y=Y)
    assert one != pb.Dataset.of_rows(X, z=Y)
    assert one != one._replace(size=7)
    assert one != "rows"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((None,), TypeError, "expected args as a tuple, got a NoneType"),
        ((torch.zeros(3, 2),), TypeError, r"expected args as a tuple, got a tensor of shape \(3, 2\); .+ with a comma"),
        (((), [1]), TypeError, "expected kwargs as a dict, got a list"),
        (((), {}, "a"), ValueError, "expected size to be an integer, 0 or more, got 'a'"),
        (((), {}, -1), ValueError, "expected size to be an integer, 0 or more, got -1"),
        (((), {}, 2.5), ValueError, "expected size to be an integer"),
        (((), {}, math.nan), ValueError, "expected size to be an integer"),
    ],
)
def test_fields_of_another_kind_are_refused_when_the_data_set_is_made(arguments, error, message):
    with pytest.raises(error, match=message):
        pb.Dataset(*arguments)
