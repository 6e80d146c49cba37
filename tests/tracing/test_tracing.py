"""A traced program equals the eager function, draws anew at each call, and leaves the caller's things alone."""

import random
import warnings
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.pyro_models import ONE, ZERO, noise, tensor
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch._guards import TracingContext, detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import constraints
from torch.func import vmap

from probmodel.inference.guides.draws import guide_draws
from probmodel.inference.svi import SVI
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import TracingWarning
from probmodel.tracing.ownership import copied_to_data, owned_copies, parameters
from probmodel.tracing.programs.gradients import Gradient
from probmodel.tracing.programs.graphs import closed_graph, recorded
from probmodel.tracing.programs.program import Program, bytes_per_call, trace
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import sites

DATA = Dataset((noise(8, 2), noise(8, seed=1)), {}, 8)
QUICK = SVI(num_steps=30, num_samples=20, progress=False, compile=False)


def guide_draws_of(model, guide, data, num_samples, seed):
    with isolated(seed=0):
        latents = sites(model, data).latents
    return guide_draws(guide, data, latents, num_samples, seed)


def draws_normal(x):
    """A normal draw through Pyro, whose own sampler writes in place."""
    return (x * pyro.sample("z", dist.Normal(ZERO, ONE).expand([3]).to_event(1))).sum()


@pytest.mark.parametrize("draw", [draws_normal, lambda x: (x * torch.rand(3, dtype=x.dtype)).sum()])
def test_a_traced_program_draws_anew_at_each_call_and_again_the_same_under_a_seed(draw):
    run = trace(draw, tensor(1.0, 2.0, 3.0)).run
    with isolated(seed=5):
        first, second = run(tensor(1.0, 2.0, 3.0)), run(tensor(1.0, 2.0, 3.0))
    with isolated(seed=5):
        again = run(tensor(1.0, 2.0, 3.0))
    with isolated(seed=6):
        other = run(tensor(1.0, 2.0, 3.0))
    assert first != second
    assert first == again
    assert first != other


def test_a_trace_makes_no_mode_of_fake_tensors_for_each_operation(monkeypatch):
    made, make = [], FakeTensorMode.__init__
    monkeypatch.setattr(FakeTensorMode, "__init__", lambda *args, **settings: made.append(make(*args, **settings)))
    program = trace(lambda x: sum(((x * k).sin().sum() for k in range(30)), ZERO), tensor(1.0, 2.0))
    assert len(program.run.graph.nodes) > 60
    assert len(made) < 10


def test_a_recording_within_another_shares_its_mode_and_an_error_leaves_none():
    found = []

    def inner(x):
        found.append(detect_fake_mode())
        return x.sin()

    def outer(x):
        found.append(detect_fake_mode())
        recorded(inner, torch.ones(2))
        return x.cos()

    recorded(outer, torch.ones(2))
    assert found[0] is found[1] is not None

    def fails(x):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        recorded(fails, torch.ones(2))
    assert TracingContext.try_get() is None


def test_draws_under_vmap_are_independent_normals():
    run = trace(draws_normal, tensor(1.0, 0.0, 0.0)).run
    with isolated(seed=0):
        draws = vmap(run, randomness="different")(tensor(1.0, 0.0, 0.0).expand(4_000, 3))
    assert abs(draws.mean()) < 4 / 4_000**0.5
    assert abs(draws.var() - 1) < 4 * (2 / 4_000) ** 0.5
    lagged = (draws[1:] * draws[:-1]).mean()
    assert abs(lagged) < 4 / 4_000**0.5


def test_noise_like_a_tensor_is_drawn_anew_each_time():
    x = torch.zeros(4_000, dtype=torch.float64)
    traced = trace(lambda x: ((x + torch.randn_like(x)) * (x + torch.randn_like(x))).mean(), x)
    with isolated(seed=0):
        found = [float(closed_graph(traced.run).graph(x)) for _ in range(2)]
        batch = vmap(traced.run, randomness="different")(x.expand(50, 4_000))
    for products in (found, batch.tolist()):  # 1, had both been the same noise.
        assert max(map(abs, products)) < 5 / 4_000**0.5
    assert len(batch.unique()) == 50


