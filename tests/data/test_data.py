"""Data enter the package scaled, split and checked; bad data are refused and left as they were."""

import importlib
import os
from itertools import islice

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from problems.refusals import BAD, BOUNDED, SEEDS, refused
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch.distributions import MultivariateNormal

from probmodel.data import (
    batches,
    diabetes,
    digits,
    iris,
    locate,
    mnist,
    one_hot,
    split,
    standardize,
    standardize_images,
    with_one_hot,
)
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import DataWarning


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_standardize_equals_scikit_learn_and_scales_others_by_train():
    train, other = 3 + 2 * normal(50, 4), 7 + normal(20, 4, seed=1)
    scaler = StandardScaler().fit(train.numpy())
    for ours, raw in zip(standardize(train, other), (train, other), strict=True):
        torch.testing.assert_close(ours, torch.from_numpy(scaler.transform(raw.numpy())), rtol=0, atol=1e-12)


@given(seed=SEEDS, dtype=st.sampled_from([torch.float32, torch.float64]), offset=st.floats(-100, 100))
@BOUNDED
def test_standardized_columns_have_mean_0_and_sd_1_in_their_own_dtype(seed, dtype, offset):
    x = offset + normal(30, 2, 3, seed=seed, dtype=dtype)
    before = x.clone()
    (z,) = standardize(x)
    assert z.dtype == dtype and torch.equal(x, before)
    torch.testing.assert_close(z.mean(0), torch.zeros(2, 3, dtype=dtype), rtol=0, atol=1e-3)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(2, 3, dtype=dtype), rtol=0, atol=1e-3)


@given(value=st.floats(-1e6, 1e6), column=st.integers(0, 3), dtype=st.sampled_from([torch.float32, torch.float64]))
@BOUNDED
def test_a_constant_column_is_zero_everywhere_and_is_named(value, column, dtype):
    train, other = normal(7, 4, dtype=dtype), normal(5, 4, seed=1, dtype=dtype)
    train[:, column] = value
    with pytest.warns(DataWarning, match=rf"got a constant in columns {column}, scaled to zero; drop"):
        z, held_out = standardize(train, other)
    assert (z[:, column] == 0).all() and (held_out[:, column] == 0).all()
    keep = [k for k in range(4) if k != column]
    torch.testing.assert_close(z[:, keep].std(0, correction=0), torch.ones(3, dtype=dtype))


def test_a_column_that_differs_by_rounding_alone_is_constant():
    x = torch.tensor([[1.0], [1.0 + torch.finfo(torch.float32).eps]])
    with pytest.warns(DataWarning, match="columns 0, scaled to zero"):
        assert (standardize(x)[0] == 0).all()


def test_the_warning_shortens_a_long_list_of_columns():
    with pytest.warns(DataWarning, match=r"columns \(0, 0\), .*\(0, 9\) and 14 more"):
        standardize(torch.ones(3, 2, 12))
    with pytest.warns(DataWarning, match="only column"):
        standardize(torch.ones(3))


def test_images_share_one_mean_and_sd():
    train, other = 4 + 3 * normal(20, 2, 5, 5), normal(3, 2, 5, 5, seed=1)
    z, held_out = standardize_images(train, other)
    mean, sd = train.numpy().mean(), train.numpy().std()
    np.testing.assert_allclose(z.numpy(), (train.numpy() - mean) / sd, atol=1e-12)
    np.testing.assert_allclose(held_out.numpy(), (other.numpy() - mean) / sd, atol=1e-12)


def test_images_of_one_color_are_zero_with_a_warning():
    with pytest.warns(DataWarning, match="all pixels, scaled to zero"):
        z, held_out = standardize_images(torch.full((4, 1, 2, 2), 0.1), torch.ones(2, 1, 2, 2))
    assert z.eq(0).all() and held_out.eq(0).all()


