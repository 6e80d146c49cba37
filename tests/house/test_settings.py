"""Integers are taken from NumPy as from Python, floats and text are refused; the form of data is checked."""

import copy
import inspect
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import probmodel as pb
from probmodel.protocols.dataset_checks import check_form
from probmodel.protocols.integers import checked_seed, integer
from probmodel.tracing.checks import check

ROWS = 12
QUICK = {
    "SVI": pb.SVI(num_steps=5, num_samples=3, compile=False, progress=False),
    "NUTS": pb.NUTS(num_samples=8, num_warmup=8, num_chains=2, compile=False, progress=False),
    "ChEES": pb.ChEES(num_samples=8, num_warmup=8, num_chains=4, compile=False, progress=False),
}
COUNTS = [
    ("SVI", "num_steps"),
    ("SVI", "num_samples"),
    ("SVI", "batch_size"),
    ("SVI", "patience"),
    ("NUTS", "num_samples"),
    ("NUTS", "num_warmup"),
    ("NUTS", "num_chains"),
    ("NUTS", "max_tree_depth"),
    ("ChEES", "num_samples"),
    ("ChEES", "num_warmup"),
    ("ChEES", "num_chains"),
    ("ChEES", "max_leapfrogs"),
]


def line(x, y=None):
    w = pyro.sample("w", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def arrays():
    x = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0))
    return x, x.sum(-1)


def data(size=ROWS):
    x, y = arrays()
    return pb.Dataset((x,), {"y": y}, size)


def fit(method, seed=0, **changed):
    """Fit by the bare function, without the annotations that tests check."""
    settings = copy.copy(QUICK[method])
    for name, value in changed.items():
        object.__setattr__(settings, name, value)
    return inspect.unwrap(type(settings).__call__)(settings, line, data(), seed=seed)


@pytest.mark.parametrize("wrong", [4.0, np.float64(4.0), torch.tensor(4.0), "4"], ids=repr)
@pytest.mark.parametrize(("method", "name"), COUNTS)
def test_a_count_that_is_no_integer_is_refused_with_the_callers_own_number(method, name, wrong):
    with pytest.raises(ValueError, match=rf"expected {name} to be an integer, 1 or more, got .+; pass {name}=4$"):
        fit(method, **{name: wrong})


@pytest.mark.parametrize("method", QUICK)
def test_counts_and_seed_may_be_numpys(method):
    names = [name for each, name in COUNTS if each == method]
    ours, theirs = (fit(method, kind(3), **{name: kind(3) for name in names}) for kind in (int, np.int64))
    assert torch.equal(ours.draws["w"], theirs.draws["w"])
    assert type(theirs.info["seed"]) is int


@pytest.mark.parametrize("method", QUICK)
def test_a_seed_that_is_no_integer_is_refused(method):
    for wrong, remedy in ((None, "pass an integer"), (1.0, "pass seed=1"), (-1, "pass seed=0"), (2**32, "pass seed=")):
        with pytest.raises(ValueError, match=rf"expected seed to be an integer, 0 to 4294967295, got .+; {remedy}"):
            fit(method, wrong)


@pytest.mark.parametrize("wrong", [1.5, float("nan"), float("inf"), None, "many", 1j, [3], True])
def test_what_is_no_integer_is_refused_whatever_it_is(wrong):
    with pytest.raises(ValueError, match=r"expected n to be an integer, 1 or more, got .+; pass"):
        integer("n", wrong)


def test_an_integer_keeps_its_value_and_its_range():
    assert [integer("n", kind(5)) for kind in (int, np.uint8, torch.tensor)] == [5, 5, 5]
    assert type(integer("n", np.int64(5))) is int
    assert checked_seed(2**32 - 1) == 2**32 - 1
    with pytest.raises(ValueError, match=r"got 0; pass n=1"):
        integer("n", 0)


def test_a_budget_is_bytes_and_no_text():
    for wrong, remedy in (("1GB", "pass an integer"), (1e9, "pass num_bytes=1000000000")):
        budget = inspect.unwrap(pb.memory_budget)(wrong)
        with pytest.raises(ValueError, match=rf"expected num_bytes to be an integer, .+; {remedy}"):
            next(iter(budget)) if inspect.isgenerator(budget) else budget.__enter__()


