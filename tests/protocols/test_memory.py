"""Vectorized calls keep to a budget of bytes, and what cannot fit is refused before it is allocated."""

import importlib

import pyro
import pyro.distributions as dist
import pytest
import torch
from problems import exact_answers as problems
from torch.fx.experimental.proxy_tensor import make_fx

from probmodel.evidence.iwae import iwae
from probmodel.inference.guides.draws import guide_draws
from probmodel.prediction.predictive import predict
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.memory import budget, free_bytes, memory_budget, refuse_above_memory
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.density import LARGE_CALL, Density
from probmodel.tracing.programs.program import bytes_per_call
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import sites
from probmodel.tracing.target import target

CPU = torch.device("cpu")
MODULE = importlib.import_module("probmodel.tracing.density")


def guide_draws_of(model, guide, data, num_samples, seed):
    with isolated(seed=0):
        latents = sites(model, data).latents
    return guide_draws(guide, data, latents, num_samples, seed)


def test_the_default_budget_is_a_quarter_of_the_free_memory():
    assert 0.8 < budget(CPU) / (free_bytes(CPU) / 4) < 1.25  # Other processes come and go in between.


def test_a_stated_budget_ends_with_its_block_also_after_an_error():
    before = budget(CPU)
    with pytest.raises(KeyError), memory_budget(10):
        assert budget(CPU) == 10
        raise KeyError
    assert budget(CPU) > 0.5 * before


@pytest.mark.parametrize("num_bytes", [0, -5])
def test_a_budget_below_one_byte_is_refused(num_bytes):
    with (
        pytest.raises(ValueError, match=r"num_bytes to be an integer, 1 or more, got .+; pass num_bytes=1"),
        memory_budget(num_bytes),
    ):
        pass


def test_an_allocation_that_does_not_fit_is_refused_with_its_size_and_a_remedy():
    with pytest.raises(MemoryError, match=r"got a table, which needs 9,000,000,000,000,000; do less"):
        refuse_above_memory(9 * 10**15, CPU, "a table", "do less")
    refuse_above_memory(1, CPU, "a number", "do less")


def test_pointwise_likelihoods_beyond_the_budget_are_refused_before_they_are_computed():
    problem = problems.diabetes_regression()
    density = target(problem.model, problem.data)
    theta = density.sample_prior(100, 0)
    rows = len(problem.data.tensors()[0])
    with memory_budget(100 * rows * 8 - 1), pytest.raises(MemoryError, match="thin them"):
        density.log_likelihood_by_row(theta)
    with memory_budget(100 * rows * 8):
        found = density.log_likelihood_by_row(theta)
    torch.testing.assert_close(found, density.log_likelihood_by_row(theta), rtol=1e-13, atol=1e-13)


def test_a_call_of_one_chunk_needs_no_more_than_its_estimate():
    """The estimate counts every intermediate tensor as if none were freed: an upper limit."""
    problem = problems.diabetes_regression()
    density = target(problem.model, problem.data)
    theta = density.sample_prior(512, 0)
    density.log_joint(theta[:1])
    with torch.profiler.profile(profile_memory=True) as profile:
        density.log_joint(theta)
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 0 < peak <= len(theta) * bytes_per_call(density.log_joint.program)


# ------------------------------------------------------------------------------------------ seeded numbers

LOC, ONE = torch.linspace(-1.0, 1.0, 6), torch.tensor(1.0)
ROWS = Dataset((torch.linspace(-2.0, 2.0, 6),), {}, 6)


def by_row(x):
    """A latent of each row beside one that all rows share."""
    shared = pyro.sample("shared", dist.Normal(ONE, ONE))
    with pyro.plate("rows", 6):
        z = pyro.sample("z", dist.Normal(shared, ONE))
        pyro.sample("y", dist.Normal(z, ONE), obs=x)


def its_guide(x):
    """One draw depends on another, by arithmetic alone."""
    shared = pyro.sample("shared", dist.Normal(0.3 * ONE, ONE))
    with pyro.plate("rows", 6):
        pyro.sample("z", dist.Normal(LOC + 0.5 * shared, ONE))


def gamma_guide(x):
    """One draw is the parameter of another one's sampler: no noise can be drawn ahead."""
    shared = pyro.sample("shared", dist.Gamma(2 * ONE, ONE))
    with pyro.plate("rows", 6):
        pyro.sample("z", dist.Gamma(shared.expand(6), ONE))


def fit(guide=its_guide):
    draws = guide_draws_of(by_row, guide, ROWS, 50, 0)
    return Posterior(by_row, ROWS, draws, {"method": "by hand"}, guide)