@pytest.mark.parametrize("scale", [standardize, standardize_images])
@given(row=st.integers(0, 4), pixel=st.integers(0, 3), bad=BAD, in_other=st.booleans())
@BOUNDED
def test_scaling_refuses_values_that_are_not_finite(scale, row, pixel, bad, in_other):
    tensors = [normal(5, 1, 4), normal(5, 1, 4, seed=1)]
    tensors[in_other][row, 0, pixel] = bad
    before = [t.clone() for t in tensors]
    with refused():
        scale(*tensors)
    assert all(torch.equal(t.nan_to_num(9.0), b.nan_to_num(9.0)) for t, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize("scale", [standardize, standardize_images])
@given(rows=st.integers(0, 1), columns=st.integers(1, 3), extra=st.integers(1, 2))
@BOUNDED
def test_scaling_refuses_too_few_rows_other_columns_and_integers(scale, rows, columns, extra):
    with refused():
        scale(torch.zeros(rows, columns, 2))
    with refused():
        scale(normal(4, columns, 2), normal(4, columns + extra, 2))
    with refused():
        scale(torch.zeros(4, columns, 2, dtype=torch.int64))
    with refused():
        scale(torch.zeros(4, 0, 2))
    with refused():
        scale(torch.tensor(1.0))


def test_scaling_refuses_a_variance_that_overflows():
    with refused():
        standardize(torch.tensor([[-1e200], [1e200]], dtype=torch.float64))


@given(rows=st.integers(2, 60), fraction=st.floats(0.05, 0.5), seed=SEEDS)
@BOUNDED
def test_split_shares_out_every_row_once_and_keeps_rows_aligned(rows, fraction, seed):
    x = torch.arange(rows, dtype=torch.float64)
    shared = torch.zeros(rows + 1)
    train, test = split(Dataset((x, shared), {"y": -x}, rows), test_fraction=fraction, seed=seed)
    assert torch.equal(torch.cat([train.args[0], test.args[0]]).sort().values, x)
    assert test.size == test.num_rows == int(np.ceil(fraction * rows)) and train.size == train.num_rows
    assert all(torch.equal(part.kwargs["y"], -part.args[0]) and len(part.args[1]) == rows + 1 for part in (train, test))
    again, _ = split(Dataset((x, shared), {"y": -x}, rows), test_fraction=fraction, seed=seed)
    assert torch.equal(again.args[0], train.args[0])


def test_another_seed_splits_otherwise():
    full = Dataset((torch.arange(50.0),), size=50)
    assert not torch.equal(split(full, seed=0)[0].args[0], split(full, seed=1)[0].args[0])


@given(seed=SEEDS)
@BOUNDED
def test_a_stratified_split_keeps_the_proportions_of_the_classes(seed):
    y = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    train, test = split(Dataset((torch.zeros(100),), {"y": y}, 100), seed=seed, stratify=y)
    assert train.kwargs["y"].bincount().tolist() == [40, 24, 16]
    assert test.kwargs["y"].bincount().tolist() == [10, 6, 4]


@given(labels=st.integers(0, 9), wrong=st.integers(0, 9), fraction=st.sampled_from([0.0, 1.0, -0.1, 1.5, float("nan")]))
@BOUNDED
def test_split_refuses_bad_fractions_and_bad_strata(labels, wrong, fraction):
    full = Dataset((torch.arange(10.0),), size=10)
    with refused():
        split(full, seed=0, test_fraction=fraction)
    with refused():
        split(full, seed=0, stratify=torch.full((10,), labels))
    with refused():
        split(full, seed=0, stratify=torch.arange(wrong) % 2)
    with refused():
        split(full, seed=0, stratify=torch.ones(10))
    with refused():
        split(full, seed=0, stratify=torch.tensor([0] * 9 + [1]))
    with refused():
        split(full, seed=0, stratify=torch.arange(10) % 4)


@given(bad=BAD, row=st.integers(0, 9), rows=st.integers(0, 1))
@BOUNDED
def test_split_refuses_data_that_are_not_finite_not_full_or_too_few(bad, row, rows):
    x = torch.zeros(10)
    x[row] = bad
    for data in (
        Dataset((torch.zeros(10),), {"y": x}, 10),
        Dataset((x,), size=10),
        Dataset((torch.zeros(rows),), size=rows),
        Dataset((torch.zeros(4),), size=10),
        Dataset((torch.zeros(4),)),
        Dataset((), size=4),
        Dataset((torch.tensor(1.0),), size=4),
    ):
        with refused():
            split(data, seed=0)
    with refused():
        split(Dataset((torch.zeros(10),), size=10), seed=0, test_fraction=0.95)
    with pytest.raises(ValueError, match=f"at least two rows, got {rows}"):
        split(Dataset((torch.zeros(rows),), size=rows), seed=0)


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=8), extra=st.integers(0, 3))
@BOUNDED
def test_one_hot_rows_sum_to_one_and_point_at_the_label(labels, extra):
    y = torch.tensor(labels)
    hot = one_hot(y, 5 + extra)
    assert hot.shape == (len(labels), 5 + extra)
    assert (hot.sum(1) == 1).all() and torch.equal(hot.argmax(1), y)
    data = Dataset((torch.zeros(len(labels)),), {"y": y, "other": y}, len(labels))
    assert torch.equal(with_one_hot(data, 5 + extra).kwargs["y"], hot)
    assert data.kwargs["y"] is y and with_one_hot(data, 5 + extra).kwargs["other"] is y


