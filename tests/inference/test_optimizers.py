"""SVI obeys the optimizer it is given or says why it cannot; how the steps ran, and why, is told."""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.pyro_models import noise
from pyro.infer.autoguide import AutoDelta
from torch.optim.lr_scheduler import ExponentialLR

from probmodel.inference import SVI, svi
from probmodel.inference.descent import descent
from probmodel.inference.descent.minibatches import Batches, minibatches
from probmodel.inference.descent.optimizers import optimizer_of
from probmodel.protocols.dataset import Dataset
from probmodel.tracing.programs.gradients import Gradient
from probmodel.tracing.randomness import isolated

ROWS = 12
SOME = torch.zeros(2, requires_grad=True)


def regression(x, y=None):
    w = pyro.sample("w", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def data():
    x = noise(ROWS, 3)
    return Dataset((x,), {"y": x @ noise(3)}, ROWS)


def fit(model=regression, **settings):
    given = {"num_steps": 5, "num_samples": 1, "patience": None, "progress": False, "compile": False, **settings}
    return SVI(**given)(model, data(), seed=0)


ADAM = partial(torch.optim.Adam, lr=0.1)


def scheduled(leaves, *, make=ADAM, rates=None, stepped=True):
    """Half the rate after every step; `rates` notes those that the steps have used."""
    optimizer = make(leaves)
    if rates is not None:
        optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
    schedule = ExponentialLR(optimizer, gamma=0.5)
    if stepped:
        optimizer.register_step_post_hook(lambda *_: schedule.step())
    return optimizer


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD])
def test_a_schedule_stepped_by_a_hook_changes_the_rate_at_every_step(make):
    rates, still = [], []
    made = partial(scheduled, make=partial(make, lr=0.01), rates=rates)
    halved = fit(num_steps=30, autoguide=AutoDelta, optimizer=made)
    np.testing.assert_allclose(rates, 0.01 * 0.5 ** np.arange(30))
    constant = fit(num_steps=30, autoguide=AutoDelta, optimizer=partial(make, lr=0.01))
    for found in (halved, constant):
        still.append(abs(found.info["losses"][-1] - found.info["losses"][-6]))
    assert still[0] < 0.02 * still[1]


@pytest.mark.compiles
def test_a_compiled_gradient_obeys_the_schedule():
    rates = []
    info = fit(num_steps=30, optimizer=partial(scheduled, rates=rates), compile=True).info
    assert info["compiled"]
    np.testing.assert_allclose(rates, 0.1 * 0.5 ** np.arange(30))


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD])
def test_a_schedule_that_nobody_steps_is_refused_with_the_recipe(make):
    ignored = partial(scheduled, make=partial(make, lr=0.01), stepped=False)
    with pytest.raises(ValueError, match=rf"got {make.__name__} with one attached .+; .+register_step_post_hook"):
        fit(optimizer=ignored)


@pytest.mark.parametrize("returned", [lambda one, schedule: (one, schedule), lambda one, schedule: schedule])
def test_an_optimizer_with_its_schedule_is_refused_with_the_recipe(returned):
    def both(leaves):
        optimizer = torch.optim.Adam(leaves)
        return returned(optimizer, ExponentialLR(optimizer, 0.9))

    with pytest.raises(ValueError, match=r"expected one torch optimizer, got a (tuple|ExponentialLR); .+post_hook"):
        fit(optimizer=both)


