"""Trees, adaptation and many chains together: the parts against brute force, the whole against known posteriors."""

import io
import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.pyro_models import noise
from tqdm.auto import tqdm

from probmodel.draws import diagnostics as arviz_data
from probmodel.inference import NUTS, ChEES, chees
from probmodel.inference.chains import adaptation, warm_start
from probmodel.inference.chains import nuts_tree as tree
from probmodel.inference.chains.chains import SMALLEST_STEP, Sampled, is_stuck, warn_if_untrusted
from probmodel.inference.chains.recording import Layout, StepWindows, chain_gradient
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import ConvergenceWarning, TracingWarning
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target

DOUBLE = torch.float64


def skewed(y):
    """A gamma posterior: rate | y ~ Gamma(2 + Σ y, 1 + n)."""
    rate = pyro.sample("rate", dist.Gamma(y.new_tensor(2.0), 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


COUNTS = Dataset((torch.tensor([0.0, 1.0, 0.0, 2.0], dtype=DOUBLE),), size=4)
SHAPE, RATE = 5.0, 5.0


def correlated(x):
    """Normal with correlation 0.95 and scales 1 and 10."""
    cov = torch.tensor([[1.0, 9.5], [9.5, 100.0]], dtype=DOUBLE)
    pyro.sample("z", dist.MultivariateNormal(torch.tensor([1.0, -2.0], dtype=DOUBLE), cov))
    pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


SAMPLERS = {
    "NUTS": NUTS(num_samples=400, num_warmup=200, num_chains=8, progress=False),
    "ChEES": ChEES(num_samples=200, num_warmup=200, num_chains=32, progress=False),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_skewed_posterior_has_its_first_two_moments(name):
    rate = SAMPLERS[name](skewed, COUNTS, seed=0).draws["rate"].numpy()
    for power, exact in ((1, SHAPE / RATE), (2, SHAPE * (SHAPE + 1) / RATE**2), (-1, RATE / (SHAPE - 1))):
        error = float(arviz_data.mcse_mean({"x": rate**power})["x"])
        assert abs((rate**power).mean() - exact) < 4 * error
        assert error < 0.1 * exact


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_correlated_posterior_has_its_covariance(name):
    data = Dataset((torch.zeros((), dtype=DOUBLE),))
    z = SAMPLERS[name](correlated, data, seed=1).draws["z"].numpy()
    centered = z - np.array([1.0, -2.0])
    for i, j, exact in ((0, 0, 1.0), (0, 1, 9.5), (1, 1, 100.0)):
        product = centered[..., i] * centered[..., j]
        error = float(arviz_data.mcse_mean({"x": product})["x"])
        assert abs(product.mean() - exact) < 4 * error < 0.6 * exact


def test_subtrees_are_checked_as_brute_force_would():
    """Leaf n closes the subtrees of 2, 4, … leaves that end with it; each must not have turned."""
    count, depth, dim, chains = 32, 5, 3, 60
    drift = torch.linspace(0, 1.5, chains, dtype=DOUBLE)[:, None]  # From where nearly all turn to where nearly none do.
    momenta = noise(count, chains, dim) + drift
    state = _growing(depth, dim, chains)
    decided = dict.fromkeys((2, 4, 8, 16, 32), 0)
    for n in range(count):
        saved_momentum, saved_sum, turned = tree._check_subtrees(state, momenta[n], momenta[: n + 1].sum(0))
        state = state._replace(saved_momentum=saved_momentum, saved_sum=saved_sum, leaf=state.leaf + 1)
        expected = torch.zeros(chains, dtype=torch.bool)
        for size in (size for size in decided if (n + 1) % size == 0):
            first, *inner, last = momenta[n + 1 - size : n + 1]
            span = sum(inner) + 0.5 * (first + last)
            found = ((first * span).sum(-1) <= 0) | ((last * span).sum(-1) <= 0)
            decided[size] += int((found & ~expected).sum())
            expected |= found
        assert torch.equal(turned, expected), n
    assert all(0 < decided[size] < chains * count / size for size in decided), decided


def _growing(depth, dim, chains=1):
    theta = torch.zeros(chains, dim, dtype=DOUBLE)
    with isolated(seed=0):
        return tree.begin(theta, lambda at: (-0.5 * at.square().sum(-1), -at), depth)


def test_a_state_survives_flattening():
    state = _growing(3, 2)
    again = tree.unflatten(tree.flatten(state))
    for a, b in zip(tree.flatten(state), tree.flatten(again), strict=True):
        assert a is b
    assert again.left.theta is state.left.theta
    assert again.part.proposal.grad is state.part.proposal.grad


def test_tensors_survive_packing():
    tensors = (noise(3, 2), torch.tensor([5, 2**20]), torch.tensor([True, False]), noise(1)[0])
    layout = Layout.of(tensors)
    for a, b in zip(tensors, layout.unpack(layout.pack(tensors)), strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype


def test_a_recording_keeps_each_steps_output_in_order():
    def step(state, constants):
        (x,) = state
        return (x + constants[0],), (2 * x,)

    zeros = (torch.zeros(2, dtype=DOUBLE),)
    windows = StepWindows(step, zeros, zeros, (torch.ones((), dtype=DOUBLE),), None)
    (state,), (rows,) = windows(zeros)
    assert torch.equal(rows[:, 0], 2 * torch.arange(windows.window, dtype=DOUBLE))
    assert torch.equal(state, torch.full((2,), windows.window, dtype=DOUBLE))


def test_the_schedule_of_a_thousand_draws_is_stans():
    plan = adaptation.schedule(1_000, torch.device("cpu"))
    assert (plan.ends.nonzero().flatten() + 1).tolist() == [100, 150, 250, 450, 950]
    assert plan.estimates.nonzero().flatten().tolist() == list(range(75, 950))


@pytest.mark.parametrize("length", [1, 2, 10, 50, 149, 150, 151, 400])
def test_any_schedule_ends_its_last_window_before_the_last_buffer(length):
    plan = adaptation.schedule(length, torch.device("cpu"))
    assert len(plan.ends) == length
    if plan.ends.any():
        assert plan.ends.nonzero().max() == plan.estimates.nonzero().max()


def test_a_window_ends_with_the_shrunk_variance_of_its_draws():
    plan = adaptation.schedule(150, torch.device("cpu"))
    state = adaptation.initial_adaptation(torch.ones(2, dtype=DOUBLE), 3)
    theta = noise(150, 6).reshape(150, 2, 3)
    for number in range(150):
        state = adaptation.adapt(
            state, theta[number], torch.tensor([0.8, 0.8], dtype=DOUBLE), torch.full((2,), number), plan, 0.8
        )
    window = theta[75:100]
    shrunk = (25 * window.var(0) + 5 * 1e-3) / 30
    torch.testing.assert_close(state.scale, shrunk.sqrt(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("accepted", [0.5, 0.95])
def test_the_step_shrinks_under_too_few_acceptances_and_grows_under_too_many(accepted):
    plan = adaptation.schedule(60, torch.device("cpu"))
    state = adaptation.initial_adaptation(torch.ones(1, dtype=DOUBLE), 1)
    steps = []
    for number in range(20):
        state = adaptation.adapt(
            state,
            torch.zeros(1, 1, dtype=DOUBLE),
            torch.tensor([accepted], dtype=DOUBLE),
            torch.tensor([number]),
            plan,
            0.8,
        )
        steps.append(float(state.log_step))
    assert (steps[-1] > steps[0]) == (accepted > 0.8)


def test_acceptance_comes_near_its_target():
    fit = NUTS(num_samples=200, num_warmup=400, num_chains=8, target_accept=0.8, progress=False)(skewed, COUNTS, seed=2)
    assert 0.7 < np.mean(fit.info["acceptance"]) < 0.95


def test_halton_numbers_are_van_der_corputs():
    found = [float(chees._halton(torch.tensor(n), torch.tensor(1.0, dtype=DOUBLE))) for n in range(7)]
    assert found == [0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875]


def test_the_slope_of_the_criterion_is_its_derivative():
    """Exact Hamiltonian flow of a standard normal: x' = x cos t + p sin t, so a difference in t can be taken."""
    count, length, jitter = 200_000, 0.7, 0.6
    with isolated(seed=0):
        x, p = torch.randn(2, count, 3, dtype=DOUBLE)

    def at(t):
        return x * math.cos(t) + p * math.sin(t), p * math.cos(t) - x * math.sin(t)

    def criterion(t):
        end, _ = at(t)
        return 0.25 * ((end - end.mean(0)).square().sum(-1) - (x - x.mean(0)).square().sum(-1)).square().mean()

    theta, momentum = at(length)
    one = torch.ones(count, dtype=DOUBLE)
    moved = chees.Trajectory(theta, momentum, one, x, torch.zeros(count, dtype=DOUBLE))
    log_length = torch.tensor(math.log(length), dtype=DOUBLE)
    zero = torch.zeros((), dtype=DOUBLE)
    state = chees.ChEESState(
        x, one, x, torch.tensor(1), zero, zero, zero, zero, log_length, zero, zero, torch.ones(3, dtype=DOUBLE)
    )
    found = chees._criterion_gradient(state, moved, torch.tensor(jitter, dtype=DOUBLE))
    expected = (criterion(length + 1e-4) - criterion(length - 1e-4)) / 2e-4 * jitter * length
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def two_hills(theta):
    """Equal normals of width 0.1 at −3 and 3, by coordinates."""
    parts = torch.stack([-0.5 * ((theta - m) / 0.1).square().sum(-1) for m in (-3.0, 3.0)])
    weights = parts.softmax(0)
    grads = torch.stack([-(theta - m) / 0.01 for m in (-3.0, 3.0)])
    return parts.logsumexp(0), (weights[..., None] * grads).sum(0)


def ascended(start, gradient):
    ascent = warm_start.initial_state(start.clone())
    for _ in range(warm_start.WARM_START_STEPS):
        ascent = warm_start.ascent_step(ascent, gradient)
    return ascent


def test_climbing_finds_the_hill_of_each_chain_and_the_width_there():
    with isolated(seed=0):
        start = 6 * torch.rand(40, 1, dtype=DOUBLE).expand(-1, 2) * torch.tensor([1.0, 1.0], dtype=DOUBLE) - 3
        ascent = ascended(start, two_hills)
        theta, variance = warm_start.sample_approximation(ascent, two_hills)
    mean = ascent.best[:, :2]
    hill = mean.sign()
    assert {-1.0, 1.0} == set(hill.flatten().tolist())
    torch.testing.assert_close(mean, 3 * hill, rtol=0, atol=0.01)
    torch.testing.assert_close(variance, torch.full((2,), 0.01, dtype=DOUBLE), rtol=0.01, atol=0)
    assert 0.05 < float((theta - mean).std()) < 0.2


def unbounded(theta):
    """x ~ N(0, e^v)⁸ with e^v half-Cauchy: infinite at x = 0, v → −∞, where there is hardly any mass."""
    v, x = theta[:, 0], theta[:, 1:]
    square = (x * (-v).exp()[:, None]).square().sum(-1)
    grad = torch.cat([(-v.tanh() - 8 + square)[:, None], -x * (-2 * v).exp()[:, None]], -1)
    return -v.cosh().log() - 8 * v - 0.5 * square, grad


def test_climbing_keeps_out_of_a_singularity_of_the_density():
    with isolated(seed=0):
        start = torch.randn(64, 9, dtype=DOUBLE)
        ascent = ascended(start, unbounded)
        theta, variance = warm_start.sample_approximation(ascent, unbounded)
    # v has the density of log |Cauchy|: standard deviation π / 2, 1 in 10⁴ draws beyond ±9.
    assert float(theta[:, 0].abs().max()) < 9
    assert bool(((variance > 0.01) & (variance < 100)).all())


CHAINS = 64


def adapted(stuck, num_warmup=600):
    """Step sizes of a warm-up in which the first chains never accept, and the others reject with min(step, 1)² / 3."""
    settings = ChEES(num_warmup=num_warmup)
    theta, nothing = noise(CHAINS, 1), torch.zeros(CHAINS, dtype=DOUBLE)

    def flat(at):
        return nothing, torch.zeros_like(at)

    state = chees._first(theta, torch.ones(1, dtype=DOUBLE), nothing[0], flat)
    for _ in range(num_warmup):
        gain = torch.log1p(-state.log_step.exp().clamp(max=1).square() / 3).expand(CHAINS).clone()
        gain[:stuck] = -math.inf
        moved = chees.Trajectory(theta, torch.zeros_like(theta), nothing, theta, gain)
        after = state._replace(draw=state.draw + 1)
        state = chees._adapted(settings, state, after, moved, torch.tensor(0.5, dtype=DOUBLE))
    return float(state.log_step.exp())


def test_few_stuck_chains_shorten_the_step_but_not_without_end():
    free, held = adapted(0), adapted(3)
    assert free > 0.9
    assert 0.005 < held < 0.1 * free


SIGMA = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18], dtype=DOUBLE)
EFFECT = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12], dtype=DOUBLE)


def eight_schools(sigma, y):
    """Centered: its density is infinite where all effects are mu and tau is 0."""
    mu = pyro.sample("mu", dist.Normal(sigma.new_tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(sigma.new_tensor(5.0)))
    with pyro.plate("schools", len(sigma)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def exact_mean_of_mu():
    """With theta and mu integrated out, by quadrature over log tau."""
    log_tau = torch.linspace(-12, 8, 4_001, dtype=DOUBLE)
    tau = log_tau.exp()
    variance = tau.square()[:, None] + SIGMA.square()
    precision = (1 / variance).sum(-1) + 1 / 25
    mean = (EFFECT / variance).sum(-1) / precision
    log_weight = (
        log_tau
        - torch.log1p((tau / 5).square())
        - 0.5 * variance.log().sum(-1)
        - 0.5 * precision.log()
        - 0.5 * ((EFFECT.square() / variance).sum(-1) - precision * mean.square())
    )
    return float((log_weight.softmax(0) * mean).sum())


GROUPS = 50


def scarce(groups, y):
    """Centered, with two rows a group whose effects are much smaller than the noise."""
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 10.0))
    tau = pyro.sample("tau", dist.HalfNormal(y.new_tensor(1.0)))
    sigma = pyro.sample("sigma", dist.HalfNormal(y.new_tensor(1.0)))
    with pyro.plate("groups", len(groups)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(theta.repeat_interleave(2), sigma), obs=y)


def scarce_rows():
    return 1 + 0.1 * noise(GROUPS).repeat_interleave(2) + noise(2 * GROUPS + 1)[1:]


@pytest.mark.parametrize(
    ("model", "data", "exact"),
    [
        (eight_schools, Dataset((SIGMA, EFFECT)), exact_mean_of_mu()),
        # The design is balanced and the prior of mu wide.
        (scarce, Dataset((torch.zeros(GROUPS), scarce_rows())), float(scarce_rows().mean())),
    ],
    ids=["eight schools", "scarce"],
)
def test_chains_of_a_centered_hierarchy_move(model, data, exact):
    settings = ChEES(60, 60, num_chains=32, max_leapfrogs=50, compile=False, progress=False)
    fit = settings(model, data, seed=0)
    mu = fit.draws["mu"].numpy()
    assert fit.info["step_size"] > 1e-3
    assert (np.ptp(mu, axis=1) > 0).mean() > 0.9
    assert abs(mu.mean() - exact) < 4 * float(arviz_data.mcse_mean({"x": mu})["x"])


def jagged(x):
    """No step is small enough for it."""
    z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    pyro.factor("jagged", -1e8 * (1e8 * z).sin().sum())


def test_a_step_that_has_collapsed_is_named_and_takes_no_time():
    settings = ChEES(num_samples=20, num_warmup=60, num_chains=16, compile=False, progress=False)
    with pytest.warns(ConvergenceWarning, match="16 of 16 chains stuck; .*LocScaleReparam.* pb.NUTS") as caught:
        fit = settings(jagged, Dataset((torch.zeros((), dtype=DOUBLE),)), seed=0)
    assert not any("more chains" in str(each.message) for each in caught)
    assert fit.info["step_size"] < SMALLEST_STEP
    assert set(np.concatenate(fit.info["sample_stats"]["n_steps"])) == {1}


def test_chains_whose_draws_are_all_the_same_are_stuck():
    theta = noise(3, 40).reshape(3, 20, 2)
    theta[1] = theta[1, :1]
    found = Sampled(theta, {}, {"step_size": [0.1, 0.1, 0.5 * SMALLEST_STEP]}, False, "", 0.0)
    assert is_stuck(found).tolist() == [False, True, True]
    assert is_stuck(found._replace(adapted={"step_size": 0.1})).tolist() == [False, True, False]


COUNTED = ("num_samples", "num_warmup", "num_chains")


@pytest.mark.parametrize("value", [4.0, 0, -3, "4", None])
@pytest.mark.parametrize(
    ("sampler", "name"),
    [
        *((NUTS, name) for name in (*COUNTED, "max_tree_depth")),
        *((ChEES, name) for name in (*COUNTED, "max_leapfrogs")),
    ],
)
def test_counts_that_are_no_whole_numbers_from_one_are_refused(sampler, name, value):
    settings = sampler(progress=False)
    object.__setattr__(settings, name, value)  # Past the check of annotations, which runs in tests only.
    with pytest.raises(ValueError, match=rf"expected {name} .*1 or more, got {value!r}; "):
        settings(skewed, COUNTS, seed=0)


@pytest.mark.parametrize("sampler", [NUTS, ChEES])
@pytest.mark.parametrize("value", [0.0, 1.0, math.nan])
def test_an_acceptance_that_is_no_probability_is_refused(sampler, value):
    with pytest.raises(ValueError, match=f"expected target_accept between 0 and 1, got {value}; "):
        sampler(target_accept=value, progress=False)(skewed, COUNTS, seed=0)


def test_one_chain_is_too_few_for_an_average_over_chains():
    with pytest.raises(ValueError, match="expected num_chains 2 or more, got 1; "):
        ChEES(num_chains=1, progress=False)(skewed, COUNTS, seed=0)


@pytest.mark.parametrize("divergences", [0, 3])
def test_one_chain_is_said_to_show_no_convergence(divergences):
    with pytest.warns(ConvergenceWarning) as caught:
        warn_if_untrusted("NUTS", {"z": noise(1, 100)}, divergences, 0)
    (message,) = [str(each.message) for each in caught]
    assert "R-hat unknown (it needs two chains or more)" in message
    assert f"{divergences} divergences" in message
    assert ("raise target_accept" in message) == (divergences > 0)
    assert message.endswith("take more chains")


def test_two_chains_that_agree_are_trusted():
    warn_if_untrusted("NUTS", {"z": noise(2, 1_000)}, 0, 0)  # A warning is an error here.


def test_chains_that_disagree_are_not_trusted():
    with pytest.warns(ConvergenceWarning, match="largest R-hat [1-9]"):
        warn_if_untrusted("NUTS", {"z": noise(2, 100) + 5 * torch.eye(2, dtype=DOUBLE)[0][:, None]}, 0, 0)


@pytest.mark.compiles
@pytest.mark.parametrize("sampler", [NUTS, ChEES])
def test_compiled_chains_walk_the_path_of_the_uncompiled(sampler):
    """Until rounding sets them apart."""
    found = [
        sampler(num_samples=5, num_warmup=3, num_chains=4, compile=compile_, progress=False)(skewed, COUNTS, seed=3)
        for compile_ in (False, True)
    ]
    assert [fit.info["compiled"] for fit in found] == [False, True]
    assert found[0].info["execution"] == "traced graph, uncompiled: as requested"
    assert re.fullmatch(r"compiled loop of \d+ steps per call: as requested", found[1].info["execution"])
    torch.testing.assert_close(found[0].draws["rate"], found[1].draws["rate"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sampler", [NUTS, ChEES])
def test_a_model_that_cannot_be_traced_is_said_to_run_eagerly(sampler):
    def untraceable(y):
        rate = pyro.sample("rate", dist.Gamma(y.new_tensor(2.0), 1.0))
        if float(rate.detach()) > 0:
            pyro.sample("y", dist.Poisson(rate).expand([len(y)]).to_event(1), obs=y)

    settings = sampler(num_samples=2, num_warmup=2, num_chains=2, progress=False)
    with pytest.warns(TracingWarning):
        info = settings(untraceable, COUNTS, seed=0).info
    assert info["execution"] == f"uncompiled, step by step: {info['fallback']}"


class Chores:
    """Stand-in for machine code: it compiles where it is asked to, and says whether an earlier process has."""

    compiled = refused = False

    def __init__(self, on_disk, refuses):
        self.on_disk, self.refuses = lambda: on_disk, refuses

    def compile(self):
        self.compiled, self.refused = not self.refuses, self.refuses


@pytest.mark.parametrize(
    ("seconds", "on_disk", "refuses", "reason"),
    [
        (0.0, False, False, "too few steps to time"),
        (1.0, False, False, "compiling would save about 9.5 s and take 20"),
        (1.0, True, False, "an earlier run has compiled it"),
        (100.0, False, False, "it saves about 950 s"),
        (100.0, False, True, "refused by the compiler"),
    ],
)
def test_the_first_window_decides_whether_to_compile(seconds, on_disk, refuses, reason):
    zero = torch.zeros(1, dtype=DOUBLE)
    windows = StepWindows(lambda state, _: (state, state), (zero,), (zero,), (), None)
    windows.native = Chores(on_disk, refuses)
    with io.StringIO() as screen, tqdm(total=1, file=screen) as bar:
        windows.compile_where_it_pays(11 * windows.window, None, bar)
        if seconds:
            windows.steps, windows.seconds = windows.window, seconds
            windows.compile_where_it_pays(10 * windows.window, None, bar)
            tried = windows.native.compiled or windows.native.refused
            windows.steps *= 10
            windows.compile_where_it_pays(windows.window, None, bar)
            assert ("compiling" in screen.getvalue()) == tried
    assert windows.execution.endswith(f": {reason}")
    assert windows.execution.startswith("compiled loop" if windows.compiled else "traced graph, uncompiled")


def test_an_improper_prior_is_started_uniformly():
    def flat(y):
        mu = pyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    y = noise(50)
    mu = ChEES(num_samples=100, num_warmup=100, num_chains=16, progress=False)(
        flat, Dataset((y,), size=50), seed=0
    ).draws["mu"]
    error = float(arviz_data.mcse_mean({"x": mu.numpy()})["x"])
    assert abs(float(mu.mean() - y.mean())) < 4 * error < 0.1


def test_a_scale_that_underflows_is_no_density_and_no_error_where_the_model_runs_eagerly():
    def untraceable(y):
        size = pyro.sample("size", dist.Normal(y.new_zeros(()), 1.0)).exp()
        with pyro.plate("rows", int(y.new_ones(len(y)).sum())):
            pyro.sample("y", dist.Normal(0.0, size), obs=y)

    with pytest.warns(TracingWarning, match="runs eagerly"):
        found = target(untraceable, Dataset((noise(5),), {}, 5))
        theta = torch.tensor([[-1000.0], [0.0]], dtype=torch.float64)
        with pyro.validation_enabled(True):
            value, grad = chain_gradient(found, theta).here(theta)
    assert float(value[0]) == -math.inf
    assert value[1].isfinite()
    assert grad.isfinite().all()
