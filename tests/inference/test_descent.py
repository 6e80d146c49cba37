"""Steps in one loop and step by step walk the same path; bad steps are found; gradients are unbiased."""

from functools import partial
from itertools import islice

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.pyro_models import noise
from pyro.infer.autoguide import AutoDelta, AutoNormal

import probmodel as pb
from probmodel.inference import SVI
from probmodel.inference.descent.descent import ByLoop, ByStep, descent
from probmodel.inference.descent.minibatches import Batches, minibatches
from probmodel.inference.objectives import elbo, iwae
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import CompilingWarning, NonFiniteError, TracingWarning
from probmodel.tracing.ownership import owned_copies
from probmodel.tracing.programs.gradients import Gradient
from probmodel.tracing.programs.program import trace
from probmodel.tracing.randomness import isolated

ROWS = 12


def regression(x, y=None):
    w = pyro.sample("w", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def data(dtype=torch.float64):
    x = noise(ROWS, 3)
    return Dataset((x,), {"y": x @ noise(3) + 0.3 * noise(ROWS, 2)[:, 1]}, ROWS).to(dtype)


def ways(optimizer, *, batch_size=None, dtype=torch.float64, guide=AutoNormal):
    """The loop, and single steps twice, each on parameters of its own that start alike."""
    for kind in (ByLoop, ByStep, ByStep):
        with isolated(seed=0):
            model, fitted_guide, leaves = owned_copies(regression, None, guide, data(dtype))
        rows = data(dtype)
        parts = Batches(rows.tensors(), ROWS)
        with isolated(seed=1):
            order = minibatches(rows, batch_size)

        def loss(*tensors, model=model, guide=fitted_guide, rows=rows):
            values = iter(tensors)
            return elbo(model, guide, rows.map(lambda _: next(values)))

        gradient = Gradient(loss, list(leaves.values()), *parts.at(order.first))
        mode = descent(gradient, parts, order, optimizer(list(leaves.values())))
        if kind is ByStep:
            mode = ByStep(gradient, parts, order, optimizer(list(leaves.values())))
        assert type(mode) is kind
        yield mode


OPTIMIZERS = {
    "Adam": partial(torch.optim.Adam, lr=0.03, betas=(0.8, 0.95), eps=1e-6),
    "Adam with weight decay": partial(torch.optim.Adam, lr=0.03, weight_decay=0.1),
    "AdamW": partial(torch.optim.AdamW, lr=0.03, weight_decay=0.1),
}


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_loop_and_steps_in_place_walk_the_path_of_pytorchs_optimizer(name, batch_size):
    ends = []
    for mode in ways(OPTIMIZERS[name], batch_size=batch_size):
        with isolated(seed=2):
            losses = mode.advance(20).losses
            if len(ends) == 2:
                mode.continue_with(mode.whole)
            losses += [loss for count in (80, 7) for loss in mode.advance(count).losses]
        ends.append((losses, sorted(torch.cat([leaf.detach().flatten() for leaf in mode.leaves]).tolist())))
    for losses, leaves in ends[1:]:
        np.testing.assert_allclose(losses, ends[0][0], rtol=1e-9)
        np.testing.assert_allclose(leaves, ends[0][1], rtol=1e-8, atol=1e-10)


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("dtype", "few"), [(torch.float64, 50_000), (torch.float32, 50_000), (torch.float32, 0)], ids=str
)
def test_compiled_steps_walk_the_path_of_uncompiled_ones_and_keep_the_dtype(dtype, few, monkeypatch):
    monkeypatch.setattr("probmodel.inference.descent.descent.FEW_PARAMETERS", few)
    found = []
    for compile_ in (False, True):
        fit = SVI(num_steps=150, batch_size=5, compile=compile_, patience=None, num_samples=5, progress=False)(
            regression, data(dtype), seed=0
        )
        assert fit.info["compiled"] == compile_
        assert {draw.dtype for draw in fit.draws.values()} == {dtype}
        found.append(fit)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    np.testing.assert_allclose(found[0].info["losses"], found[1].info["losses"], rtol=tolerance)
    torch.testing.assert_close(found[0].draws["w"], found[1].draws["w"], rtol=tolerance, atol=tolerance)