def test_the_graph_holds_no_draw_of_the_tracing_itself():
    with isolated(seed=3):
        expected = (tensor(1.0, 2.0) * torch.rand(2, dtype=torch.float64)).sum()
    run = trace(lambda x: (x * torch.rand(2, dtype=x.dtype)).sum(), tensor(1.0, 2.0)).run
    with isolated(seed=3):
        assert run(tensor(1.0, 2.0)) == expected


def test_in_place_operations_are_batched():
    def function(x):
        y = torch.zeros_like(x)
        y[1:] = x[:-1]
        y.mul_(2).add_(x)
        return y.sum()

    run = trace(function, tensor(1.0, 2.0, 3.0)).run
    x = noise(5, 3)
    torch.testing.assert_close(vmap(run)(x), torch.stack([function(row) for row in x]))


def by_numpy(x):
    return x.sum() * float(np.random.rand())  # noqa: NPY002 - what a user may write


def by_python(x):
    return x.sum() * random.random()


def without_gradient(x):
    with torch.no_grad():
        scaled = 3 * x
    return scaled.sum() + x.sum()


def all_without_gradient(x):
    with torch.no_grad():
        return x.sum()


def by_item(x):
    return x.sum() * x[0].item()


def by_branch(x):
    return x.sum() if x[0] > 0 else -x.sum()


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        (by_numpy, "NumPy randomness"),
        (by_python, "differs from the eager"),
        (without_gradient, "no_grad"),
        (all_without_gradient, "no_grad"),
        (by_item, "data-dependent control flow"),
        (by_branch, "data-dependent control flow"),
    ],
)
def test_what_a_graph_cannot_hold_falls_back_with_one_warning_naming_the_cause(function, cause):
    with pytest.warns(TracingWarning, match=cause) as caught:
        program = trace(function, tensor(1.0, 2.0))
    assert len(caught) == 1
    assert program.run is None
    assert program.reason in str(caught[0].message)


def test_an_error_of_the_function_is_raised_as_it_is():
    def broken(x):
        raise LookupError("of the author")

    with pytest.raises(LookupError, match="of the author"):
        trace(broken, tensor(1.0))


def test_parameters_become_leaves_and_are_read_anew():
    weight = tensor(2.0, 3.0).requires_grad_()
    program = trace(lambda x: (weight * x).sum() + (weight**2).sum(), tensor(1.0, 1.0))
    assert len(program.leaves) == 1
    assert program.leaves[0] is weight
    assert program.run(tensor(0.0, 1.0), tensor(1.0, 5.0)) == 6.0
    assert bytes_per_call(program) >= 2 * 2 * 8


@pytest.mark.parametrize("traceable", [True, False])
def test_a_gradient_equals_autograd_traced_or_not(traceable):
    weight, unused = tensor(2.0, 3.0).requires_grad_(), tensor(1.0).requires_grad_()

    def function(x):
        scale = x[0].item() if not traceable else x[0]
        return (torch.sin(weight) * x).sum() * scale

    with warnings.catch_warnings():
        warnings.simplefilter("error" if traceable else "ignore")
        gradient = Gradient(function, [unused, weight], tensor(1.0, 4.0))
    value, (nothing, grad) = gradient(tensor(2.0, 5.0))
    expected = function(tensor(2.0, 5.0))
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(expected, weight)[0])
    assert torch.equal(nothing, torch.zeros_like(unused))
    assert (gradient.graph is not None) == traceable


@pytest.mark.compiles
def test_a_compiled_gradient_equals_the_uncompiled():
    weight = tensor(2.0, 3.0).requires_grad_()
    gradient = Gradient(lambda x: (torch.sin(weight) * x).exp().sum(), [weight], tensor(1.0, 4.0))
    value, (grad,) = gradient(tensor(2.0, 0.5))
    gradient.compile()
    compiled, (compiled_slope,) = gradient(tensor(2.0, 0.5))
    torch.testing.assert_close(compiled, value)
    torch.testing.assert_close(compiled_slope, grad)


