"""The sites of a model are listed as they are, and each draw of a guide is weighed as it should."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.pyro_models import CASES, ONE, ZERO, eight_schools, mixture, noise, row_codes, tensor
from pyro import poutine

from probmodel.protocols.dataset import Dataset
from probmodel.tracing.guided_runs import first_bad_site, guided_runs, log_weights
from probmodel.tracing.minibatch_scale import row_scaled
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import sites


def found(name):
    with isolated(seed=0):
        return sites(*CASES[name])


@pytest.mark.parametrize(
    ("name", "latents", "discrete", "observed"),
    [
        ("eight_schools", {"mu": None, "tau": None, "theta": -1}, (), ("y",)),
        ("nested_plates", {"scale": None, "level": -2, "effect": -2}, (), ("y",)),
        ("mixture", {"weights": None, "loc": None}, ("k",), ("y",)),
        ("latent_under_discrete", {"z": -1}, ("k",), ("y",)),
        ("subsampled", {"w": None}, (), ("y",)),
        ("factor_only", {"x": None}, (), ("banana",)),
        ("row_codes", {"z": -2, "s": -1}, (), ("y",)),
    ],
)
def test_sites_and_their_rows_are_listed(name, latents, discrete, observed):
    listed = found(name)
    assert {latent.name: latent.row_dim for latent in listed.latents} == latents
    assert listed.discrete == discrete
    assert listed.observed == observed
    assert listed.row_local == (name in ("latent_under_discrete", "row_codes"))


def test_the_digest_follows_the_observations_alone():
    model, data = CASES["eight_schools"]
    with isolated(seed=0):
        first = sites(model, data).digest
        same = sites(model, data.to(torch.float64)._replace(args=(data.args[0] + 1,))).digest
        other = sites(model, data._replace(kwargs={"y": data.kwargs["y"] + 1})).digest
    assert first == same
    assert first != other


def test_a_model_without_observations_is_fingerprinted_by_its_arguments():
    def model(x):
        pyro.sample("z", dist.Normal(x.sum(), 1.0))

    with isolated(seed=0):
        assert sites(model, Dataset((ONE,))).digest != sites(model, Dataset((ZERO,))).digest


def nested_square(y):
    """Model with as many columns as rows: the first axis of the data is the rows'."""
    with pyro.plate("columns", y.shape[1], dim=-1):
        shift = pyro.sample("shift", dist.Normal(ZERO, ONE))
        with pyro.plate("rows", y.shape[0], dim=-2):
            pyro.sample("y", dist.Normal(shift, 1.0), obs=y)


def test_square_data_keep_their_rows_apart_from_their_columns():
    with isolated(seed=0):
        listed = sites(nested_square, Dataset((noise(4, 4),), {}, 4))
    assert listed.other_plates == {"columns"}
    assert [latent.row_dim for latent in listed.latents] == [None]


def test_a_model_written_for_one_number_of_rows_keeps_the_plate_around_its_observations():
    offsets = noise(3)

    def model(y):
        with pyro.plate("features", 3):
            w = pyro.sample("w", dist.Normal(ZERO, ONE))
        with pyro.plate("rows", 3):
            pyro.sample("y", dist.Normal(offsets + w.sum(), 1.0), obs=y)

    with isolated(seed=0):
        listed = sites(model, Dataset((noise(3, seed=1),), {}, 3))
    assert listed.other_plates == {"features"}


def test_rows_alone_are_scaled():
    model, data = CASES["mixture"]
    batch = data.rows(torch.tensor([0, 1, 2]))
    with isolated(seed=0):
        run = poutine.trace(row_scaled(model, sites(model, batch), batch)).get_trace(*batch.args)
    # Three components and three rows of the batch: only the rows are rows.
    assert {name: node["scale"] for name, node in run.nodes.items() if name in ("weights", "loc", "k", "y")} == {
        "weights": 1.0,
        "loc": 1.0,
        "k": 2.0,
        "y": 2.0,
    }


def schools_guide(sigma, y):
    pyro.sample("mu", dist.Normal(2 * ONE, ONE))
    pyro.sample("tau", dist.LogNormal(ONE, 0.5 * ONE))
    with pyro.plate("schools", len(sigma)):
        pyro.sample("theta", dist.Normal(y / 2, 3.0))


def test_a_guided_run_scores_the_guides_draw():
    _, data = CASES["eight_schools"]
    with isolated(seed=0):
        drawn, replayed, joint = guided_runs(eight_schools, schools_guide, data)
        for name in ("mu", "tau", "theta"):
            assert torch.equal(drawn.nodes[name]["value"], replayed.nodes[name]["value"])
        conditioned = poutine.condition(eight_schools, {n: drawn.nodes[n]["value"] for n in ("mu", "tau", "theta")})
        expected = poutine.trace(conditioned).get_trace(*data.args, **data.kwargs).log_prob_sum()
        weight = log_weights(eight_schools, schools_guide, data)
    torch.testing.assert_close(joint, expected, rtol=1e-12, atol=0)
    assert weight.values.shape == (1,)