def test_draws_taken_one_by_one_are_those_of_the_same_guide(monkeypatch):
    """Data that are too large for tracing have their draws taken one by one."""
    found = []
    for each_alone in (True, False):
        monkeypatch.setattr(
            "probmodel.inference.guides.draws.evaluates_one_by_one", lambda *_, each_alone=each_alone: each_alone
        )
        settings = SVI(num_steps=20, num_samples=2_000, compile=False, progress=False)
        found.append(settings(regression, data(), seed=0).draws["w"][0])
    a, b = found
    assert a.shape == b.shape == (2_000, 3)
    assert (a[1:] != a[:-1]).all()
    stderr = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() < 4 * stderr).all()
    assert ((a.std(0) / b.std(0)).log().abs() < 4 / len(a) ** 0.5).all()


def test_an_epoch_takes_no_row_twice_and_leaves_the_rest_out():
    with isolated(seed=3):
        epochs = [torch.stack(list(islice(minibatches(data(), 5), 2))).flatten().tolist() for _ in range(20)]
    assert all(len(set(epoch)) == 10 for epoch in epochs)
    assert {row for epoch in epochs for row in epoch} == set(range(ROWS))


def test_a_schedule_on_the_optimizer_is_obeyed():
    """A compiled loop would not see the rate change."""

    def halving(leaves):
        optimizer = torch.optim.Adam(leaves, lr=0.1)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        optimizer.register_step_post_hook(lambda *_: schedule.step())
        return optimizer

    fit = SVI(num_steps=200, optimizer=halving, guide=None, autoguide=AutoDelta, num_samples=1, progress=False)
    posterior = fit(regression, data(), seed=0)
    # The rates sum to 0.2, which is as far as a parameter gets.
    assert posterior.draws["w"].abs().max() < 0.5
    assert "step by step" in posterior.info["execution"]


def bad_after(x, y=None):
    """The gradient of its factor stops being finite once w has passed 0.05."""
    w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
    pyro.factor("root", torch.sqrt(torch.where(w > 0.05, w - w.detach(), 1.0)))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(w, 1.0), obs=y)


@pytest.mark.parametrize(
    ("few", "compiled"),
    [(50_000, False), (0, False), *(pytest.param(few, True, marks=pytest.mark.compiles) for few in (50_000, 0))],
)
def test_the_step_that_is_not_finite_is_named_and_the_parameters_are_those_before_it(few, compiled, monkeypatch):
    monkeypatch.setattr("probmodel.inference.descent.descent.FEW_PARAMETERS", few)
    x = noise(6)
    rows = Dataset((x,), {"y": x + 9}, 6)
    settings = SVI(
        num_steps=400,
        optimizer=partial(torch.optim.Adam, lr=0.01),
        autoguide=partial(AutoDelta, init_loc_fn=_zero),
        compile=compiled,
        progress=False,
    )
    with pytest.raises(NonFiniteError, match=r"at step 6, first at site 'root' of the model"):
        settings(bad_after, rows, seed=0)


def _zero(site):
    return torch.zeros_like(site["fn"].sample()) if site["name"] == "w" else None


def coin(x):
    k = pyro.sample("k", dist.Bernoulli(x.new_tensor(0.3)))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(2 * k, 1.0), obs=x)


def coin_guide(x):
    q = pyro.param("q", x.new_tensor(0.4), constraint=dist.constraints.unit_interval)
    pyro.sample("k", dist.Bernoulli(q))