def test_more_rows_a_batch_than_there_are_is_the_full_batch_and_is_said():
    with pytest.warns(
        UserWarning, match=r"batch_size up to the 12 rows, got 40, so that every step takes all; pass None"
    ):
        above = fit("SVI", batch_size=40)
    assert above.info["losses"] == fit("SVI", batch_size=ROWS).info["losses"]


def test_minibatches_of_data_without_size_are_refused_with_the_rows_they_have():
    with pytest.raises(ValueError, match=r"got size=None; pass Dataset\(args, kwargs, size=12\)"):
        pb.SVI(batch_size=4)(line, data(None), seed=0)


# ---------------------------------------------------------------------------------------------------- form

X, Y = arrays()
MISSHAPEN = {
    "a tuple": (((X,), {"y": Y}, ROWS), TypeError, "expected a Dataset, got tuple"),
    "a tensor as args": (pb.Dataset._make((X, {"y": Y}, ROWS)), TypeError, r"a tensor of shape \(12, 3\); .+comma"),
    "a dict as args": (pb.Dataset._make(({"x": X}, {"y": Y}, ROWS)), TypeError, "args as a tuple, got a dict"),
    "a tensor as kwargs": (pb.Dataset._make(((X,), Y, ROWS)), TypeError, r"kwargs as a dict, got a tensor of shape"),
    "a sparse tensor": (pb.Dataset((X.to_sparse(),), {}, ROWS), TypeError, r"sparse_coo; pass args\[0\]\.to_dense\(\)"),
    "complex numbers": (pb.Dataset((X,), {"y": Y * 1j}, ROWS), TypeError, r"complex64; pass torch\.view_as_real\(y\)"),
    "half precision": (pb.Dataset((X.half(),), {"y": Y}, ROWS), TypeError, r"float16; pass args\[0\]\.float\(\)"),
    "brain floats": (pb.Dataset((X,), {"y": Y.bfloat16()}, ROWS), TypeError, r"bfloat16; pass y\.float\(\)"),
    "no values": (pb.Dataset((X.to("meta"),), {}, ROWS), TypeError, "meta tensor without values; pass a tensor"),
    "text by row": (pb.Dataset((X,), {"y": ["a"] * ROWS}, ROWS), TypeError, r"as y, got a list; .*pandas\.factorize"),
    "numbers by row": (
        pb.Dataset((X,), {"y": [0.5] * ROWS}, ROWS),
        TypeError,
        r"got a list; pass torch\.as_tensor\(y\)",
    ),
    "a size of a float": (pb.Dataset._make(((X,), {"y": Y}, 12.0)), ValueError, "got 12.0; pass size=12"),
}


@pytest.mark.parametrize("name", MISSHAPEN)
def test_data_of_another_form_are_refused(name):
    given, error, message = MISSHAPEN[name]
    with pytest.raises(error, match=r"expected .+got .+; .+") as caught:
        check_form(given)
    assert re.search(message, str(caught.value))


def by_dict(rows, y=None):
    line(rows["x"], y)


def by_list(y, xs):
    line(xs[0], y)


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (by_dict, pb.Dataset(({"x": X},), {"y": Y}, ROWS), r"1 of 12 rows inside a dict as args\[0\]; pass each"),
        (by_list, pb.Dataset((Y,), {"xs": [X, X]}, ROWS), r"2 of 12 rows inside a list as kwargs\['xs'\]; pass each"),
    ],
)
def test_rows_hidden_in_a_dict_or_list_are_refused_where_rows_are_taken(model, given, message):
    with pytest.raises(TypeError, match=message):
        pb.SVI(num_steps=5, batch_size=4, progress=False)(model, given, seed=0)
    with pytest.raises(TypeError, match=message):
        pb.data.split(given, seed=0)
    QUICK["SVI"](model, given, seed=0)


@pytest.mark.parametrize("name", ["a tensor as args", "a dict as args", "a tensor as kwargs"])
def test_a_fit_refuses_data_of_another_form(name):
    given, error, message = MISSHAPEN[name]
    with pytest.raises(error, match=message):
        inspect.unwrap(check)(line, given)


def test_one_number_is_no_row():
    with pytest.raises(ValueError, match=r"got a scalar with size=12; pass it as a keyword argument"):
        check(line, pb.Dataset((torch.tensor(1.0), X), {"y": Y}, ROWS))


def test_what_is_no_row_passes_in_any_form():
    check_form(pb.Dataset(({"scale": torch.ones(2)}, "name", None), {"y": Y}, ROWS))
    check_form(pb.Dataset(({"x": X},), {"y": Y}))
    check_form(pb.Dataset((), {}, None))