def codes_guide(y):
    with pyro.plate("rows", len(y)):
        pyro.sample("z", dist.Normal(torch.stack([y, y], -1) / 3, 0.7).to_event(1))
        pyro.sample("s", dist.LogNormal(ZERO, ONE))


def test_weights_of_independent_rows_come_one_a_row():
    _, data = CASES["row_codes"]
    runs = []

    def recorded(y):
        with poutine.trace() as run:
            codes_guide(y)
        runs.append(run.trace)

    with isolated(seed=0):
        by_row = log_weights(row_codes, recorded, data)
    drawn = runs[-1]
    conditioned = poutine.condition(row_codes, {name: drawn.nodes[name]["value"] for name in ("z", "s")})
    replayed = poutine.trace(conditioned).get_trace(*data.args)
    replayed.compute_log_prob()
    drawn.compute_log_prob()
    expected = sum(replayed.nodes[name]["log_prob"] for name in ("z", "s", "y"))
    expected = expected - sum(drawn.nodes[name]["log_prob"] for name in ("z", "s"))
    assert (by_row.values.shape, by_row.scale) == ((5,), 1.0)
    torch.testing.assert_close(by_row.values, expected, rtol=1e-12, atol=1e-12)


def test_weights_of_a_minibatch_are_not_scaled_but_their_sum_is():
    data = CASES["row_codes"].data
    with isolated(seed=0):
        batch = log_weights(row_codes, codes_guide, data.rows(torch.tensor([1, 3])))
    alone = data.rows(torch.tensor([1, 3]))._replace(size=2)
    with isolated(seed=0):
        expected = log_weights(row_codes, codes_guide, alone)
    torch.testing.assert_close(batch.values, expected.values)
    assert (batch.scale, expected.scale) == (2.5, 1.0)


def test_a_latent_without_a_guide_is_named():
    _, data = CASES["eight_schools"]
    with isolated(seed=0), pytest.raises(ValueError, match=r"got none for \['tau', 'theta'\]; add pyro.sample"):
        guided_runs(eight_schools, lambda sigma, y: pyro.sample("mu", dist.Normal(ZERO, ONE)), data)


def test_a_guide_may_draw_the_discrete_latent_or_leave_it_to_be_summed_out():
    _, data = CASES["mixture"]

    def summed(y):
        pyro.sample("weights", dist.Dirichlet(torch.ones(3, dtype=torch.float64)))
        with pyro.plate("components", 3):
            pyro.sample("loc", dist.Normal(ZERO, ONE))

    def drawing(y):
        summed(y)
        with pyro.plate("rows", len(y)):
            pyro.sample("k", dist.Categorical(torch.ones(3, dtype=torch.float64)))

    with isolated(seed=0):
        _, _, exact = guided_runs(mixture, summed, data)
    with isolated(seed=0):
        drawn, replayed, one = guided_runs(mixture, drawing, data)
    assert "k" in drawn.nodes
    torch.testing.assert_close(one, replayed.log_prob_sum())
    assert one < exact  # One assignment is a part of the sum over all.


def test_the_first_bad_site_is_named():
    scale = tensor(0.0).requires_grad_()

    def model(y):
        z = pyro.sample("z", dist.Normal(ZERO, ONE))
        w = pyro.sample("w", dist.Normal(ZERO, ONE))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(z / scale + w, 1.0), obs=y)

    def guide(y):
        pyro.sample("z", dist.Normal(ZERO, ONE))
        pyro.sample("w", dist.Normal(ZERO, ONE))

    with isolated(seed=0):
        said = first_bad_site(model, guide, Dataset((noise(3),), {}, 3), {"scale": scale})
    assert said == "site 'y' of the model: its log-probability is not finite"


def test_a_bad_gradient_of_a_finite_value_is_named():
    root = tensor(0.0).requires_grad_()

    def model(y):
        z = pyro.sample("z", dist.Normal(ZERO, ONE))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(z + root.sqrt(), 1.0), obs=y)

    with isolated(seed=0):
        said = first_bad_site(
            model, lambda y: pyro.sample("z", dist.Normal(ZERO, ONE)), Dataset((noise(3),), {}, 3), {"root": root}
        )
    assert said == "site 'y' of the model: the gradient of its log-probability with respect to 'root' is not finite"


def test_a_discrete_latent_shared_by_a_minibatchs_rows_is_refused():
    def model(y):
        k = pyro.sample("k", dist.Categorical(tensor(0.5, 0.5)))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(tensor(-1.0, 1.0)[k], 1.0), obs=y)

    batch = Dataset((noise(6),), {}, 6).rows(torch.tensor([0, 1]))
    with isolated(seed=0), pytest.raises(ValueError, match="share one scale"):
        guided_runs(model, lambda y: None, batch)