@pytest.mark.parametrize("guide", [its_guide, gamma_guide])
@pytest.mark.parametrize("num_samples", [1, 7, 301])
def test_draws_of_a_guide_are_the_same_for_every_budget(guide, num_samples):
    whole = guide_draws_of(by_row, guide, ROWS, num_samples, 1)
    assert len(whole["z"].unique()) == 6 * num_samples
    for num_bytes in (28 * num_samples, 28 * num_samples + 1_000):  # The result and no more; a few draws at a time.
        with memory_budget(num_bytes):
            split = guide_draws_of(by_row, guide, ROWS, num_samples, 1)
        for name, values in whole.items():
            torch.testing.assert_close(split[name], values, rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore::probmodel.protocols.errors.EvidenceWarning")
@pytest.mark.parametrize("guide", [its_guide, gamma_guide])
def test_the_iwae_is_the_same_for_every_budget(guide):
    posterior = fit(guide)
    whole = iwae(posterior, seed=3, num_samples=301)
    assert iwae(posterior, seed=4, num_samples=301).log_z != whole.log_z
    for num_bytes in (4 * 301, 5_000):
        with memory_budget(num_bytes):
            split = iwae(posterior, seed=3, num_samples=301)
        assert abs(split.log_z - whole.log_z) < 1e-5
        assert abs(split.stderr - whole.stderr) < 1e-5


def test_a_prediction_is_the_same_for_every_budget():
    posterior = fit()
    new = torch.zeros(6)
    whole = predict(posterior, new, num_samples=50, seed=5).by_draw.mean
    assert len(whole.unique()) == whole.numel()
    with memory_budget(50 * 12 * 4):
        split = predict(posterior, new, num_samples=50, seed=5).by_draw.mean
    torch.testing.assert_close(split, whole, rtol=1e-6, atol=1e-7)


def test_prior_draws_are_the_same_for_every_budget():
    density = target(by_row, ROWS)
    whole = density.sample_prior(200, 0)
    with memory_budget(200 * 28):
        torch.testing.assert_close(density.sample_prior(200, 0), whole, rtol=1e-6, atol=1e-7)


def test_draws_beyond_one_block_are_the_same_for_every_budget_and_all_differ(monkeypatch):
    whole = fit()
    monkeypatch.setattr(MODULE, "CPU_CALL_BYTES", 2_000)
    blocks = fit()
    with memory_budget(50 * 28):
        split = fit()
    assert len(blocks.draws["z"].unique()) == 300
    assert not torch.equal(blocks.draws["z"], whole.draws["z"])
    torch.testing.assert_close(split.draws["z"], blocks.draws["z"], rtol=1e-6, atol=1e-7)


def test_a_small_budget_shrinks_what_is_made_of_the_noise():
    """The peak of 400 draws at once is far above what one chunk of them may need."""
    wide = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))

    def made(_):
        return (wide @ torch.randn(64)).exp().mean()

    density, nothing = Density(made, torch.zeros(())), torch.zeros(400)
    peaks = []
    for num_bytes in (2**26, 2**13):
        with isolated(0), torch.no_grad(), memory_budget(num_bytes):
            density(nothing)
            with torch.profiler.profile(profile_memory=True) as profile:
                density(nothing)
        held = peak = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
        peaks.append(peak)
    noise = 400 * 64 * 4
    assert peaks[0] > 1.9 * noise
    assert peaks[1] < 1.3 * noise


def test_a_recorded_graph_holds_one_call_where_the_budget_allows_it(monkeypatch):
    """Chunks of a CPU's size would be unrolled, one copy of the density each."""
    monkeypatch.setattr(MODULE, "CPU_CALL_BYTES", 1)
    density = Density(lambda theta: theta.sin().sum(), torch.zeros(3))
    theta = torch.zeros(20, 3)
    density(theta)

    def sines(num_bytes):
        with memory_budget(num_bytes):
            graph = make_fx(density)(theta).graph
        return sum(node.target is torch.ops.aten.sin.default for node in graph.nodes)

    assert sines(2**20) == 1
    assert sines(20 * 4) > 1  # A stated budget holds.


# ------------------------------------------------------------------------------------------ one by one


@pytest.mark.parametrize("rows_have_latents", [False, True])
def test_a_guide_of_much_data_is_run_draw_by_draw_only_where_rows_have_latents(rows_have_latents):
    rows = LARGE_CALL // 4 + 1
    data, calls = Dataset((torch.zeros(rows),), {}, rows), []

    def model(x):
        z = None if rows_have_latents else pyro.sample("z", dist.Normal(0.0 * ONE, ONE))
        with pyro.plate("rows", rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(rows), ONE)) if z is None else z
            pyro.sample("y", dist.Normal(z, ONE), obs=x)

    def guide(x):
        calls.append(None)
        if not rows_have_latents:
            return pyro.sample("z", dist.Normal(0.0 * ONE, ONE))
        with pyro.plate("rows", rows):
            return pyro.sample("z", dist.Normal(0.0 * x, ONE))

    draws = guide_draws_of(model, guide, data, 30, 0)["z"]
    assert len(draws.reshape(30, -1)[:, 0].unique()) == 30
    assert (len(calls) == 30) if rows_have_latents else (len(calls) < 10)