REFUSED = {
    "others": (lambda leaves: torch.optim.Adam([SOME]), r"got others of shapes \[\(2,\)\]; pass on what it is"),
    "others, too": (lambda leaves: torch.optim.Adam([*leaves, SOME]), r"got others of shapes \[\(2,\)\]"),
    "a part": (lambda leaves: torch.optim.Adam(leaves[:1]), r"all 2 parameters, got one without \['guide.scales"),
    "nothing": (lambda leaves: None, "got NoneType from optimizer"),
    "closure": (torch.optim.LBFGS, r"got LBFGS, whose step needs a closure; take torch\.optim\.Adam"),
    "Pyro's": (pyro.optim.Adam({"lr": 0.02}), r"wrapper of Adam; pass partial\(torch\.optim\.adam\.Adam, lr=0\.02\)"),
    "Pyro's schedule": (
        pyro.optim.ExponentialLR({"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.03}, "gamma": 0.1}),
        r"wrapper of SGD; pass partial\(torch\.optim\.sgd\.SGD, lr=0\.03\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_optimizer_that_cannot_fit_the_model_is_refused(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=rf"expected .+{message}"):
        fit(optimizer=make)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (torch.optim.Adam([SOME], lr=0.02), r"got Adam of parameters chosen before; pass partial\(.+Adam, lr=0\.02\)"),
        ("adam", r"got 'adam'; pass partial"),
        ((torch.optim.Adam, 0.1), r"got \(<class .+; pass partial"),
    ],
)
def test_what_is_no_function_of_parameters_is_refused(made, message):
    """Without the annotations that tests check, too."""
    with pytest.raises(ValueError, match=f"expected a function of parameters .+{message}"):
        optimizer_of.__wrapped__(made, {"w": SOME})


def several_groups(leaves):
    return torch.optim.Adam([{"params": [leaf], "lr": 0.1 / (i + 1)} for i, leaf in enumerate(leaves)])


WHY = {
    "SGD": partial(torch.optim.SGD, lr=1e-3),
    "Adamax": torch.optim.Adamax,
    "a hook on the optimizer": scheduled,
    "several parameter groups": several_groups,
    "amsgrad, maximize or a tensor as rate": partial(torch.optim.Adam, amsgrad=True),
}


@pytest.mark.parametrize("reason", WHY)
def test_a_fit_says_why_it_went_step_by_step(reason):
    found = fit(optimizer=WHY[reason]).info["execution"]
    assert found == f"uncompiled, step by step ({reason}): as requested"


def test_a_fit_of_many_parameters_says_that_these_are_why(monkeypatch):
    monkeypatch.setattr(descent, "FEW_PARAMETERS", 5)
    assert fit().info["execution"] == "uncompiled, step by step (6 parameters): as requested"


def test_a_fit_in_a_loop_or_of_an_untraced_loss_has_no_such_reason():
    assert fit().info["execution"] == "traced graph, uncompiled: as requested"

    def untraced(x, y=None):
        w = pyro.sample("w", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(x @ w + (float(w[0].detach()) > 1e9), 0.5), obs=y)

    with pytest.warns(UserWarning, match="runs eagerly"):
        info = fit(untraced, compile=True).info
    assert info["execution"] == f"uncompiled, step by step: {info['fallback']}"


# ------------------------------------------------------------------------------------------------ the bar


class Bar:
    """Stands in for tqdm and notes what is shown."""

    shown: list[str]
    total = n = 0

    def __init__(self, **_):
        Bar.shown = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def set_postfix_str(self, text):
        Bar.shown.append(text)

    def update(self, count):
        self.n += count

    def refresh(self):
        return None


@pytest.mark.parametrize("few", [50_000, 0])
def test_the_bar_says_once_that_it_compiles_also_where_that_is_refused(few, monkeypatch):
    monkeypatch.setattr(svi, "progress_bar", lambda name, total, shown: Bar(total=total))
    monkeypatch.setattr(descent, "FEW_PARAMETERS", few)
    tries = []
    monkeypatch.setattr(descent.ByLoop, "compile", lambda way: tries.append(way))
    monkeypatch.setattr(descent.ByStep, "compile", lambda way: tries.append(way))
    info = fit(num_steps=350, compile=True).info
    assert info["execution"].endswith("refused by the compiler")
    assert len(tries) == 1
    assert Bar.shown[:2] == ["compiling", ""]
    assert [text.startswith("loss") for text in Bar.shown[2:]] == [True] * 3


def test_steps_with_a_hook_are_not_run_twice_to_find_a_bad_one():
    """A schedule cannot be stepped back, so that one step is looked at before the next, on every device."""
    x = torch.full((1,), 3.0, requires_grad=True)
    steps, rows = [], Dataset((torch.ones(1),))
    with isolated(seed=0):
        gradient = Gradient(lambda t: (x - t).log().sum(), [x], torch.ones(1))
        optimizer = torch.optim.SGD([x], lr=0.9)
        optimizer.register_step_post_hook(lambda *_: steps.append(1))
        way = descent.descent(gradient, Batches(rows.tensors(), None), minibatches(rows, None), optimizer)
        assert way.checks_every_step
        found = way.advance(50)
    assert found.bad
    assert len(steps) == len(found.losses) < 50