def test_parameters_of_strangers_are_refused():
    stranger = tensor(1.0).requires_grad_()
    with pytest.raises(ValueError, match="got 1 that belong to neither"):
        Gradient(lambda x: (x * stranger).sum(), [], tensor(1.0))


def test_a_known_fallback_warns_no_second_time():
    gradient = Gradient(lambda x: x.sum(), [], tensor(1.0), fallback="known")
    assert gradient.program == Program(None, (), "known")


def test_isolated_restores_every_random_state_and_the_store_even_after_an_error():
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    with pytest.raises(RuntimeError, match="inside"), isolated(seed=9):
        pyro.param("left", ONE.clone())
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
        raise RuntimeError("inside")
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert states[2] == random.getstate()
    assert not list(pyro.get_param_store().keys())


def test_isolated_seeds_torch_numpy_and_python():
    def draw():
        return float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002

    with isolated(seed=4):
        first = draw()
    with isolated(seed=4):
        again = draw()
    with isolated(seed=5):
        other = draw()
    assert first == again
    assert not set(first) & set(other)


# ------------------------------------------------------------------------------------ what the caller holds

NETWORK = nn.Linear(2, 1).double()
nn.init.constant_(NETWORK.weight, 0.1)
nn.init.constant_(NETWORK.bias, 0.0)
INITIAL, SHIFT = tensor(0.5), tensor(0.1)


def with_global_network(x, y):
    network = pyro.module("network", NETWORK)
    scale = pyro.param("scale", INITIAL, constraint=constraints.positive)
    shift = pyro.param("shift", SHIFT)
    z = pyro.sample("z", dist.Normal(ZERO, ONE))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(network(x)[:, 0] + z + shift, scale), obs=y)


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(2, 1).double()

    def model(self, x, y):
        z = pyro.sample("z", dist.Normal(ZERO, ONE))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(self.network(x)[:, 0] + z, 1.0), obs=y)

    def forward(self, x, y):
        self.model(x, y)


def closure():
    network = nn.Linear(2, 1).double()

    def model(x, y):
        z = pyro.sample("z", dist.Normal(ZERO, ONE))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(network(x)[:, 0] + z, 1.0), obs=y)

    return model, network


def held(kind):
    """A model and the tensors of the caller that it uses."""
    if kind == "global":
        return with_global_network, [INITIAL, SHIFT, *NETWORK.parameters()]
    if kind == "closure":
        model, network = closure()
        return model, list(network.parameters())
    holder = Holder()
    return (holder if kind == "module" else holder.model), list(holder.parameters())


@pytest.mark.parametrize("kind", ["global", "closure", "module", "method"])
def test_fitting_changes_nothing_the_caller_holds(kind):
    with isolated(seed=0):
        model, tensors = held(kind)
    before = [value.detach().clone() for value in tensors]
    fit = QUICK(model, DATA, seed=0)
    assert all(torch.equal(value, old) for value, old in zip(tensors, before, strict=True))
    assert all(value.grad is None for value in tensors)
    assert [value.requires_grad for value in tensors] == [isinstance(value, nn.Parameter) for value in tensors]
    fitted = parameters(fit.model)
    assert fitted, "the fitted model holds the parameters it was fitted with"
    assert not any(value is old for value in fitted.values() for old in tensors)
    moved = [
        value
        for value in fitted.values()
        if not any(torch.equal(value, old) for old in before if old.shape == value.shape)
    ]
    assert moved, "nothing was fitted"
    assert not list(pyro.get_param_store().keys())


def test_model_and_guide_share_what_they_shared():
    with isolated(seed=0):
        holder = Holder()

        def guide(x, y):
            pyro.sample("z", dist.Normal(holder.network(x).mean(), 1.0))

        model, copied, leaves = owned_copies(holder, guide, AutoNormal, DATA)
    assert {name.split(".")[0] for name in leaves} == {"model"}  # Each parameter once.
    assert parameters(copied).keys() == {"model.networks.0.network.weight", "model.networks.0.network.bias"}
    assert set(map(id, parameters(copied).values())) == set(map(id, parameters(model).values()))


