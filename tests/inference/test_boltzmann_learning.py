"""Learning of Boltzmann machines against sums over all their states."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

import probmodel as pb
from probmodel.families.boltzmann_machines.learning.gradient_ascent import GradientAscent
from probmodel.families.boltzmann_machines.learning.gradients import Average, Offsets, PhaseGradients
from probmodel.families.boltzmann_machines.learning.monitor import Monitor, log_partition
from probmodel.families.boltzmann_machines.learning.phases import Contrastive, Persistent, Tempered, exchanged
from probmodel.families.boltzmann_machines.real_units import GaussianUnits
from probmodel.inference.boltzmann_learning import BoltzmannLearning
from probmodel.layers.representations.boltzmann.deep_boltzmann_machine import DeepBoltzmannMachine
from probmodel.layers.representations.boltzmann.rbm import RBM
from probmodel.protocols.errors import ConvergenceWarning, NonFiniteError

STATES = torch.tensor(list(product([0.0, 1.0], repeat=4)), dtype=torch.float64)
"""All states of four units."""


def machine(visible: int = 4, hidden: int = 3, scale: float = 1.0, seed: int = 0) -> RBM:
    with pb.isolated(seed=seed):
        rbm = RBM(visible, hidden).double()
        with torch.no_grad():
            for parameter in rbm.parameters():
                parameter.copy_(scale * torch.randn_like(parameter))
    return rbm


def deep_machine(hidden: int, top: int, scale: float = 1.0, seed: int = 0) -> DeepBoltzmannMachine:
    with pb.isolated(seed=seed):
        deep = DeepBoltzmannMachine(4, hidden, top).double()
        with torch.no_grad():
            for parameter in deep.parameters():
                parameter.copy_(scale * torch.randn_like(parameter))
    return deep


def data(rows: Tensor) -> pb.Dataset:
    return pb.Dataset((rows,), {}, len(rows))


def probabilities(rbm: RBM, states: Tensor = STATES) -> Tensor:
    return torch.softmax(-rbm.free_energy(states).detach(), 0)


def log_likelihood(rbm: RBM, rows: Tensor, states: Tensor = STATES) -> Tensor:
    return -rbm.free_energy(rows).mean() - torch.logsumexp(-rbm.free_energy(states), 0)


def gradients(rbm: RBM, rows: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """E ∂(−F) over rows with these weights."""
    names, leaves = zip(*rbm.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad((-rbm.free_energy(rows) * weights).sum(), leaves), strict=True))


def kernel(rbm: RBM) -> Tensor:
    """Probability of each state after one block Gibbs step from each, summed over the hidden units."""
    hidden = torch.tensor(list(product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    up = torch.distributions.Bernoulli(rbm.hidden(STATES).detach())
    down = torch.distributions.Bernoulli(logits=(rbm.visible_bias + hidden @ rbm.weight.T).detach())
    given_v = up.log_prob(hidden[:, None]).sum(-1).exp()  # (h, v)
    given_h = down.log_prob(STATES[:, None]).sum(-1).exp()  # (v', h)
    return (given_h @ given_v).T


def bars_and_stripes(side: int) -> Tensor:
    codes = torch.tensor(list(product([0.0, 1.0], repeat=side)), dtype=torch.float64)
    bars = codes[:, None, :].expand(-1, side, side).flatten(1)
    stripes = codes[:, :, None].expand(-1, side, side).flatten(1)
    return torch.cat([bars, stripes])


def quietly(**settings: object) -> BoltzmannLearning:
    return replace(BoltzmannLearning(progress=False), **settings)


def test_contrastive_states_follow_the_gibbs_kernel_and_their_bias_shrinks_with_sweeps() -> None:
    rbm = machine(scale=1.5)
    start = torch.zeros(16, dtype=torch.float64)
    start[[3, 9, 12]] = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    count = 100_000
    with pb.isolated(seed=1):
        batch = STATES[torch.multinomial(start, count, replacement=True)]
        chains = Contrastive(num_sweeps=2).advance(rbm, batch[:1], batch)
    exact = start @ kernel(rbm) @ kernel(rbm)
    found = torch.stack([(chains == state).all(1).double().mean() for state in STATES])
    stderr = torch.sqrt(exact * (1 - exact) / count)
    assert bool(((found - exact).abs() < 4.5 * stderr + 1e-12).all())

    data_gradient, model_gradient = gradients(rbm, STATES, start), gradients(rbm, STATES, probabilities(rbm))
    biases = []
    for sweeps in (1, 2, 8):
        reached = gradients(rbm, STATES, start @ torch.linalg.matrix_power(kernel(rbm), sweeps))
        biases.append(float((reached["weight"] - model_gradient["weight"]).norm()))
    size = float((data_gradient["weight"] - model_gradient["weight"]).norm())
    assert size > biases[0] > biases[1] > biases[2]
    assert biases[0] > 0.1 * size  # CD-1 is biased by a lot here, and yet is a slope upwards on the whole.


def test_states_far_from_the_data_give_the_exact_slope() -> None:
    rbm, rows = machine(), STATES[[3, 9, 12, 15]]
    names = [name for name, _ in rbm.named_parameters()]
    exact = dict(zip(names, torch.autograd.grad(log_likelihood(rbm, rows), list(rbm.parameters())), strict=True))
    quarter = torch.full((4,), 0.25, dtype=torch.float64)
    found = PhaseGradients(gradients(rbm, rows, quarter), gradients(rbm, STATES, probabilities(rbm))).plain
    for name in names:
        torch.testing.assert_close(found[name], exact[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("phase", [Persistent(num_chains=400), Tempered(num_chains=200, num_temperatures=4)])
def test_persistent_chains_reach_the_maximum_of_the_likelihood(phase: Persistent | Tempered) -> None:
    teacher = machine(hidden=1, scale=1.5, seed=3)
    # As frequent as the teacher says, so that the maximum does not lie at infinity.
    rows = STATES.repeat_interleave((4_000 * probabilities(teacher)).round().long(), 0)
    start, climbed = machine(hidden=1, scale=0.5, seed=5), machine(hidden=1, scale=0.5, seed=5)
    optimizer = torch.optim.LBFGS(climbed.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -log_likelihood(climbed, rows)
        value.backward()
        return value

    optimizer.step(loss)
    ascent = GradientAscent(num_steps=1_500, learning_rate=1.0, averaged_fraction=0.5)
    fitted = quietly(phase=phase, ascent=ascent, batch_size=None, monitor=None)(start, data(rows), seed=6).model
    assert isinstance(fitted, RBM)
    lowest, found, best = (float(log_likelihood(each, rows).detach()) for each in (start, fitted, climbed))
    assert best - lowest > 0.1
    # Nine parameters known from some 250 × 400 states, correlated ones: 9 / (2 · 10^5) nats at best, ten times that allowed.
    assert best - found < 5e-4
    # Moments of the model equal those of the data at a maximum; a mean over all states drawn has an error of 0.5 / √10^5.
    moment = probabilities(fitted) @ STATES
    assert float((moment - rows.mean(0)).abs().max()) < 0.008


def test_gaussian_units_get_the_mean_of_the_data() -> None:
    with pb.isolated(seed=0):
        center = torch.tensor([[2.0, 1.0, -1.0], [-2.0, -1.0, 1.0]], dtype=torch.float64)
        rows = center[torch.randint(2, (500,))] + torch.randn(500, 3, dtype=torch.float64) + 0.5
        rbm = RBM(3, 4, units=GaussianUnits(3)).double()
    ascent = GradientAscent(num_steps=500, learning_rate=0.1)
    fit = quietly(phase=Persistent(num_chains=300), ascent=ascent, batch_size=None, monitor=Monitor(every=250))(
        rbm, data(rows), seed=1
    )
    values = fit.info["log_likelihood"]
    fitted = fit.model
    assert isinstance(fitted, RBM)
    hidden = torch.tensor(list(product([0.0, 1.0], repeat=4)), dtype=torch.float64)
    weights = torch.softmax(fitted.machine.log_unnormalized_hidden(hidden), 0)
    mean = weights @ (fitted.visible_bias + hidden @ fitted.weight.T)
    assert float((mean - rows.mean(0)).detach().abs().max()) < 0.1
    independent = -0.5 * float(((rows - rows.mean(0)) ** 2).sum(-1).mean()) - 1.5 * math.log(2 * math.pi)
    # Two clusters √24 apart cost one normal 3 nats per row and a mixture 0.7.
    assert values[-1] > independent + 1.5


def test_exchanges_leave_every_temperature_as_it_is() -> None:
    rbm, count = machine(scale=2.0), 40_000
    betas = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    tempered = rbm.tempered(betas)
    masses = torch.softmax(-tempered.free_energy(STATES[:, None].expand(-1, 3, -1)).detach(), 0)
    with pb.isolated(seed=2), torch.no_grad():
        v = torch.stack([STATES[torch.multinomial(masses[:, t], count, replacement=True)] for t in range(3)], 1)
        once = exchanged(tempered, v, 0)
        moved = exchanged(tempered, once, 1)
    assert 0.2 < float((once != v).any(-1)[:, :2].double().mean()) < 0.95
    assert bool((once[:, 2] == v[:, 2]).all())
    # Together the states stay the same ones.
    assert bool((moved.sum(1) == v.sum(1)).all())
    for t in range(3):
        found = torch.stack([(moved[:, t] == state).all(1).double().mean() for state in STATES])
        stderr = torch.sqrt(masses[:, t] * (1 - masses[:, t]) / count)
        assert bool(((found - masses[:, t]).abs() < 4.5 * stderr + 1e-12).all())


def test_the_centered_slope_does_not_depend_on_which_value_is_called_zero() -> None:
    rbm = machine(scale=0.7)
    rows, states = STATES[[3, 9, 12, 15]], STATES[[0, 5, 6, 14, 2]]
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)

    def turned(v: Tensor) -> Tensor:
        return torch.where(sign < 0, 1 - v, v)

    def turned_machine(weight: Tensor, visible: Tensor, hidden: Tensor) -> list[Tensor]:
        """First the visible units, then every second hidden one."""
        weight, visible, hidden = sign[:, None] * weight, sign * visible, hidden + weight[sign < 0].sum(0)
        other = torch.ones_like(hidden)
        other[::2] = -1
        return [weight * other, visible + weight[:, other < 0].sum(1), other * hidden]

    def stepped(model: RBM, rows: Tensor, states: Tensor, centered: bool) -> list[Tensor]:
        gradient = PhaseGradients(
            gradients(model, rows, torch.full((len(rows),), 1 / len(rows), dtype=torch.float64)),
            gradients(model, states, torch.full((len(states),), 1 / len(states), dtype=torch.float64)),
        )
        ascent_direction = (
            Offsets.of(gradient, rbm.layer_couplings).centered(gradient.plain) if centered else gradient.plain
        )
        return [leaf.detach() + 0.3 * ascent_direction[name] for name, leaf in model.named_parameters()]

    other = machine()
    with torch.no_grad():
        for leaf, value in zip(other.parameters(), turned_machine(*rbm.parameters()), strict=True):
            leaf.copy_(value)
    torch.testing.assert_close(probabilities(other, turned(STATES)), probabilities(rbm))
    for centered in (True, False):
        expected = turned_machine(*stepped(rbm, rows, states, centered))
        found = stepped(other, turned(rows), turned(states), centered)
        apart = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
        assert (apart < 1e-12) is centered


def test_centring_a_deep_machine_does_not_depend_on_which_value_is_called_zero() -> None:
    deep = deep_machine(hidden=3, top=2, scale=0.7)
    rows, states = STATES[[3, 9, 12, 15]], STATES[[0, 5, 6, 14, 2], :3]
    signs = {
        "visible_bias": torch.tensor([-1.0, 1, 1, -1]).double(),
        "first_bias": torch.tensor([-1.0, 1, -1]).double(),
        "second_bias": torch.tensor([1.0, -1]).double(),
    }

    def turned(x: Tensor, layer: str) -> Tensor:
        return torch.where(signs[layer] < 0, 1 - x, x)

    def turned_machine(values: dict[str, Tensor]) -> dict[str, Tensor]:
        """One layer after the other: x = 1 - x' where the sign is negative."""
        found = dict(values)
        for layer, sign in signs.items():
            for weight, (low, high) in deep.layer_couplings.items():
                if layer == low:
                    found[high] = found[high] + found[weight][sign < 0].sum(0)
                    found[weight] = found[weight] * sign[:, None]
                elif layer == high:
                    found[low] = found[low] + found[weight][:, sign < 0].sum(1)
                    found[weight] = found[weight] * sign
            found[layer] = found[layer] * sign
        return found

    def stepped(model: DeepBoltzmannMachine, rows: Tensor, states: Tensor) -> dict[str, Tensor]:
        leaves = dict(model.named_parameters())
        sides = [
            dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))
            for value in (-model.free_energy(rows).mean(), -model.hidden_free_energy(states).mean())
        ]
        gradient = PhaseGradients(*sides)
        ascent_direction = Offsets.of(gradient, model.layer_couplings).centered(gradient.plain)
        return {name: leaf.detach() + 0.3 * ascent_direction[name] for name, leaf in leaves.items()}

    other = deep_machine(hidden=3, top=2)
    with torch.no_grad():
        for name, value in turned_machine(dict(deep.named_parameters())).items():
            other.get_parameter(name).copy_(value)
    torch.testing.assert_close(
        torch.softmax(-other.free_energy(turned(STATES, "visible_bias")), 0),
        torch.softmax(-deep.free_energy(STATES), 0),
    )
    expected = turned_machine(stepped(deep, rows, states))
    found = stepped(other, turned(rows, "visible_bias"), turned(states, "first_bias"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("phase", [Persistent(num_chains=200), Tempered(num_chains=50, num_temperatures=4)])
def test_a_deep_machine_learns_rows_nearly_as_they_are(phase: Persistent | Tempered) -> None:
    rows = torch.cat([bars_and_stripes(2)] * 18 + [STATES])
    fraction = torch.stack([(rows == state).all(1).double().mean() for state in STATES])
    start = deep_machine(hidden=4, top=2, scale=0.1, seed=5)
    ascent = GradientAscent(num_steps=1_500, learning_rate=1.0, averaged_fraction=0.5)
    fit = quietly(phase=phase, ascent=ascent, batch_size=None, monitor=Monitor(every=500))(start, data(rows), seed=6)
    fitted = fit.model
    assert isinstance(fitted, DeepBoltzmannMachine)
    log_p = torch.log_softmax(-fitted.free_energy(STATES).detach(), 0)
    highest, independent = -float(torch.special.entr(fraction).sum()), _independent(fraction)
    found = float(fraction @ log_p)
    assert highest - independent > 0.4
    # Mean field keeps the fit a little below the rows' own entropy.
    assert found > independent + 0.8 * (highest - independent)
    assert fit.info["log_likelihood"][-1] > fit.info["log_likelihood"][0]
    assert fit.info["log_likelihood"][-1] <= found + 1e-6  # of a bound


def _independent(fraction: Tensor) -> float:
    """Mean log probability of states under independent units with the same means."""
    means = fraction @ STATES
    return -float((torch.special.entr(means) + torch.special.entr(1 - means)).sum())


def test_contrastive_chains_of_a_deep_machine_start_in_its_first_layer() -> None:
    deep = deep_machine(hidden=3, top=2)
    with pb.isolated(seed=0):
        states = Contrastive(2).advance(deep, STATES[:1], STATES)
    assert states.shape == (16, 3)
    assert set(states.unique().tolist()) <= {0.0, 1.0}


def test_offsets_start_at_the_first_step_and_move_slowly() -> None:
    first = PhaseGradients(
        {"visible_bias": torch.ones(2), "hidden_bias": torch.ones(1)},
        {"visible_bias": torch.zeros(2), "hidden_bias": torch.ones(1)},
    )
    nothing = {"visible_bias": torch.zeros(2), "hidden_bias": torch.zeros(1)}
    moved = Offsets.of(first, {"weight": ("visible_bias", "hidden_bias")}).updated(PhaseGradients(nothing, nothing))
    torch.testing.assert_close(moved.means["visible_bias"], torch.full((2,), 0.5 * 0.99))
    torch.testing.assert_close(moved.means["hidden_bias"], torch.full((1,), 0.99))


def test_an_average_is_the_mean_of_what_was_added() -> None:
    leaves = {"b": torch.zeros(2)}
    mean = Average(leaves)
    mean.copy_into(leaves)
    assert bool((leaves["b"] == 0).all())
    for value in (1.0, 2.0, 6.0):
        leaves["b"].fill_(value)
        mean.add(leaves)
    mean.copy_into(leaves)
    torch.testing.assert_close(leaves["b"], torch.full((2,), 3.0))


def test_a_likelihood_that_falls_stops_contrastive_divergence_and_keeps_the_best_parameters() -> None:
    rows = bars_and_stripes(3)
    with pb.isolated(seed=0):
        rbm = RBM(9, 12).double()
    settings = quietly(
        phase=Contrastive(),
        ascent=GradientAscent(num_steps=20_000, learning_rate=2.0, schedule=lambda fraction: 1.0),
        batch_size=None,
        monitor=Monitor(every=25),
    )
    with pytest.warns(ConvergenceWarning, match=r"lower learning_rate, raise num_sweeps"):
        fit = settings(rbm, data(rows), seed=1)
    values = fit.info["log_likelihood"]
    fitted = fit.model
    assert isinstance(fitted, RBM)
    assert fit.info["diverged"] and fit.info["num_steps"] < 20_000
    assert values[-1] < max(values) - 0.2 * (max(values) - values[0])
    every = torch.tensor(list(product([0.0, 1.0], repeat=9)), dtype=torch.float64)
    assert float(log_likelihood(fitted, rows, every).detach()) == pytest.approx(max(values), abs=1e-9)


def test_a_fall_is_lasting_and_large() -> None:
    monitor = Monitor(fraction=0.2, patience=2)
    assert not monitor.has_diverged([-10.0])
    assert not monitor.has_diverged([-10.0, -5.0, -6.5])
    assert monitor.has_diverged([-10.0, -5.0, -6.5, -6.1])
    assert not monitor.has_diverged([-10.0, -5.0, -6.5, -5.9])
    assert not monitor.has_diverged([-10.0, -5.0, -5.9, -6.5])
    assert monitor.has_diverged([-10.0, -11.0, -12.0])
    assert monitor.has_diverged([-10.0, -5.0, -math.inf, -math.inf])


def test_the_annealed_partition_function_is_the_exact_one_within_its_error() -> None:
    wide = machine(visible=20, hidden=14, scale=0.3)
    rows = (torch.arange(200, dtype=torch.float64).reshape(10, 20) % 3 == 0).double()
    exact = pb.evidence.log_partition(wide).log_z
    several = torch.tensor([log_partition(wide.machine, rows, seed) for seed in range(8)])
    assert float(several.std()) > 0
    assert abs(float(several.mean()) - exact) < 4 * float(several.std()) / math.sqrt(8)
    narrow = machine(visible=20, hidden=3)
    assert log_partition(narrow.machine, rows, 0) == pytest.approx(pb.evidence.log_partition(narrow).log_z, abs=1e-9)


@pytest.mark.parametrize(
    "phase", [Contrastive(), Persistent(num_chains=20), Tempered(num_chains=5, num_temperatures=3)]
)
def test_a_seed_gives_one_fit_and_the_machine_passed_in_stays(phase: Contrastive | Persistent | Tempered) -> None:
    rbm, rows = machine(), STATES[[3, 9, 12, 15]]
    before = {name: value.clone() for name, value in rbm.state_dict().items()}
    settings = quietly(phase=phase, ascent=GradientAscent(num_steps=20), batch_size=2, monitor=Monitor(every=10))
    first, again, other = (settings(rbm, data(rows), seed=seed) for seed in (1, 1, 2))
    fits = [dict(fit.model.named_parameters()) for fit in (first, again, other) if isinstance(fit.model, RBM)]
    assert all(bool((value == before[name]).all()) for name, value in rbm.state_dict().items())
    assert all(bool((fits[0][name] == fits[1][name]).all()) for name in before)
    assert not bool((fits[0]["weight"] == fits[2]["weight"]).all())
    assert not bool((fits[0]["weight"] == before["weight"]).all())
    assert first.info["evaluations"] == [0, 10, 20] and first.draws == {}
    assert first.info["log_likelihood"] == again.info["log_likelihood"]


def test_looking_changes_nothing_of_the_fit() -> None:
    rbm, rows = machine(), STATES[[3, 9, 12, 15]]
    settings = quietly(ascent=GradientAscent(num_steps=20), batch_size=2)
    fits = [replace(settings, monitor=monitor)(rbm, data(rows), seed=1).model for monitor in (None, Monitor(every=3))]
    weights = [fit.weight for fit in fits if isinstance(fit, RBM)]
    assert bool((weights[0] == weights[1]).all())


def test_the_order_of_rows_does_not_matter_for_all_of_them_at_once() -> None:
    rbm, rows = machine(), STATES[[3, 9, 12, 15, 3]]
    fifth = torch.full((5,), 0.2, dtype=torch.float64)
    known, turned = gradients(rbm, rows, fifth), gradients(rbm, rows.flip(0), fifth)
    for name, gradient in known.items():
        torch.testing.assert_close(turned[name], gradient)
    settings = quietly(
        phase=Persistent(num_chains=3_000),
        ascent=GradientAscent(num_steps=1, averaged_fraction=0.0),
        batch_size=None,
        monitor=None,
    )
    fits = [settings(rbm, data(each), seed=seed).model for seed, each in enumerate((rows, rows.flip(0)))]
    first, second = (fit.weight.detach() for fit in fits if isinstance(fit, RBM))
    # A step of 0.1 of the mean of a number in [0, 1] over 3,000 chains, twice, centered by another such.
    assert float((first - second).abs().max()) < 4.5 * 0.1 * 0.5 * math.sqrt(2 * 2 / 3_000)


def test_half_precision_of_products_climbs_as_high() -> None:
    rows = bars_and_stripes(3).float()
    with pb.isolated(seed=0):
        rbm = RBM(9, 6)
    settings = quietly(
        phase=Persistent(num_chains=100), ascent=GradientAscent(num_steps=1_000, learning_rate=0.3), batch_size=None
    )
    fits = [replace(settings, precision=precision)(rbm, data(rows), seed=1) for precision in (None, torch.bfloat16)]
    full, half = (fit.info["log_likelihood"][-1] for fit in fits)
    start = fits[0].info["log_likelihood"][0]
    assert full - start > 1.0
    assert half - start > 0.9 * (full - start)
    assert isinstance(fits[1].model, RBM) and fits[1].model.weight.dtype == torch.float32


def test_a_slope_that_is_not_finite_says_what_to_try() -> None:
    with pb.isolated(seed=0):
        rows = 100 * torch.randn(50, 3)
        rbm = RBM(3, 2, units=GaussianUnits(3, learn_scale=True))
    settings = quietly(ascent=GradientAscent(num_steps=100, learning_rate=1e6), batch_size=None, monitor=None)
    with pytest.raises(NonFiniteError, match=r"expected a finite gradient, .+; lower the learning rate, draw"):
        settings(rbm, data(rows), seed=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Contrastive(num_sweeps=0), "num_sweeps"),
        (lambda: Persistent(num_chains=0), "num_chains"),
        (lambda: Tempered(num_temperatures=1), "num_temperatures"),
        (lambda: GradientAscent(num_steps=0), "num_steps"),
        (lambda: GradientAscent(learning_rate=-1.0), "rate"),
        (lambda: GradientAscent(averaged_fraction=2.0), "averaged"),
        (lambda: Monitor(every=0), "every"),
        (lambda: Monitor(fraction=0.0), "expected fraction"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_no_boltzmann_machine_or_no_rows_is_refused() -> None:
    rows = STATES[[3, 9, 12, 15]]
    with pytest.raises(ValueError, match="free_energy"):
        quietly()(torch.nn.Identity(), data(rows), seed=0)
    with pytest.raises(ValueError, match=r"x\.float"):
        quietly()(machine(), data(rows.long()), seed=0)
    with pytest.raises(ValueError, match="binarize"):
        quietly()(machine(), data(rows + 0.5), seed=0)
    with pytest.raises(ValueError, match="4 visible units"):
        quietly()(machine(), data(rows[:, :3]), seed=0)
    with pytest.raises(ValueError, match="batch_size"):
        quietly(batch_size=0)(machine(), data(rows), seed=0)
    with pytest.raises(ValueError, match="requires_grad"):
        quietly()(machine().requires_grad_(False), data(rows), seed=0)