@given(label=st.one_of(st.integers(-5, -1), st.integers(3, 9)), position=st.integers(0, 3))
@BOUNDED
def test_one_hot_refuses_labels_out_of_range_empty_or_not_integers(label, position):
    y = torch.zeros(4, dtype=torch.int64)
    y[position] = label
    for labels in (y, y[:0], torch.zeros(3), torch.zeros(3, dtype=torch.bool)):
        with refused():
            one_hot(labels, 3)
    with refused():
        with_one_hot(Dataset((torch.zeros(4),), size=4), 3)


@given(num_rows=st.integers(1, 40), batch_size=st.integers(1, 40), seed=SEEDS)
@BOUNDED
def test_batches_are_equal_in_size_and_an_epoch_repeats_no_row(num_rows, batch_size, seed):
    per_epoch = max(1, num_rows // batch_size)
    stream = batches(num_rows, batch_size, torch.Generator().manual_seed(seed))
    for _ in range(3):
        epoch = list(islice(stream, per_epoch))
        assert all(len(batch) == min(batch_size, num_rows) for batch in epoch)
        rows = torch.cat(epoch)
        assert rows.unique().numel() == rows.numel() and rows.min() >= 0 and rows.max() < num_rows
        if batch_size >= num_rows:
            assert torch.equal(rows, torch.arange(num_rows))


def test_each_epoch_is_a_fresh_permutation_that_reaches_every_row():
    stream = batches(10, 4, torch.Generator().manual_seed(0))
    epochs = [torch.cat(list(islice(stream, 2))) for _ in range(20)]
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 20
    assert torch.cat(epochs).unique().numel() == 10


def test_batches_depend_on_the_generator_alone():
    before = torch.get_rng_state()
    first, second = ([*islice(batches(9, 2, torch.Generator().manual_seed(3)), 8)] for _ in range(2))
    assert torch.equal(torch.stack(first), torch.stack(second))
    assert torch.equal(torch.get_rng_state(), before)


@given(size=st.integers(-3, 0))
@BOUNDED
def test_batches_refuse_counts_below_one_before_the_first_batch(size):
    for num_rows, batch_size in ((size, 2), (2, size)):
        with refused():
            batches(num_rows, batch_size, torch.Generator())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_digits_are_split_by_class_and_scaled_by_the_training_images(dtype):
    train, test = digits(seed=3, dtype=dtype)
    assert train.args[0].dtype == test.args[0].dtype == dtype
    assert (train.size, test.size) == (1437, 360) and test.args[0].shape == (360, 1, 8, 8)
    assert abs(train.args[0].mean()) < 1e-5 and abs(train.args[0].std(correction=0) - 1) < 1e-5
    levels = torch.cat([train.args[0], test.args[0]]).flatten().double().unique().round(decimals=4).unique()
    assert len(levels) == 17  # Pixels are 0 … 16: one affine map took them all.
    total = train.kwargs["y"].bincount() + test.kwargs["y"].bincount()
    assert ((test.kwargs["y"].bincount() - 0.2 * total).abs() < 1).all() and total.sum() == 1797


def test_each_digit_keeps_its_label():
    raw = load_digits()
    label = {image.astype(int).tobytes(): target for image, target in zip(raw.images, raw.target, strict=True)}
    for part in digits(seed=0, dtype=torch.float64):
        z = part.args[0][:, 0].numpy()
        pixels = np.rint(16 * (z - z.min()) / (z.max() - z.min())).astype(int)
        assert [label[image.tobytes()] for image in pixels] == part.kwargs["y"].tolist()


def test_digits_depend_on_the_seed_alone():
    before = torch.get_rng_state()
    same = [digits(seed=seed)[0].kwargs["y"] for seed in (0, 0, 1)]
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], same[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_diabetes_has_the_known_evidence_of_bayesian_linear_regression():
    (x,), y = diabetes().args, diabetes().kwargs["y"]
    marginal = MultivariateNormal(torch.zeros_like(y), 0.5 * torch.eye(len(y), dtype=y.dtype) + x @ x.T)
    assert abs(marginal.log_prob(y).item() - -499.9919838) < 1e-6


def test_iris_has_the_known_likelihood_of_probabilistic_pca():
    x = iris().args[0].numpy()
    w = np.sort(np.linalg.eigvalsh(np.cov(x.T, ddof=0)))[::-1]
    exact = -len(x) / 2 * (4 * np.log(2 * np.pi) + np.log(w[:2]).sum() + 2 * np.log(w[2:].mean()) + 4)
    assert abs(exact - -404.9627799) < 1e-6
    assert abs(PCA(2).fit(x).score(x) * len(x) - exact) < 0.01  # Its covariance has ddof 1.


def test_tables_follow_the_dtype_asked_for():
    assert diabetes(torch.float32).kwargs["y"].dtype == iris(torch.float32).args[0].dtype == torch.float32


def test_locate_finds_files_below_the_variable_only(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").touch()
    monkeypatch.setenv("PROBMODEL_DATA", str(tmp_path))
    assert locate("a/b.txt") == tmp_path / "a" / "b.txt"
    for path, error in (("a", FileNotFoundError), ("c", FileNotFoundError), ("../x", ValueError), ("/x", ValueError)):
        with pytest.raises(error, match=r"expected .+ got .+; .+"):
            locate(path)
    monkeypatch.delenv("PROBMODEL_DATA")
    with pytest.raises(FileNotFoundError, match=r"PROBMODEL_DATA, got nothing; set"):
        locate("a/b.txt")


def raw_mnist(**changes: np.ndarray) -> dict[str, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    labels = np.arange(6, dtype=np.uint8)
    return {"x_train": pixels[:4], "y_train": labels[:4], "x_test": pixels[4:], "y_test": labels[4:], **changes}


@pytest.fixture
def mnist_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBMODEL_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    return tmp_path / "mnist" / "mnist.npz"


def test_mnist_is_read_from_the_file_and_scaled_by_its_training_images(mnist_file):
    raw = raw_mnist()
    np.savez(mnist_file, **raw)
    train, test = mnist(torch.float64)
    mean, sd = raw["x_train"].mean(), raw["x_train"].std()
    np.testing.assert_allclose(train.args[0][:, 0].numpy(), (raw["x_train"] - mean) / sd, atol=1e-12)
    np.testing.assert_allclose(test.args[0][:, 0].numpy(), (raw["x_test"] - mean) / sd, atol=1e-12)
    assert test.kwargs["y"].tolist() == [4, 5] and test.kwargs["y"].dtype == torch.int64
    assert (train.size, test.size) == (4, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"x_test": np.zeros((2, 27, 28), np.uint8)},
        {"x_test": np.zeros((2, 28, 28))},
        {"y_train": np.zeros(3, np.uint8)},
        {"y_train": np.full(4, 10, np.uint8)},
        {"x_test": np.zeros((0, 28, 28), np.uint8), "y_test": np.zeros(0, np.uint8)},
        {"x_test": np.array([None, None])},
    ],
)
def test_a_file_that_does_not_hold_mnist_is_refused(mnist_file, changes):
    np.savez(mnist_file, **raw_mnist(**changes))
    with refused():
        mnist()


def test_a_broken_mnist_file_is_refused(mnist_file):
    np.savez(mnist_file, **raw_mnist())
    whole = mnist_file.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"not an archive"):
        mnist_file.write_bytes(content)
        with refused():
            mnist()
    np.savez(mnist_file, x_train=raw_mnist()["x_train"])
    with refused():
        mnist()
    mnist_file.unlink()
    with pytest.raises(FileNotFoundError, match="expected the file"):
        mnist()