def test_the_gradient_by_a_discrete_latent_of_the_guide_is_unbiased():
    x = torch.tensor([0.5, 1.0, 0.9], dtype=torch.float64)
    rows = Dataset((x,), size=3)
    with isolated(seed=0):
        model, guide, leaves = owned_copies(coin, coin_guide, AutoNormal, rows)
    (leaf,) = leaves.values()
    with isolated(seed=1):
        found = np.array([float(torch.autograd.grad(elbo(model, guide, rows), leaf)[0]) for _ in range(1_500)])
    logit = leaf.detach().clone().requires_grad_()
    q = torch.sigmoid(logit)
    joint = [
        dist.Bernoulli(torch.tensor(0.3, dtype=x.dtype)).log_prob(torch.tensor(k, dtype=x.dtype))
        + dist.Normal(2 * k, 1.0).log_prob(x).sum()
        for k in (0.0, 1.0)
    ]
    expected = (1 - q) * ((1 - q).log() - joint[0]) + q * (q.log() - joint[1])
    (exact,) = torch.autograd.grad(expected, logit)
    assert abs(found.mean() - float(exact)) < 4 * found.std() / len(found) ** 0.5
    assert abs(found.mean()) > 4 * found.std() / len(found) ** 0.5  # What a missing score term would not be.


def test_a_discrete_latent_of_the_guide_runs_eagerly_and_says_why():
    """PyTorch's divergence of two Bernoullis asks for values."""
    x = torch.tensor([0.5, 1.0, 0.9], dtype=torch.float64)
    rows = Dataset((x,), size=3)
    with isolated(seed=0):
        model, guide, _ = owned_copies(coin, coin_guide, AutoNormal, rows)
    with pytest.warns(TracingWarning, match="runs eagerly"):
        assert trace(lambda x: elbo(model, guide, Dataset((x,), size=3)), x).reason


def test_importance_weighted_bounds_refuse_a_guide_that_cannot_be_reparametrized():
    rows = Dataset((torch.tensor([0.5, 1.0, 0.9]),), size=3)
    with isolated(seed=0):
        model, guide, _ = owned_copies(coin, coin_guide, AutoNormal, rows)
    with isolated(seed=1), pytest.raises(ValueError, match=r"got site\(s\) \['k'\] that cannot be reparametrized"):
        iwae(3)(model, guide, rows)


def test_all_minibatches_together_have_the_gradient_of_all_rows():
    with isolated(seed=0):
        model, guide, leaves = owned_copies(regression, None, AutoDelta, data())

    def grad(rows):
        with isolated(seed=1):
            return torch.autograd.grad(elbo(model, guide, rows), list(leaves.values()))[0]

    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    for size in (1, 3, 4):
        parts = [grad(data().rows(index)) for index in order.split(size)]
        torch.testing.assert_close(torch.stack(parts).mean(0), grad(data()), rtol=1e-12, atol=1e-12)


def test_a_model_whose_prior_draws_by_rejection_or_inversion_is_traced():
    """Finding the sites draws from the prior, by samplers that a graph has in another form."""

    def model(y):
        tau = pyro.sample("tau", dist.HalfCauchy(y.new_tensor(1.0)))
        rate = pyro.sample("rate", dist.Exponential(y.new_tensor(1.0)))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(rate, tau), obs=y)

    fit = SVI(num_steps=5, num_samples=2, progress=False)(model, Dataset((noise(8),), size=8), seed=0)
    assert fit.info["fallback"] is None


def test_minibatches_of_more_rows_than_are_given_take_all():
    rows = Dataset((noise(5),), size=20)
    with isolated(seed=0):
        assert next(minibatches(rows, 10)) is None


def squared_distance(x, target):
    return ((x - target) ** 2).sum()