def test_data_of_whole_numbers_leave_a_model_in_its_own_precision():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = nn.Linear(1, 1).double()

        def forward(self, y):
            with pyro.plate("rows", len(y)):
                pyro.sample("y", dist.Poisson(self.network(y.double()[:, None])[:, 0].exp()), obs=y)

    counts = Dataset((torch.tensor([1, 2, 3]),), size=3)
    with isolated(seed=0):
        holder = Counts()
        _, _, leaves = owned_copies(holder, None, AutoNormal, counts)
        assert copied_to_data(holder, counts) is holder
    assert {leaf.dtype for name, leaf in leaves.items() if name.startswith("model")} == {torch.float64}


def test_a_parameter_of_a_function_keeps_its_value_and_constraint():
    with isolated(seed=0):
        model, _, leaves = owned_copies(with_global_network, None, AutoNormal, DATA)
        run = pyro.poutine.trace(model).get_trace(*DATA.args)
    assert run.nodes["scale"]["value"].detach() == 0.5
    assert len({id(leaf) for leaf in leaves.values()}) == len(leaves)
    assert not list(pyro.get_param_store().keys())


def test_the_same_seed_gives_the_same_fit_bit_for_bit_and_another_does_not():
    first, again, other = (QUICK(with_global_network, DATA, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.draws["z"], again.draws["z"])
    assert first.info["losses"] == again.info["losses"]
    assert not torch.equal(first.draws["z"], other.draws["z"])


def fixed_start(x, y):
    loc = pyro.param("loc", SHIFT)
    pyro.sample("z", dist.Normal(loc, ONE))


def test_the_noise_of_the_steps_and_of_the_draws_follows_the_seed():
    first, other = (replace(QUICK, guide=fixed_start)(with_global_network, DATA, seed=seed) for seed in (3, 4))
    assert first.info["losses"][0] != other.info["losses"][0]
    a, again, b = (guide_draws_of(first.model, first.guide, DATA, 5, seed)["z"] for seed in (0, 0, 1))
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    assert len(a.unique()) == 5


def test_a_model_that_cannot_be_traced_is_fitted_eagerly_with_one_warning():
    def branches(x, y):
        z = pyro.sample("z", dist.Normal(ZERO, ONE))
        scale = 1.0 if z > 0 else 2.0
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(z, scale), obs=y)

    with pytest.warns(TracingWarning, match="data-dependent control flow") as caught:
        fit = QUICK(branches, DATA, seed=0)
    assert len(caught) == 1
    assert "data-dependent" in fit.info["fallback"]
    assert len(fit.info["losses"]) == 30


def test_a_float64_fit_is_float64_all_the_way():
    fit = QUICK(with_global_network, DATA, seed=0)
    assert {draw.dtype for draw in fit.draws.values()} == {torch.float64}
    assert {value.dtype for value in [*parameters(fit.model).values(), *parameters(fit.guide).values()]} == {
        torch.float64
    }


def test_a_gradient_of_nothing_but_rounding_is_traced():
    """A stationary kernel does not see its inputs' shift, and each way to add up leaves another remainder."""
    x = torch.linspace(-3.0, 3.0, 300)
    shift = torch.tensor(7.3, requires_grad=True)
    orders = iter([torch.arange(300), torch.arange(300).flip(0)] * 10)

    def stationary(x):
        points = (100.0 * x[next(orders)] + shift)[:, None]
        return (points - points.T).square().sum()

    with warnings.catch_warnings():
        warnings.simplefilter("error", TracingWarning)
        assert trace(stationary, x).run is not None


def test_a_frozen_draw_is_noticed_where_arithmetic_is_ill_conditioned():
    def frozen(x):
        return ((1e6 * x).sin() * np.random.randn()).sum()  # noqa: NPY002

    with pytest.warns(TracingWarning, match="differs"):
        assert trace(frozen, torch.linspace(0.1, 1.0, 5)).run is None
