"""Loops of machine code give the numbers of the traced graph, outlive the process, and are refused where they differ."""

import sys

import pytest
import torch
from problems.pyro_models import noise, tensor
from torch.fx.experimental.proxy_tensor import make_fx

from probmodel.protocols.errors import CompilingWarning
from probmodel.tracing.programs.compiling import Native, repeat
from probmodel.tracing.programs.graphs import closed_graph, half_precision, recorded
from probmodel.tracing.programs.rounding_errors import distance, perturbed, relative_error, tolerance
from probmodel.tracing.randomness import isolated

compiling = sys.modules["probmodel.tracing.programs.compiling"]


def walk(count, steps, x, drift):
    """A random walk whose every step is itself a loop."""

    def outer(i, x, drift, steps):
        def inner(j, x, drift):
            return (0.9 * x + drift * torch.randn(3, dtype=x.dtype) + j,)

        (moved,) = repeat(steps, inner, (x,), (drift,))
        return (moved / (i + 1),)

    return repeat(count, outer, (x,), (drift, steps))


def arguments(count=3, steps=2):
    return torch.tensor(count), torch.tensor(steps), tensor(1.0, 2.0, 3.0), tensor(0.1, 0.2, 0.3)


def test_a_loop_is_the_python_loop():
    with isolated(seed=0):
        (found,) = walk(*arguments())
    with isolated(seed=0):
        x, drift = arguments()[2:]
        for i in range(3):
            for j in range(2):
                x = 0.9 * x + drift * torch.randn(3, dtype=x.dtype) + j
            x = x / (i + 1)
    assert torch.equal(found, x)


def test_a_loop_is_recorded_step_by_step_from_real_tensors():
    count, steps, x, drift = arguments()
    with isolated(seed=1):
        graph = recorded(lambda x, drift: walk(count, steps, x, drift), x, drift)
    with isolated(seed=0):
        (wanted,) = walk(count, steps, x, drift)
    with isolated(seed=0):
        (found,) = graph(x, drift)
    assert torch.equal(found, wanted)


@pytest.mark.compiles
def test_a_compiled_nested_loop_draws_the_numbers_of_the_uncompiled_for_any_count():
    native = Native(walk, arguments())
    native.compile()
    assert native.compiled
    for count, steps in ((0, 1), (1, 0), (3, 2), (7, 5)):
        with isolated(seed=count):
            (expected,) = walk(*arguments(count, steps))
        with isolated(seed=count):
            (found,) = native(*arguments(count, steps))
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.compiles
def test_the_same_graph_is_compiled_once_for_all_processes_whatever_the_data(monkeypatch):
    Native(walk, arguments()).compile()

    def refuse(*_):
        raise AssertionError("compiled once more")

    monkeypatch.setattr(compiling, "_build", refuse)
    again = Native(walk, (*arguments()[:2], tensor(9.0, 9.0, 9.0), tensor(0.0, 1.0, 2.0)))
    assert again.on_disk()
    again.compile()
    assert again.compiled


def test_another_shape_dtype_or_number_of_threads_is_another_graph():
    def double(x):
        return (2 * x,)

    paths = [Native(double, (x,)).path for x in (noise(3), noise(4), noise(3).float(), noise(3, 1))]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    paths.append(Native(double, (noise(3),)).path)
    torch.set_num_threads(threads)
    paths.append(Native(lambda x: (3 * x,), (noise(3),)).path)
    paths.append(Native(double, (noise(3),), threads=threads + 2).path)
    assert len(set(paths)) == len(paths)


@pytest.mark.compiles
def test_one_tensor_given_twice_is_not_taken_for_one_argument():
    x = tensor(1.0, 2.0)
    native = Native(lambda a, b: (a - b,), (x, x))
    native.compile()
    assert torch.equal(native(x, 3 * x)[0], -2 * x)


@pytest.mark.parametrize("wrong", [lambda x: (x + 1e-4,), lambda x: (x * torch.nan,)])
def test_machine_code_with_other_numbers_is_refused(monkeypatch, wrong):
    native = Native(lambda x: (x.clone(),), (noise(3),))
    monkeypatch.setattr(native, "_library", lambda: wrong)
    with pytest.warns(CompilingWarning, match="rounding explains"):
        native.compile()
    assert not native.compiled
    assert torch.equal(native(noise(3))[0], noise(3))