def test_mnist_comes_from_openml_without_the_variable(monkeypatch):
    raw = raw_mnist()
    module = importlib.import_module("probmodel.data.mnist")

    def fetched(name, **options):
        assert name == "mnist_784" and options["as_frame"] is False
        x = np.concatenate([raw["x_train"], raw["x_test"]]).reshape(6, 784).astype(float)
        return x, np.concatenate([raw["y_train"], raw["y_test"]]).astype(str).astype(object)

    monkeypatch.delenv("PROBMODEL_DATA", raising=False)
    monkeypatch.setattr(module, "fetch_openml", fetched)
    monkeypatch.setattr(module, "NUM_TRAIN", 4)
    train, test = mnist(torch.float64)
    assert train.kwargs["y"].tolist() == [0, 1, 2, 3] and test.kwargs["y"].tolist() == [4, 5]
    mean, sd = raw["x_train"].mean(), raw["x_train"].std()
    np.testing.assert_allclose(test.args[0][:, 0].numpy(), (raw["x_test"] - mean) / sd, atol=1e-12)


def test_mnist_without_file_and_network_says_what_to_do(monkeypatch):
    def offline(name, **options):
        raise OSError("no route to host")

    monkeypatch.delenv("PROBMODEL_DATA", raising=False)
    monkeypatch.setattr(importlib.import_module("probmodel.data.mnist"), "fetch_openml", offline)
    with pytest.raises(FileNotFoundError, match=r"expected MNIST .+ got: no route to host; set PROBMODEL_DATA"):
        mnist()


@pytest.mark.skipif("PROBMODEL_DATA" not in os.environ, reason="PROBMODEL_DATA names no folder with mnist/mnist.npz")
def test_the_real_mnist_has_its_known_rows_and_scale():
    train, test = mnist()
    assert (train.size, test.size) == (60_000, 10_000)
    assert train.kwargs["y"].bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    # Black is (0 - 33.318) / 78.567, the mean and sd of the 60,000 images.
    assert abs(train.args[0].min() + 33.3184 / 78.5675) < 1e-4 and test.args[0].min() == train.args[0].min()
