"""Bad input gets a ValueError that says what was expected, what came and what to do; nothing of the caller's changes."""

import copy
import inspect
import re
from functools import lru_cache
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

import probmodel as pb
from probmodel.tracing.checks import check
from tests.conftest import fingerprints

ROWS, COLUMNS, CLASSES = 12, 3, 3
few = settings(
    max_examples=8, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
not_finite = st.sampled_from([float("nan"), float("inf"), float("-inf")])
wrong_count = st.integers(-3, 0)


def line(x, y=None):
    w = pyro.sample("w", dist.Normal(x.new_zeros(COLUMNS), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def without_plate(x, y=None):
    w = pyro.sample("w", dist.Normal(x.new_zeros(COLUMNS), 1.0).to_event(1))
    return pyro.sample("y", dist.Normal(x @ w, 0.5).to_event(1), obs=y)


@lru_cache
def network():
    with pb.isolated(0):
        return pb.Pipeline(pb.Identity(), pb.DNN(COLUMNS, 3, hidden=()), pb.Classify(3, CLASSES))


@lru_cache
def regression():
    with pb.isolated(0):
        return pb.Pipeline(pb.Identity(), pb.VAE(COLUMNS, 2), pb.Regress(2))


@lru_cache
def bayesian():
    return pb.lift(network())


def svi(**changed):
    return pb.SVI(**{"num_steps": 5, "num_samples": 20, "progress": False, "compile": False, **changed})


METHODS = {
    "SVI": (svi(), network),
    "NUTS": (pb.NUTS(5, 5, 1, progress=False), bayesian),
    "Laplace": (pb.Laplace(20), bayesian),
    "Exact": (pb.Exact(20), lambda: line),
}
CLASSIFIERS = [name for name in METHODS if name != "Exact"]


@lru_cache
def numbers():
    with pb.isolated(0):
        return torch.randn(ROWS, COLUMNS)


def x():
    return numbers().clone()


def labels():
    return torch.arange(ROWS) % CLASSES


def responses():
    return x().sum(-1)


def observations(method):
    return responses() if method == "Exact" else labels()


def dataset(rows, y, size=None):
    return pb.Dataset((rows,), {"y": y}, len(rows) if size is None else size)


@lru_cache
def fits():
    """A fit with latents shared by rows, and one of point estimates alone."""
    return SimpleNamespace(
        latents=pb.Exact(50)(line, dataset(x(), responses()), seed=0),
        point=svi()(network(), dataset(x(), labels()), seed=0),
    )


def state(owners, data):
    """Everything that a refused call must leave as it was."""
    held = [module.state_dict() for module in owners if isinstance(module, torch.nn.Module)]
    flags = [[p.requires_grad for p in m.parameters()] for m in owners if isinstance(m, torch.nn.Module)]
    params = dict(pyro.get_param_store().items())
    return copy.deepcopy((held, flags, data, params)), fingerprints()


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(1e9), b.nan_to_num(1e9))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(one, other) for one, other in zip(a, b, strict=True))
    return a == b


def refused(call, *parts, owners=(), data=()):
    """The call raises a ValueError with expected, got and remedy, and leaves everything as it was."""
    pyro.get_param_store().setdefault("of the caller", torch.tensor(1.5))
    try:
        before, states = state(owners, data)
        with pytest.raises(ValueError) as caught:
            call()
        after, states_after = state(owners, data)
    finally:
        pyro.clear_param_store()
    said = str(caught.value)
    assert re.search(r"expected|needs? |is called with", said), f"nothing was expected: {said}"
    assert "got" in said, f"nothing was got: {said}"
    assert re.search(r"got.*;", said, re.DOTALL), f"no remedy: {said}"
    for part in parts:
        assert part in said, said
    assert states == states_after
    assert same(before, after), "the caller's model, data or parameters changed"


def fit_refused(method, data, *parts):
    inference, model = METHODS[method]
    refused(lambda: inference(model(), data, seed=0), *parts, owners=[model()], data=data)


def spoilt(tensor, place, value):
    tensor = tensor.clone()
    tensor.view(-1)[place] = value
    return tensor


# ------------------------------------------------------------------------------------------------------- fitting


@pytest.mark.parametrize("method", METHODS)
@given(place=st.integers(0, ROWS * COLUMNS - 1), value=not_finite)
@few
def test_features_that_are_not_finite(method, place, value):
    fit_refused(method, dataset(spoilt(x(), place, value), observations(method)), "finite", "1 NaN or infinite")


@given(place=st.integers(0, ROWS - 1), value=not_finite)
@few
def test_responses_that_are_not_finite(place, value):
    data = dataset(x(), spoilt(responses(), place, value))
    fit_refused("Exact", data, "finite")
    refused(lambda: svi()(regression(), data, seed=0), "finite", owners=[regression()], data=data)


@pytest.mark.parametrize("method", METHODS)
@given(columns=st.integers(1, 6).filter(lambda n: n != COLUMNS))
@few
def test_features_of_another_width_than_the_model(method, columns):
    rows = x()[:, [0] * columns]
    fit_refused(method, dataset(rows, observations(method)), str(tuple(rows.shape)))


@pytest.mark.parametrize("method", METHODS)
@given(count=st.integers(2, 2 * ROWS).filter(lambda n: n != ROWS))
@few
def test_more_or_fewer_observations_than_rows(method, count):
    y = observations(method).repeat(2)[:count]
    fit_refused(method, dataset(x(), y), str(count), str(ROWS))


@pytest.mark.parametrize("method", METHODS)
@given(axes=st.integers(1, 2))
@few
def test_observations_with_axes_too_many(method, axes):
    y = observations(method).reshape(ROWS, *[1] * (axes + (method != "Exact")))
    fit_refused(method, dataset(x(), y), str(tuple(y.shape)))


@pytest.mark.parametrize("method", METHODS)
def test_no_rows(method):
    fit_refused(method, dataset(x()[:0], observations(method)[:0]), "at least one row", "add data")


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_too_few_rows(method):
    fit_refused(method, dataset(x()[:1], labels()[:1]), "at least 2 rows", "got 1")


@pytest.mark.parametrize("method", METHODS)
@given(size=st.integers(0, ROWS - 1))
@few
def test_a_size_below_the_rows(method, size):
    fit_refused(method, dataset(x(), observations(method), size), f"got {size} for {ROWS} rows", f"size={ROWS}")


@pytest.mark.parametrize("method", METHODS)
def test_a_size_without_tensors(method):
    fit_refused(method, pb.Dataset((), {}, ROWS), "expected tensors", str(ROWS))


@pytest.mark.parametrize("method", METHODS)
def test_an_argument_the_model_does_not_take(method):
    fit_refused(method, pb.Dataset((x(),), {"target": observations(method)}, ROWS), "target")


@pytest.mark.parametrize("method", CLASSIFIERS)
@given(which=st.integers(0, CLASSES - 1), hot=st.booleans())
@few
def test_labels_of_one_class(method, which, hot):
    y = torch.full((ROWS,), which)
    fit_refused(method, dataset(x(), one_hot(y, CLASSES) if hot else y), "two or more classes", f"got {which}")


@pytest.mark.parametrize("method", CLASSIFIERS)
@given(place=st.integers(0, ROWS - 1), label=st.integers(-5, 9).filter(lambda k: not 0 <= k < CLASSES))
@few
def test_labels_out_of_range(method, place, label):
    fit_refused(method, dataset(x(), spoilt(labels(), place, label)), f"0 … {CLASSES - 1}", str(label))


@pytest.mark.parametrize("method", CLASSIFIERS)
@given(extra=st.integers(1, 4))
@few
def test_one_hot_labels_of_other_columns(method, extra):
    fit_refused(method, dataset(x(), one_hot(labels(), CLASSES + extra)), str(CLASSES), f"got {CLASSES + extra}")


@pytest.mark.parametrize("method", CLASSIFIERS)
@given(place=st.integers(0, ROWS * CLASSES - 1), value=st.integers(2, 5))
@few
def test_one_hot_labels_that_are_not(method, place, value):
    fit_refused(method, dataset(x(), spoilt(one_hot(labels(), CLASSES), place, value)), "one-hot")


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_labels_that_are_no_whole_numbers(method):
    fit_refused(method, dataset(x(), labels().float()), "integer", "y.long()")


@pytest.mark.parametrize(
    ("data", "message"),
    [((torch.ones(3),), "Dataset"), (pb.Dataset((torch.ones(3).to_sparse(),), size=3), r"args\[0\]\.to_dense\(\)")],
    ids=["a tuple", "a sparse tensor"],
)
@pytest.mark.parametrize("method", METHODS)
def test_data_of_the_wrong_kind(method, data, message):
    """Without the annotations that tests check, too."""
    inference, model = METHODS[method]
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(check)(model(), data)
    with pytest.raises(TypeError):
        inference(model(), data, seed=0)


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_a_pipeline_without_size(method):
    fit_refused(method, pb.Dataset((x(),), {"y": labels()}), "size", "None")


def test_a_regression_keeps_a_constant_response():
    """One value only is no error for numbers: they have a best fit."""
    assert svi()(regression(), dataset(x(), torch.ones(ROWS)), seed=0).info["losses"]


# ------------------------------------------------------------------------------------------------------ settings


@given(count=wrong_count)
@few
def test_settings_of_no_steps_or_draws(count):
    data, classes = dataset(x(), responses()), dataset(x(), labels())
    refused(lambda: svi(num_steps=count)(network(), classes, seed=0), "num_steps", owners=[network()], data=classes)
    refused(lambda: svi(num_samples=count)(network(), classes, seed=0), "num_samples", owners=[network()], data=classes)
    refused(lambda: pb.Laplace(count)(line, data, seed=0), "num_samples", data=data)
    refused(lambda: pb.Laplace(5, count)(line, data, seed=0), "num_starts", data=data)
    refused(lambda: pb.Exact(count)(line, data, seed=0), "num_samples", data=data)
    for name in ("num_samples", "num_warmup", "num_chains", "max_tree_depth"):
        settings = {"num_samples": 5, "num_warmup": 5, "num_chains": 1, "progress": False, name: count}
        refused(lambda settings=settings: pb.NUTS(**settings)(line, data, seed=0), name, data=data)


@given(share=st.sampled_from([-1.0, 0.0, 1.0, 1.5, float("nan")]))
@few
def test_an_acceptance_that_is_no_probability(share):
    data = dataset(x(), responses())
    refused(lambda: pb.NUTS(5, 5, 1, target_accept=share, progress=False)(line, data, seed=0), "target_accept")


@given(rows=st.integers(-2, ROWS - 1))
@few
def test_minibatches_of_what_has_no_rows(rows):
    data = pb.Dataset((x(),), {"y": responses()})
    refused(lambda: svi(batch_size=rows)(line, data, seed=0), "batch_size", data=data)


@given(rows=st.integers(1, ROWS - 1))
@few
def test_minibatches_of_a_model_without_a_plate(rows):
    data = dataset(x(), responses())
    refused(lambda: svi(batch_size=rows)(without_plate, data, seed=0), "pyro.plate", data=data)


@given(name=st.text(st.characters(categories=["Ll"]), min_size=1, max_size=5).filter(lambda name: name != "w"))
@few
def test_a_guide_of_unknown_sites(name):
    def guide(x, y=None):
        pyro.sample(f"{name}_", dist.Normal(x.new_zeros(COLUMNS), 1.0).to_event(1))

    data = dataset(x(), responses())
    refused(lambda: svi(guide=guide)(line, data, seed=0), "w", data=data)


@given(name=st.text(st.characters(categories=["Ll"]), min_size=1, max_size=5).filter(lambda name: name != "w"))
@few
def test_values_of_an_unknown_site(name):
    target = pb.target(line, dataset(x(), responses()))
    refused(lambda: target.unconstrain({name: torch.zeros(1, COLUMNS)}), "w", name)


# ------------------------------------------------------------------------------------------------- after fitting


FITS = ("latents", "point")


def seen(fit):
    return responses() if fit == "latents" else labels()


def posterior_refused(fit, call, *parts, data=()):
    posterior = fits().__dict__[fit]
    held = [posterior.data, dict(posterior.draws), data]
    refused(lambda: call(posterior), *parts, owners=[posterior.model], data=held)


def held_out_refused(fit, data, *parts):
    posterior_refused(fit, lambda p: pb.diagnose(p, data), *parts, data=data)
    posterior_refused(fit, lambda p: pb.compare({"one": p}, data), *parts, data=data)


@pytest.mark.parametrize("fit", FITS)
@given(columns=st.integers(0, 6).filter(lambda n: n != COLUMNS))
@few
def test_new_rows_of_other_columns(fit, columns):
    rows = x()[:, [0] * columns] if columns else x()[:, 0]
    posterior_refused(fit, lambda p: pb.predict(p, rows), str((COLUMNS,)), data=rows)
    held_out_refused(fit, dataset(rows, seen(fit)), str((COLUMNS,)))


@pytest.mark.parametrize("fit", FITS)
@given(place=st.integers(0, ROWS * COLUMNS - 1), value=not_finite)
@few
def test_new_rows_that_are_not_finite(fit, place, value):
    rows = spoilt(x(), place, value)
    posterior_refused(fit, lambda p: pb.predict(p, rows), "finite", data=rows)
    held_out_refused(fit, dataset(rows, seen(fit)), "finite")


@pytest.mark.parametrize("fit", FITS)
def test_new_rows_that_are_none_or_no_floating_numbers_or_too_many_arguments(fit):
    posterior_refused(fit, lambda p: pb.predict(p, x()[:0]), "at least one")
    posterior_refused(fit, pb.predict, "arguments")
    posterior_refused(fit, lambda p: pb.predict(p, x(), x()), "got 2")
    posterior_refused(fit, lambda p: pb.predict(p, x().long()), "check names, shapes and dtypes")


@pytest.mark.parametrize("fit", FITS)
@given(count=wrong_count)
@few
def test_predictions_of_no_draws(fit, count):
    posterior_refused(fit, lambda p: pb.predict(p, x(), num_samples=count), "num_samples", f"got {count}")


@pytest.mark.parametrize("fit", FITS)
def test_held_out_rows_that_cannot_be_scored(fit):
    y = seen(fit)
    held_out_refused(fit, dataset(x()[:0], y[:0]), "at least one")
    held_out_refused(fit, dataset(x()[:1], y[:1]), "at least 2", "got 1")
    held_out_refused(fit, dataset(x(), y[:5]), "5")
    held_out_refused(fit, pb.Dataset((x(),), {}, ROWS), "rows with observations")
    held_out_refused(fit, pb.Dataset(), "arguments")


@given(label=st.integers(-5, 9).filter(lambda k: not 0 <= k < CLASSES))
@few
def test_held_out_labels_out_of_range(label):
    held_out_refused("point", dataset(x(), spoilt(labels(), 3, label)), str(label))
    held_out_refused("point", dataset(x(), one_hot(labels(), CLASSES + 2)), str(CLASSES + 2))


@pytest.mark.parametrize("which", range(CLASSES))
def test_held_out_rows_of_one_class_are_scored(which):
    held_out = dataset(x(), torch.full((ROWS,), which))
    log_score = pb.predict(fits().point, x()).distribution.log_prob(held_out.kwargs["y"]).mean()
    assert pb.diagnose(fits().point, held_out)["held-out log score"].value == pytest.approx(float(log_score))


def test_point_estimates_without_held_out_rows():
    posterior_refused("point", pb.diagnose, "held-out")
    posterior_refused("point", lambda p: pb.compare({"one": p}), "held-out")


def test_comparisons_of_nothing_and_of_different_observations():
    refused(lambda: pb.compare({}), "none")
    other = pb.Exact(50)(line, dataset(x(), responses() + 1), seed=0)
    refused(lambda: pb.compare({"one": fits().latents, "other": other}), "different", owners=[line])


# ---------------------------------------------------------------------------------------------------------- data


@given(
    columns=st.sets(st.integers(0, COLUMNS - 1), min_size=1, max_size=COLUMNS - 1), value=st.floats(-1e6, 1e6, width=32)
)
@few
def test_constant_columns_become_zero_with_a_warning(columns, value):
    rows, others = x(), x() + 1
    rows[:, sorted(columns)] = value
    before = rows.clone()
    with pytest.warns(UserWarning, match="vary in train, got a constant in .*, scaled to zero; drop"):
        train, test = pb.data.standardize(rows, others)
    for scaled in (train, test):
        assert torch.isfinite(scaled).all()
        assert (scaled[:, sorted(columns)] == 0).all()
    kept = [column for column in range(COLUMNS) if column not in columns]
    assert torch.allclose(train[:, kept].std(0, correction=0), torch.ones(len(kept)), atol=1e-5)
    assert torch.equal(rows, before)


@given(place=st.integers(0, ROWS * COLUMNS - 1), value=not_finite)
@few
def test_data_that_cannot_be_standardized(place, value):
    rows = spoilt(x(), place, value)
    refused(lambda: pb.data.standardize(rows), "finite", data=rows)
    refused(lambda: pb.data.standardize(x(), rows), "finite", data=rows)
    refused(lambda: pb.data.standardize(x()[:1]), "two")
    refused(lambda: pb.data.standardize(x(), x()[:, :2]), "columns")