def test_half_precision_is_left_to_the_numbers_of_pytorchs_adam():
    for dtype, kind in ((torch.float32, ByLoop), (torch.bfloat16, ByStep)):
        x = torch.zeros(3, dtype=dtype, requires_grad=True)
        with isolated(seed=0):
            gradient = Gradient(partial(squared_distance, x), [x], torch.ones(3, dtype=dtype))
            rows = Dataset((torch.ones(3, dtype=dtype),))
            optimizer = torch.optim.Adam([x], lr=0.1)
            mode = descent(gradient, Batches(rows.tensors(), None), minibatches(rows, None), optimizer)
            assert type(mode) is kind
            assert getattr(mode, "whole", None) is None
            mode.advance(60)
        assert (x.detach() - 1).abs().max() < 0.2


def test_a_refused_step_leaves_the_gradient_compiled(monkeypatch):
    *_, mode = ways(partial(torch.optim.Adam, lr=0.03))

    def fail():
        raise RuntimeError("no compiler here")

    library = mode.gradient.native
    monkeypatch.setattr(mode.whole.native, "_library", fail)
    monkeypatch.setattr(library, "_library", lambda: lambda *tensors: library.function(*tensors))
    with pytest.warns(CompilingWarning, match="no compiler here"):
        mode.compile()
    assert mode.compiled
    assert mode.running is None


def test_parameters_the_optimizer_does_not_hold_stay():
    def first_only(leaves):
        return torch.optim.Adam(leaves[:1], lr=0.1)

    with isolated(seed=0):
        model, guide, leaves = owned_copies(regression, None, AutoNormal, data())
    parts = Batches(data().tensors(), ROWS)

    def loss(*tensors):
        values = iter(tensors)
        return elbo(model, guide, data().map(lambda _: next(values)))

    gradient = Gradient(loss, list(leaves.values()), *parts.at(None))
    mode = descent(gradient, parts, minibatches(data(), None), first_only(list(leaves.values())))
    before = [leaf.detach().clone() for leaf in leaves.values()]
    with isolated(seed=1):
        mode.advance(3)
    moved = [not torch.equal(a, b) for a, b in zip(before, leaves.values(), strict=True)]
    assert moved == [True] + [False] * (len(moved) - 1)


def mixture(y):
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(2), 3.0).to_event(1))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(y.new_tensor([0.5, 0.5])))
        pyro.sample("y", dist.Normal(mu[z], 0.5), obs=y)


def mixture_guide(y):
    loc = pyro.param("loc", y.new_tensor([-1.0, 1.0]))
    pyro.sample("mu", dist.Normal(loc, 0.1).to_event(1))
    logits = pyro.param("logits", y.new_zeros(20, 2))
    with pyro.plate("rows", len(y)):
        pyro.sample("z", dist.Categorical(logits=logits[: len(y)]))


def test_rows_answer_for_their_own_discrete_draws_only():
    """A gradient that blamed each row for all rows would have a thousand times the variance and find nothing."""
    y = torch.cat([noise(10) * 0.5 - 2, noise(10) * 0.5 + 2])
    settings = SVI(
        num_steps=600, guide=mixture_guide, optimizer=partial(torch.optim.Adam, lr=0.03), patience=None, progress=False
    )
    mu = settings(mixture, Dataset((y,), size=20), seed=0).draws["mu"].mean((0, 1))
    torch.testing.assert_close(mu, y.reshape(2, 10).mean(1), rtol=0, atol=0.25)


def test_a_fit_does_not_depend_on_the_number_of_threads():
    """Threads add partial sums of float32 convolutions in another order; a long descent multiplies the difference."""
    with isolated(seed=0):
        images = torch.randn(256, 1, 8, 8)
        model = pb.Pipeline(pb.CNN(1, 16, channels=(8, 16), grid=2), pb.DNN(16, 16, hidden=()), pb.Classify(16, 10))
        rows = Dataset((images,), {"y": torch.randint(0, 10, (256,))}, 256)
    before, fits = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            fits.append(SVI(60, batch_size=128, num_samples=2, compile=False, progress=False)(model, rows, seed=0))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert fits[0].info["losses"] == fits[1].info["losses"]
    for a, b in zip(fits[0].model.parameters(), fits[1].model.parameters(), strict=True):
        assert torch.equal(a, b)