def test_numbers_that_one_rounding_of_the_inputs_makes_infinite_excuse_nothing(monkeypatch):
    largest = torch.finfo(torch.float64).max
    native = Native(lambda x: (x[:1].clone(), x[1:].clone()), (tensor(largest, 1.0),))
    monkeypatch.setattr(native, "_library", lambda: lambda x: (x[:1], x[1:] + 1))
    with pytest.warns(CompilingWarning, match="rounding explains"):
        native.compile()
    assert not native.compiled


def test_ill_conditioned_arithmetic_is_held_to_what_a_rounding_of_its_inputs_does():
    x = tensor(1.0, 1.0 + 1e-12)
    expected = (1e20 * (x[1:] - x[:1]),)

    def nudged(seed):
        a, b = perturbed([x[:1], x[1:]], seed)
        return (1e20 * (b - a),)

    assert relative_error(expected, (expected[0] + 1e4,), nudged) < 1
    assert relative_error(expected, (1.5 * expected[0],), nudged) > 1
    assert relative_error(expected, (expected[0] + 1e4,), lambda seed: expected) > 1


def test_one_ill_conditioned_quantity_excuses_no_other(monkeypatch):
    x = tensor(0.3, 0.3 + 1e-13, 7.25)

    def packed(x):
        return (torch.stack([1e20 * (x[1] - x[0]), x[2]]),)

    native = Native(packed, (x,), parts=lambda results: results[0].split(1))
    monkeypatch.setattr(native, "_library", lambda: lambda x: (packed(x)[0] * tensor(1 + 1e-5, 1.001),))
    with pytest.warns(CompilingWarning, match="rounding explains"):
        native.compile()
    native = Native(packed, (x,), parts=lambda results: results[0].split(1))
    monkeypatch.setattr(native, "_library", lambda: lambda x: (packed(x)[0] * tensor(1 + 1e-5, 1.0),))
    native.compile()
    assert native.compiled


def test_whole_numbers_are_not_nudged():
    x = tensor(1.0, 2.0, -3.0, 0.0, 1.5)
    moved = perturbed([x, torch.arange(3)], 1)
    assert torch.equal(moved[0][:4], x[:4])
    assert 0 < abs(moved[0][4] - 1.5) < 1e-13
    assert torch.equal(moved[1], torch.arange(3))


def test_lifting_leaves_the_graph_it_is_given_as_it_was():
    with isolated(seed=0):
        graph = make_fx(lambda x: (x + torch.randn_like(x)) * (x + torch.randn_like(x)))(noise(3))
    before = graph.code
    assert closed_graph(graph).graph is not graph
    assert graph.code == before


def test_a_switch_of_a_rectifier_is_seen_by_nudging():
    x = tensor(3.0, -3.0 * (1 - 1e-15))

    def grad(moved):
        return (100.0 * (moved.sum() > 0).to(x.dtype)[None],)

    assert relative_error(grad(x), (tensor(0.0),), lambda seed: grad(perturbed([x], seed)[0])) < 1
    far = tensor(3.0, -2.0)
    assert relative_error(grad(far), (tensor(0.0),), lambda seed: grad(perturbed([far], seed)[0])) > 1


def test_what_cannot_be_compiled_runs_uncompiled_and_says_why(monkeypatch):
    def fail():
        raise RuntimeError("no compiler here\nsecond line")

    native = Native(lambda x: (2 * x,), (noise(3),))
    monkeypatch.setattr(native, "_library", fail)
    with pytest.warns(CompilingWarning, match="no compiler here$"):
        native.compile()
    assert torch.equal(native(noise(3))[0], 2 * noise(3))


def names(graph):
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def test_lifting_computes_constants_once_drops_dead_draws_and_keeps_the_result():
    data, unused = noise(4), noise(4)

    def function(x):
        torch.randn(5)  # A draw that nobody reads.
        drawn = torch.randn(4, dtype=x.dtype)
        check = torch.log((drawn == drawn).to(x.dtype)) + 0 * drawn
        return (x * torch.lgamma(data.exp()) + torch.ones(4, dtype=x.dtype) + check).sum() + 0 * unused.sum()

    x = noise(4) + 1
    with isolated(seed=0):
        graph = make_fx(function)(x)
        pure = closed_graph(graph)
        torch.testing.assert_close(pure.graph(*pure.constants, x), function(x))
    assert not {"aten.lgamma.default", "aten.log.default", "aten.eq.Tensor"} & set(names(pure.graph))
    assert [names(g).count("aten.randn.default") for g in (graph, pure.graph)] == [2, 1]
    assert "aten.lgamma.default" in names(graph)
    assert [constant.shape for constant in pure.constants] == [(4,)]