@pytest.mark.parametrize(
    ("function", "more"), [(pb.data.split, {"seed": 0}), (pb.data.with_one_hot, {"num_classes": 2})]
)
def test_preparing_data_of_another_form_is_refused(function, more):
    with pytest.raises(TypeError, match="expected args as a tuple"):
        inspect.unwrap(function)(pb.Dataset._make((X, {"y": Y}, ROWS)), **more)


@pytest.mark.parametrize("wrong", [{"x": X}, X.numpy(), [1.0, 2.0], data()], ids=["dict", "array", "list", "Dataset"])
def test_preparing_what_is_no_tensor_is_refused(wrong):
    for call in (pb.data.standardize, pb.data.standardize_images, lambda x: inspect.unwrap(pb.data.one_hot)(x, 2)):
        with pytest.raises(TypeError, match=rf"expected a tensor as .+, got {type(wrong).__name__}; pass"):
            inspect.unwrap(call)(wrong)
    with pytest.raises(TypeError, match="expected a tensor as further rows"):
        inspect.unwrap(pb.data.standardize)(X, wrong)


def test_counts_and_seeds_of_data_are_integers():
    with pytest.raises(ValueError, match=r"got 2\.0; pass num_classes=2"):
        inspect.unwrap(pb.data.one_hot)(torch.tensor([0, 1]), 2.0)
    with pytest.raises(ValueError, match=r"got 4\.0; pass batch_size=4"):
        inspect.unwrap(pb.data.batches)(8, 4.0, torch.Generator())
    with pytest.raises(ValueError, match=r"seed to be an integer, .+ got None"):
        inspect.unwrap(pb.data.split)(data(), seed=None)
    with pytest.raises(ValueError, match=r"got 0 … 4; number the classes from 0 or pass num_classes=5"):
        pb.data.one_hot(torch.tensor([0, 4]), 3)


# ---------------------------------------------------------------------------------------------------- models


def scaled_by_hand(x, y=None):
    w = pyro.sample("w", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    with pyro.plate("rows", len(x)), pyro.poutine.scale(scale=ROWS / len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def test_a_model_that_scales_its_own_minibatch_is_not_scaled_twice():
    with pytest.raises(ValueError, match=r"got site 'y' scaled by 3 already; remove poutine\.scale"):
        pb.SVI(num_steps=5, batch_size=4, progress=False)(scaled_by_hand, data(), seed=0)
    QUICK["SVI"](scaled_by_hand, data(), seed=0)


def of_two_kinds(x, y=None):
    loc = pyro.sample("loc", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        kind = pyro.sample("kind", dist.Categorical(logits=torch.zeros(2)))
        pyro.sample("y", dist.Normal(loc[kind], 0.5), obs=y)


def test_a_discrete_latent_is_summed_out_with_the_automatic_guide():
    fit = pb.SVI(num_steps=60, num_samples=3, compile=False, progress=False)(of_two_kinds, data(), seed=0)
    assert set(fit.draws) == {"loc"}
    assert np.isfinite(fit.info["losses"]).all()


def with_latents_by_row(x, y=None):
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(x[:, 0], 1.0)), 0.5), obs=y)


def test_latents_of_rows_are_refused_for_minibatches_with_an_automatic_guide():
    with pytest.raises(ValueError, match=r"got \['z'\] with one value per row.*leave out batch_size"):
        pb.SVI(num_steps=5, batch_size=4, progress=False)(with_latents_by_row, data(), seed=0)
    QUICK["SVI"](with_latents_by_row, data(), seed=0)


@pytest.mark.parametrize("method", ["NUTS", "ChEES"])
def test_priors_of_single_precision_may_meet_data_of_double(method):
    def mixed(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(x @ w.to(x.dtype), 0.5), obs=y)

    found = QUICK[method](mixed, data().to(torch.float64), seed=0)
    assert torch.isfinite(found.draws["w"]).all()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("objective", pyro.infer.Trace_ELBO()), ("objective", "elbo"), ("autoguide", "AutoNormal")],
    ids=["Trace_ELBO", "text", "name of a guide"],
)
def test_what_is_no_objective_or_automatic_guide_is_refused(name, wrong):
    with pytest.raises(TypeError, match=rf"expected {name}\(.+got .+; pass"):
        fit("SVI", **{name: wrong})