def test_lifting_leaves_draws_that_are_read():
    with isolated(seed=0):
        pure = closed_graph(make_fx(lambda x: x + torch.randn(3, dtype=x.dtype))(noise(3)))
        first, second = (pure.graph(*pure.constants, noise(3)) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    "draw", [torch.randn_like, torch.rand_like, torch.bernoulli, torch.dropout], ids=lambda f: f.__name__
)
def test_draws_of_the_same_shape_are_never_taken_for_each_other(draw):
    count = 16

    def mean(x):
        drawn = [draw(x, 0.5, True) if draw is torch.dropout else draw(x) for _ in range(count)]
        return torch.stack(drawn).mean(0)

    x = torch.full((20_000,), 0.5, dtype=torch.float64)
    with isolated(seed=0):
        pure = closed_graph(make_fx(mean)(x))
        found, once = pure.graph(*pure.constants, x), mean(x[:1].expand(320_000))
        single = draw(x, 0.5, True) if draw is torch.dropout else draw(x)
    assert abs(count * found.var() / single.var() - 1) < 0.1
    assert abs(count * once.var() / single.var() - 1) < 0.1


def test_small_draws_made_at_once_are_independent_and_keep_shape_and_dtype():
    def products(x):
        a, b, c = torch.randn(2, 3, dtype=x.dtype), torch.randn(3, dtype=x.dtype), torch.randn((), dtype=x.dtype)
        single, large = torch.randn(3), torch.randn(2_000, dtype=x.dtype)
        return torch.stack([*(a * b).flatten(), *(a[0] * a[1]), *(c * b), *(b * single), large[0] * c, a[0, 0] ** 2])

    x = noise(1)
    with isolated(seed=0):
        pure = closed_graph(make_fx(products)(x))
        found = torch.stack([pure.graph(x) for _ in range(4_000)])
    assert names(pure.graph).count("aten.randn.default") == 3  # The small ones of each dtype, and the large one.
    z = found.mean(0) / (found.std(0) / 4_000**0.5)
    assert found.dtype == x.dtype
    assert z[:-1].abs().max() < 4
    assert abs(found[:, -1].mean() - 1) < 4 * (2 / 4_000) ** 0.5


def test_a_mask_of_missing_data_is_not_folded_away():
    def function(y):
        return torch.where(y == y, y, torch.zeros_like(y)).sum()

    y = tensor(1.0, float("nan"), 3.0)
    pure = closed_graph(make_fx(function)(y))
    assert float(pure.graph(*pure.constants, y)) == 4.0


def test_a_refused_graph_is_not_compiled_again(monkeypatch):
    native = Native(lambda x: (2 * x,), (noise(3),))
    calls = []

    def fail():
        calls.append(1)
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(native, "_library", fail)
    with pytest.warns(CompilingWarning):
        native.compile()
    native.compile()
    assert calls == [1]
    assert not native.on_disk()


def test_what_cannot_be_traced_without_values_is_not_on_disk():
    captured = noise(3)
    native = Native(lambda x: (x * captured,), (noise(3),))
    with pytest.warns(CompilingWarning):
        assert not native.on_disk()
    assert torch.equal(native(noise(3))[0], noise(3) * captured)


def test_results_of_half_precision_are_held_to_its_rounding():
    x = torch.linspace(1.0, 2.0, 5)
    short = make_fx(lambda x: x.to(torch.bfloat16).square().to(torch.float32))(x)
    long = make_fx(lambda x: x.to(torch.float64).square().to(torch.float32))(x)
    aside = make_fx(lambda x: (x + torch.zeros(5, dtype=torch.bfloat16), x.to(torch.bfloat16))[0])(x)
    assert half_precision(short) is torch.bfloat16 and half_precision(long) is half_precision(aside) is None
    within = tolerance(torch.bfloat16)
    assert distance(x, 1.01 * x, within) < 1 < distance(x, 1.01 * x)
    assert distance(x, 1.2 * x, within) > 1
    # What is small throughout does not go unseen.
    assert distance(1e-3 * x, 0.0 * x, within) > 1 and distance(0.0 * x, 1e-3 * x, within) > 1
