"""Boltzmann machines: energies, Gibbs steps and partition functions of every kind, against sums over all states."""

import itertools
import math
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from probmodel.data import problems
from probmodel.data.digits import digits
from probmodel.evidence import exact, log_likelihood, log_partition, log_partition_ais, log_partition_sandwich, smc
from probmodel.families.boltzmann_machines.annealing import annealing_schedule, backward, forward
from probmodel.families.boltzmann_machines.binary_rbm import BinaryRBM
from probmodel.families.boltzmann_machines.coupled import CoupledMachine
from probmodel.families.boltzmann_machines.couplings import color_classes, rows_of
from probmodel.families.boltzmann_machines.discrete_units import BernoulliUnits, CategoricalUnits, CountUnits
from probmodel.families.boltzmann_machines.joined_units import JoinedUnits
from probmodel.families.boltzmann_machines.model_draws import enumerated, tempered_draws
from probmodel.families.boltzmann_machines.real_units import ContinuousBernoulliUnits, GaussianUnits
from probmodel.inference import SVI
from probmodel.layers.decisions import ClassifyJoint
from probmodel.layers.features import Identity
from probmodel.layers.lift import lift
from probmodel.layers.pipeline import Pipeline
from probmodel.layers.representations.boltzmann import RBM, BoltzmannMachine, ClassRBM, DeepBoltzmannMachine
from probmodel.prediction.predictive import predict
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target

UNITS = {
    "bernoulli": BernoulliUnits,
    "gaussian": lambda: GaussianUnits(5, learn_scale=True),
    "categorical": lambda: CategoricalUnits([2, 3]),
    "count": CountUnits,
    "joined": lambda: JoinedUnits([CountUnits(), CategoricalUnits([3])], [2, 3]),
}
COUNTS = torch.arange(61.0).double()
"""Counts up to where the rates of the tests leave no probability."""
each_family = pytest.mark.parametrize("family", UNITS)


def states(num_units: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=num_units))).double()


def filled(module: nn.Module, scale: float = 0.8) -> nn.Module:
    """The module in float64 with parameters no two of which are alike."""
    module = module.double()
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters(), 1):
            index = torch.arange(1.0, parameter.numel() + 1).double()
            parameter.copy_((scale * torch.sin(1.9 * index + number) - 0.1).view_as(parameter))
    return module


def rbm(family: str, scale: float = 0.8) -> RBM:
    with isolated(seed=0):
        return filled(RBM(5, 4, units=UNITS[family]()), scale)


def coupled(hidden: int) -> BoltzmannMachine:
    with isolated(seed=0):
        return filled(BoltzmannMachine(6, hidden), 1.1)


def deep(sizes: tuple[int, int, int] = (5, 4, 3)) -> DeepBoltzmannMachine:
    with isolated(seed=0):
        return filled(DeepBoltzmannMachine(*sizes), 0.9)


def torus(side: int) -> CoupledMachine:
    known = problems.ising_torus(side)
    return fully_visible(known.couplings, known.bias)


def fully_visible(couplings: torch.Tensor, bias: torch.Tensor) -> CoupledMachine:
    return CoupledMachine(couplings, torch.zeros(len(bias), 0).double(), bias, torch.zeros(0).double())


def visible_states(family: str) -> torch.Tensor:
    """Every state of the visible units of one family, counts up to 60 in turn with the others at a few values."""
    one_hot = {size: torch.eye(size).double() for size in (2, 3)}
    if family == "bernoulli":
        return states(5)
    if family == "categorical":
        return torch.stack([torch.cat(pair) for pair in itertools.product(one_hot[2], one_hot[3])])
    pairs = torch.cartesian_prod(COUNTS, COUNTS)
    return torch.stack([torch.cat([pair, code]) for pair in pairs for code in one_hot[3]])


# ------------------------------------------------------------------------------------------ energies


@each_family
def test_free_energy_is_minus_the_log_sum_over_hidden_states(family):
    machine = rbm(family)
    with isolated(seed=1), torch.no_grad():
        v = machine.units.sample(torch.zeros(7, 5).double())
        h = states(4)
        statistic = machine.units.statistic(v)
        terms = (
            (statistic @ machine.weight) @ h.T + (statistic @ machine.visible_bias)[:, None] + h @ machine.hidden_bias
        )
        expected = torch.logsumexp(terms, 1) + machine.units.log_base(v)
        assert torch.allclose(machine.free_energy(v), -expected, atol=1e-12, rtol=0)
        on = torch.exp(terms - torch.logsumexp(terms, 1, keepdim=True)) @ h
        assert torch.allclose(machine.hidden(v), on, atol=1e-12)


@pytest.mark.parametrize("hidden", [0, 3])
def test_free_energy_of_coupled_units_is_the_quadratic_form(hidden):
    machine = coupled(hidden)
    v, J = states(6), machine.couplings
    assert torch.equal(J, J.T)
    assert not J.diagonal().any()
    pairs = sum(J[i, j] * v[:, i] * v[:, j] for i in range(6) for j in range(i + 1, 6))
    h = states(hidden) if hidden else torch.zeros(1, 0).double()
    terms = (v @ machine.weight) @ h.T + h @ machine.hidden_bias
    expected = pairs + v @ machine.visible_bias + torch.logsumexp(terms, 1)
    assert torch.allclose(machine.free_energy(v), -expected, atol=1e-12)


def deep_table(machine: DeepBoltzmannMachine) -> torch.Tensor:
    """Log f(v, h₁, h₂) of all states."""
    V, H, K = machine.machine.sizes
    v, h, k = states(V)[:, None, None], states(H)[None, :, None], states(K)[None, None]
    biases = v @ machine.visible_bias + h @ machine.first_bias + k @ machine.second_bias
    return (v @ machine.first * h).sum(-1) + (h @ machine.second * k).sum(-1) + biases


@pytest.mark.parametrize("sizes", [(5, 4, 3), (4, 3, 5)])
def test_free_energies_of_a_deep_machine_are_sums_over_its_table(sizes):
    machine = deep(sizes)
    with torch.no_grad():
        table = deep_table(machine)
        by_row = torch.logsumexp(table.flatten(1), 1)
        assert torch.allclose(machine.free_energy(states(sizes[0])), -by_row, atol=1e-12)
        by_first = torch.logsumexp(table.movedim(1, 0).flatten(1), 1)
        assert torch.allclose(machine.hidden_free_energy(states(sizes[1])), -by_first, atol=1e-12)


def test_mean_field_bounds_each_row_and_is_a_fixed_point():
    machine = deep()
    with torch.no_grad():
        v = states(5)
        gap = machine.free_energy_bound(v) - machine.free_energy(v)
        assert gap.min() > 0
        assert gap.max() < 0.5
        q = machine.mean_field(v)
        again = torch.sigmoid(v @ machine.first + machine.first_bias + q.second @ machine.second.T)
        assert torch.allclose(q.first, again, atol=1e-8)
        for shift in (1e-3, -1e-3):
            moved = q._replace(first=(q.first + shift).clamp(0, 1))
            assert (machine.machine.mean_field_bound(v, moved) < machine.machine.mean_field_bound(v, q)).all()


def test_the_loss_of_a_deep_machine_has_the_gradient_of_its_bound():
    machine = deep()
    table = deep_table(machine)
    weights = torch.softmax(torch.logsumexp(table.movedim(1, 0).flatten(1), 1), 0).detach()
    loss = machine.free_energy_bound(states(5)[3:9]).mean() - weights @ machine.hidden_free_energy(states(4))
    found = torch.autograd.grad(loss, list(machine.parameters()))
    exact = torch.logsumexp(table.flatten(), 0) + machine.free_energy_bound(states(5)[3:9]).mean()
    for each, expected in zip(found, torch.autograd.grad(exact, list(machine.parameters())), strict=True):
        assert torch.allclose(each, expected, atol=1e-10)


def test_a_deep_machine_without_upper_weights_is_a_restricted_one():
    machine = deep()
    with torch.no_grad():
        machine.second.zero_()
        below = BinaryRBM(machine.first, machine.visible_bias, machine.first_bias)
        rest = float(torch.log1p(machine.second_bias.exp()).sum())
        assert abs(log_partition(machine).log_z - log_partition(below).log_z - rest) < 1e-12
        assert torch.allclose(machine.free_energy(states(5)) + rest, -below.log_unnormalized(states(5)), atol=1e-12)
        assert torch.allclose(machine.free_energy_bound(states(5)), machine.free_energy(states(5)), atol=1e-9)
    exact = log_partition(machine)
    total = log_likelihood(machine, states(5)[:4], exact).log_z
    assert abs(total - log_likelihood(below, states(5)[:4], log_partition(below)).log_z) < 1e-11


# ------------------------------------------------------------------------------------------ partition functions


@pytest.mark.parametrize("family", ["bernoulli", "categorical", "joined"])
def test_exact_sum_equals_the_sum_over_visible_states(family):
    machine = rbm(family, 0.5)
    with torch.no_grad():
        brute = float(torch.logsumexp(-machine.free_energy(visible_states(family)), 0))
    found = log_partition(machine)
    assert abs(found.log_z - brute) < 1e-10
    assert found.given[:3] == ("weight", "visible_bias", "hidden_bias")


def test_exact_sum_of_counts_equals_the_sum_over_counts():
    with isolated(seed=0):
        machine = filled(RBM(2, 3, units=CountUnits()), 0.6)
    with torch.no_grad():
        brute = float(torch.logsumexp(-machine.free_energy(torch.cartesian_prod(COUNTS, COUNTS)), 0))
    assert abs(log_partition(machine).log_z - brute) < 1e-10


def test_exact_sum_of_gaussian_units_equals_quadrature_and_a_mixture():
    with isolated(seed=0):
        machine = filled(RBM(2, 3, units=GaussianUnits(2, learn_scale=True)))
    grid = torch.linspace(-20, 20, 801, dtype=torch.float64)
    found = log_partition(machine)
    assert found.given == ("weight", "visible_bias", "hidden_bias", "log_scale")
    with torch.no_grad():
        points = torch.cartesian_prod(grid, grid)
        quadrature = float(torch.logsumexp(-machine.free_energy(points), 0)) + 2 * math.log(40 / 800)
        assert abs(found.log_z - quadrature) < 1e-10
        h, scale = states(3), machine.units.log_scale.exp()
        mean = scale * (machine.visible_bias + h @ machine.weight.T)
        energy = h @ machine.hidden_bias + 0.5 * ((mean / scale) ** 2).sum(-1)
        mixture = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(logits=energy),
            torch.distributions.Independent(torch.distributions.Normal(mean, scale), 1),
        )
        rows = points[::19_001]
        expected = float(mixture.log_prob(rows).sum())
    assert abs(log_likelihood(machine, rows, found).log_z - expected) < 1e-10


@each_family
def test_annealing_both_ways_is_unbiased_for_every_family(family):
    machine = rbm(family, 0.6)
    exact = log_partition(machine).log_z
    found = log_partition_sandwich(machine, num_chains=2_000, num_steps=8, seed=2)
    ais, reverse = found.agreement["ais"], found.agreement["reverse ais"]
    assert abs(ais.log_z - exact) < 4 * ais.stderr
    assert abs(reverse.log_z - exact) < 4 * reverse.stderr
    assert found.lower < exact < found.upper < found.lower + 1
    assert 1e-4 < ais.stderr < 0.1


@pytest.mark.parametrize("family", ["gaussian", "count"])
def test_annealing_out_of_tempered_draws_of_unbounded_units(family):
    machine = rbm(family, 0.6)
    found = log_partition_sandwich(machine, num_chains=400, num_steps=20, max_side=0, seed=3)
    assert abs(found.log_z - log_partition(machine).log_z) < 4 * found.stderr
    assert "parallel-tempering" in found.certified


@pytest.mark.parametrize("hidden", [0, 3])
def test_partition_function_of_coupled_units(hidden):
    machine = coupled(hidden)
    with torch.no_grad():
        brute = float(torch.logsumexp(-machine.free_energy(states(6)), 0))
    assert abs(log_partition(machine).log_z - brute) < 1e-12
    found = log_partition_sandwich(machine, num_chains=10_000, num_steps=4, seed=1)
    for way in ("ais", "reverse ais"):
        assert abs(found.agreement[way].log_z - brute) < 4 * found.agreement[way].stderr
        assert 1e-4 < found.agreement[way].stderr < 0.05


@pytest.mark.parametrize("sizes", [(5, 4, 3), (2, 5, 2)], ids=["first layer", "both others"])
def test_partition_function_of_a_deep_machine(sizes):
    machine = deep(sizes)
    with torch.no_grad():
        brute = float(torch.logsumexp(deep_table(machine).flatten(), 0))
    assert abs(log_partition(machine).log_z - brute) < 1e-12
    rows = states(sizes[0])[1:]
    found = log_partition_sandwich(machine, visible=rows, num_chains=10_000, num_steps=4, seed=1)
    for way in ("ais", "reverse ais"):
        assert abs(found.agreement[way].log_z - brute) < 4 * found.agreement[way].stderr


def test_published_constants_of_coupled_machines():
    known = problems.boltzmann_12()
    machine = fully_visible(known.couplings, known.bias)
    assert abs(log_partition(machine).log_z - known.log_z) < 1e-9
    found = log_partition_sandwich(machine, num_chains=400, num_steps=60, max_side=0, seed=1)
    assert abs(found.log_z - known.log_z) < 4 * found.stderr
    assert found.lower < known.log_z < found.upper
    for side, published in ((8, 60.1417808), (16, 238.6422566), (32, 952.6480795)):
        ising = problems.ising_torus(side)
        assert abs(ising.log_z + ising.shift - published) < 1e-7
    for side in (3, 4):
        assert abs(log_partition(torus(side)).log_z - problems.ising_torus(side).log_z) < 1e-11


def test_annealing_a_lattice_finds_kaufmans_number():
    known = problems.ising_torus(8)
    found = log_partition_sandwich(torus(8), num_chains=500, num_steps=200, seed=1)
    assert found.info["failed"] == ()
    assert abs(found.log_z - known.log_z) < 4 * found.stderr
    assert found.lower < known.log_z < found.upper < found.lower + 0.5


def test_probabilities_of_all_rows_add_up_to_one():
    for machine in (rbm("categorical"), coupled(0), coupled(2), deep()):
        rows = visible_states("categorical") if isinstance(machine, RBM) else states(machine.in_features)
        partition = log_partition(machine)
        total = math.fsum(math.exp(log_likelihood(machine, row[None], partition).log_z) for row in rows)
        assert abs(total - 1) < 1e-10


def test_a_deep_machine_too_wide_for_rows_gets_a_lower_bound():
    with isolated(seed=0):
        machine = filled(DeepBoltzmannMachine(6, 15, 15), 0.2)
    rows = states(6)[5:9]
    with pytest.raises(ValueError, match=r"at most 14 units.*got \(15, 15\).*mean-field"):
        machine.free_energy(rows)
    partition = log_partition(machine)
    found = log_likelihood(machine, rows, partition)
    with torch.no_grad():
        log_f = torch.logsumexp(
            machine.machine._log_joint((rows @ machine.first + machine.first_bias)[:, None], states(15)), 1
        )
        exact = float((log_f + rows @ machine.visible_bias).sum()) - 4 * partition.log_z
    assert exact - 0.25 * len(rows) < found.lower <= found.log_z < exact
    assert found.upper == math.inf
    assert "mean field" in found.certified


# ------------------------------------------------------------------------------------------ Gibbs steps


def invariant(log_f: torch.Tensor, step, space: torch.Tensor, count: int = 40_000) -> float:
    """P-value of the states after a step from exact draws, against the distribution they were drawn from."""
    probability = torch.softmax(log_f, 0)
    index = torch.multinomial(probability, count, replacement=True)
    after = step(space[index])
    found = (after[:, None] == space).all(-1).double().argmax(1)
    observed = torch.bincount(found, minlength=len(space)).double()
    keep = probability * count > 5
    expected = torch.cat([probability[keep], probability[~keep].sum()[None]]) * count
    seen = torch.cat([observed[keep], observed[~keep].sum()[None]])
    often = expected > 0
    return float(chisquare(seen[often].numpy(), expected[often].numpy()).pvalue)


@pytest.mark.parametrize("family", ["bernoulli", "categorical"])
def test_gibbs_steps_leave_a_restricted_machine_invariant(family):
    machine, space = rbm(family, 1.2), visible_states(family)
    with isolated(seed=4), torch.no_grad():
        assert invariant(-machine.free_energy(space), machine.gibbs, space) > 1e-3
        hot = machine.tempered(torch.tensor([0.0, 0.6, 1.0]).double(), torch.linspace(-1, 1, 5).double())
        for rung in range(3):
            log_f = -hot.free_energy(space[:, None].expand(-1, 3, -1))[:, rung]
            step = lambda v, rung=rung: hot.gibbs(v[:, None].expand(-1, 3, -1))[:, rung]  # noqa: E731
            assert invariant(log_f, step, space) > 1e-3


@pytest.mark.parametrize("hidden", [0, 3])
def test_gibbs_steps_leave_a_coupled_machine_invariant(hidden):
    machine, space = coupled(hidden), states(6)
    with isolated(seed=5), torch.no_grad():
        assert invariant(-machine.free_energy(space), machine.gibbs, space) > 1e-3
        hot = machine.tempered(torch.tensor([0.7]).double(), torch.linspace(-1, 1, 6).double())
        log_f = -hot.free_energy(space[:, None])[:, 0]
        for path in (hot, hot._replace(path=hot.path.reversed)):
            assert invariant(log_f, lambda v, path=path: path.gibbs(v[:, None])[:, 0], space) > 1e-3


def test_gibbs_steps_leave_a_deep_machine_invariant():
    machine, space = deep(), states(4)
    with isolated(seed=6), torch.no_grad():
        assert invariant(-machine.hidden_free_energy(space), machine.gibbs, space) > 1e-3


def test_reversed_steps_are_the_time_reversal():
    """f(v) K(v → w) = f(w) K̃(w → v), over many draws of two steps that start in equilibrium."""
    machine, space = coupled(2), states(6)
    path = machine.tempered(torch.ones(1).double()).path
    with isolated(seed=7), torch.no_grad():
        start = space[torch.multinomial(torch.softmax(-machine.free_energy(space), 0), 200_000, replacement=True)]
        one = torch.ones(len(start)).double()
        first, last = (step.gibbs(one, step.products(start)) for step in (path, path.reversed))
        code = 2 ** torch.arange(6.0).double()
        ahead = torch.bincount((start @ code * 64 + first @ code).long(), minlength=4096)
        back = torch.bincount((last @ code * 64 + start @ code).long(), minlength=4096)
    both = ahead + back
    seen = both > 20
    # Each pair of states is seen as often one way as the other: the sum of squares is chi-square.
    squares = ((ahead - back)[seen].double() ** 2 / both[seen]).sum()
    assert abs(float(squares) - int(seen.sum())) < 4 * math.sqrt(2 * int(seen.sum()))


@pytest.mark.parametrize("family", ["gaussian", "count"])
def test_gibbs_steps_keep_the_means_of_unbounded_units(family):
    machine = rbm(family, 0.5)
    known = enumerated(machine.machine.double, 25)
    v = known.draws(40_000, 0)
    with isolated(seed=8), torch.no_grad():
        after = machine.gibbs(v)
        h = states(4)
        probability = torch.softmax(machine.machine.log_unnormalized_hidden(h), 0)
        eta = machine.machine.visible_inputs(h)
        mean = probability @ (eta.exp() if family == "count" else machine.units.log_scale.exp() * eta)
    for rows in (v, after):
        assert ((rows.mean(0) - mean).abs() < 4.5 * rows.std(0) / math.sqrt(len(rows))).all()


def test_draws_by_tempering_have_the_moments_of_a_coupled_machine():
    machine = coupled(3)
    way = annealing_schedule(machine.machine.double, None, num_steps=20, draws=None, seed=0)
    v = tempered_draws(way, 800, 1)
    with torch.no_grad():
        mean = torch.softmax(-machine.free_energy(states(6)), 0) @ states(6)
    assert ((v.mean(0) - mean).abs() < 4.5 * 0.5 * math.sqrt(2 / len(v))).all()


def test_base_rates_make_a_base_with_the_rows_means():
    rows = torch.tensor([[1.0, 0, 0, 1, 0], [1, 0, 0, 1, 0], [0, 1, 0, 1, 0]]).double()
    for family in ("categorical", "bernoulli"):
        machine = rbm(family)
        rows = rows if family == "bernoulli" else torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, 0, 0, 1]]).double()
        base = machine.machine.natural_parameters(rows)
        with isolated(seed=0):
            drawn = machine.machine.path(base).base(20_000)
        smooth = (rows.sum(0) + 1) / (len(rows) + 2)
        expected = smooth if family == "bernoulli" else torch.tensor([0.5, 0.5, 0.2, 0.4, 0.4]).double()
        assert ((drawn.mean(0) - expected).abs() < 4.5 * 0.5 / math.sqrt(20_000)).all()


def test_a_deep_machine_starts_at_the_base_rates_of_its_visible_units():
    machine = deep().machine
    base = machine.natural_parameters(states(5)[3:9])
    path = machine.path(base)
    assert torch.equal(path.hidden_base, torch.cat([base, torch.zeros(3).double()]))
    assert abs(path.log_z0 - float(torch.log1p(base.exp()).sum()) - 7 * math.log(2)) < 1e-12


@pytest.mark.parametrize("ends", [(forward, 1), (backward, 2)], ids=["forward", "backward"])
def test_a_path_of_one_machine_to_itself_has_no_weight(ends):
    """Independent units are their own base: every weight is Z, whatever the steps."""
    machine = fully_visible(torch.zeros(3, 3).double(), torch.linspace(-1, 1, 3).double())
    way = annealing_schedule(machine, machine.visible_bias, num_steps=3, draws=None, seed=0)
    run, seed = ends
    log_w = run(way, 5, seed) if run is forward else run(way, torch.zeros(5, 1).double(), seed)
    assert log_w.std() < 0.4
    assert abs(log_partition(machine).log_z - float(torch.log1p(machine.visible_bias.exp()).sum())) < 1e-12


# ------------------------------------------------------------------------------------------ couplings


def test_colors_part_every_pair_that_is_coupled():
    for couplings, most in ((problems.ising_torus(8).couplings, 2), (problems.boltzmann_12().couplings, 12)):
        classes = color_classes(couplings)
        assert len(classes) == most
        assert sorted(torch.cat(classes).tolist()) == list(range(len(couplings)))
        assert not any(couplings[units][:, units].any() for units in classes)


def test_sparse_rows_multiply_as_dense_ones():
    with isolated(seed=0):
        matrix = torch.randn(30, 90).double() * (torch.rand(30, 90) < 0.05)
        v = torch.randn(90, 4).double()
    assert rows_of(matrix).columns.shape[1] * 8 < 90
    assert torch.allclose(rows_of(matrix).times(v), matrix @ v)


# ------------------------------------------------------------------------------------------ as models


@pytest.mark.parametrize(
    "build", [lambda: rbm("bernoulli"), lambda: coupled(2), deep], ids=["restricted", "coupled", "deep"]
)
def test_the_pyro_model_is_the_normalized_density_of_rows(build):
    machine = build()
    every = states(machine.in_features)
    with isolated(seed=0):
        found = pyro.poutine.trace(machine).get_trace(every)
        found.compute_log_prob()
        drawn = found.nodes["x"]["fn"].sample((2_000,)).flatten(0, 1)
    log_p = found.nodes["x"]["log_prob"].detach()
    assert abs(float(torch.logsumexp(log_p, 0))) < 1e-12
    assert torch.allclose(log_p, torch.log_softmax(-machine.free_energy(every), 0), rtol=0, atol=1e-12)
    fraction = torch.bincount((drawn @ 2.0 ** torch.arange(machine.in_features).double()).long(), minlength=len(every))
    number = (every @ 2.0 ** torch.arange(machine.in_features).double()).long()
    expected = log_p.exp()[number.argsort()]
    stderr = torch.sqrt(expected * (1 - expected) / len(drawn))
    assert bool(((fraction / len(drawn) - expected).abs() < 5 * stderr).all())
    machine.check(Dataset((every,), {}, len(every)))
    with pytest.raises(ValueError, match="visible units, got 2"):
        machine.check(Dataset((every[:, :2],), {}, len(every)))
    with pytest.raises(ValueError, match="called with x"):
        machine.check(Dataset((every,), {"y": every}, len(every)))


def test_densities_of_unbounded_units_are_normalized_by_the_hidden_side():
    machine = rbm("count")
    rows = torch.arange(15.0).reshape(3, 5).double()
    with isolated(seed=0):
        log_p = pyro.poutine.trace(machine).get_trace(rows).log_prob_sum().detach()
    log_z = log_partition(machine).log_z
    assert abs(float(log_p + machine.free_energy(rows).sum().detach()) + 3 * log_z) < 1e-10


def test_the_gradient_of_a_machines_density_is_that_of_its_likelihood():
    machine = rbm("bernoulli")
    rows = states(5)[[3, 3, 17, 30]]
    with isolated(seed=0):
        loss = pyro.poutine.trace(machine).get_trace(rows).log_prob_sum()
    found = torch.autograd.grad(loss, list(machine.parameters()))
    energies = machine.free_energy(states(5))
    expected = torch.autograd.grad(
        -machine.free_energy(rows).sum() - 4 * torch.logsumexp(-energies, 0), list(machine.parameters())
    )
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_a_large_machine_has_no_density_to_be_taken_for_one():
    with isolated(seed=0):
        machine = RBM(20, 20)
    fit = Posterior(machine, Dataset((torch.zeros(3, 20),), {}, 3), {}, {})
    with pytest.raises(ValueError, match="at most 14 units to sum over"):
        exact(fit)


def test_the_evidence_of_a_machine_with_latent_weights_agrees_with_draws_of_its_prior():
    with isolated(seed=0):
        bayesian = lift(RBM(3, 1).double())
    rows = states(3)[[0, 7, 0, 7, 1, 0, 7]]
    goal = target(bayesian, Dataset((rows,), {}, len(rows)))
    log_likelihood = goal.log_likelihood(goal.sample_prior(100_000, seed=1)).double()
    by_prior = float(torch.logsumexp(log_likelihood, 0)) - math.log(100_000)
    weight = torch.softmax(log_likelihood, 0)
    stderr = float((weight.square().sum() - 1e-5).sqrt())
    found = smc(goal, seed=0)
    assert stderr < 0.02
    assert abs(found.log_z - by_prior) < 4 * math.hypot(stderr, found.stderr)


def test_representations_give_probabilities_of_hidden_units():
    for machine in (rbm("bernoulli"), coupled(3), deep()):
        rows = states(machine.in_features)[:7]
        with torch.no_grad():
            z = machine.model(rows, pyro.plate("rows", 7, dim=-1))
        assert z.shape == (7, machine.out_features)
        assert ((z > 0) & (z < 1)).all()
        with pytest.raises(ValueError, match="visible units, got 2"):
            machine.model(rows[:, :2], pyro.plate("rows", 7, dim=-1))
        with isolated(seed=0):
            copied = type(machine)(**machine.constructor_arguments()).double()
        copied.load_state_dict(machine.state_dict())
        assert torch.equal(copied.model(rows, pyro.plate("rows", 7, dim=-1)), z)


def test_edges_that_are_absent_stay_uncoupled():
    edges = problems.ising_torus(4).couplings != 0
    with isolated(seed=0):
        machine = filled(BoltzmannMachine(16, edges=edges))
    assert len(machine.color_classes) == 2
    assert torch.equal(machine.couplings != 0, edges)
    assert machine.machine.num_enumerated == 8
    with torch.no_grad():
        brute = float(torch.logsumexp(-machine.free_energy(states(16)), 0))
    assert abs(log_partition(machine).log_z - brute) < 1e-11


# ------------------------------------------------------------------------------------------ classes


def class_rbm() -> ClassRBM:
    with isolated(seed=0):
        return filled(ClassRBM(4, 3, 3), 1.1)


def test_posterior_of_the_class_is_that_of_the_joint_machine():
    machine, v = class_rbm(), states(4)
    with torch.no_grad():
        posterior = torch.softmax(machine.scores(v), 1)
        joint = torch.stack([-machine.joint.free_energy(machine.rows(v, torch.full((16,), y))) for y in range(3)], 1)
        assert torch.allclose(posterior, torch.softmax(joint, 1), atol=1e-12)
        every = float(torch.logsumexp(joint.flatten(), 0))
    assert abs(log_partition(machine.joint).log_z - every) < 1e-11
    y = torch.arange(16) % 3
    total = log_likelihood(machine.joint, machine.rows(v, y), log_partition(machine.joint)).log_z
    assert abs(total - float(joint.gather(1, y[:, None]).sum() - 16 * every)) < 1e-10


def test_class_machine_is_fitted_in_a_pipeline():
    train, test = digits(seed=0, dtype=torch.float64)
    x, y = ((train.args[0].flatten(1) > 0.5).double(), train.kwargs["y"])
    with isolated(seed=0):
        model = Pipeline(Identity(), ClassRBM(64, 30, 10), ClassifyJoint(10)).double()
    adam = partial(torch.optim.Adam, lr=0.02)
    settings = SVI(num_steps=150, batch_size=128, optimizer=adam, compile=False, progress=False)
    posterior = settings(model, Dataset((x,), {"y": y}, len(x)), seed=0)
    prediction = predict(posterior, (test.args[0].flatten(1) > 0.5).double(), seed=0)
    assert (prediction.action == test.kwargs["y"]).double().mean() > 0.9
    scores = posterior.model.representation.scores((test.args[0].flatten(1) > 0.5).double())
    assert torch.allclose(prediction.distribution.probs, torch.softmax(scores, 1))


def test_classes_that_do_not_fit_are_refused():
    machine = class_rbm()
    for y in (torch.tensor([3]), torch.tensor([0, 1]), torch.tensor([0.0])):
        with pytest.raises(ValueError, match=r"1 class numbers in 0 … 2"):
            machine.rows(states(4)[:1], y)
    with pytest.raises(ValueError, match="0 and 1"):
        machine.rows(states(4)[:1] + 0.5, torch.tensor([1]))
    with pytest.raises(ValueError, match="visible units, got 3"):
        machine.scores(states(3))


# ------------------------------------------------------------------------------------------ input


@pytest.mark.parametrize(
    ("family", "bad", "said"),
    [
        ("bernoulli", 0.5, "0 and 1.*binarize"),
        ("bernoulli", math.nan, "0 and 1.*binarize"),
        ("gaussian", math.inf, "finite numbers.*missing"),
        ("categorical", 1.0, "one unit that is on in each group.*one_hot"),
        ("categorical", 0.5, "0 and 1.*one_hot"),
        ("count", -1.0, "counts.*GaussianUnits"),
        ("count", 1.5, "counts.*GaussianUnits"),
        ("joined", 1.0, "one unit that is on in each group"),
    ],
)
def test_values_that_the_units_do_not_take_are_refused(family, bad, said):
    machine = rbm(family)
    rows = torch.full((2, 5), bad).double()
    for call in (
        lambda: machine.check(Dataset((rows,), {}, 2)),
        lambda: log_likelihood(machine, rows, log_partition(machine)),
        lambda: log_partition_sandwich(machine, visible=rows),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_machines_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="in_features to be an integer"):
        RBM(0, 3)
    with pytest.raises(ValueError, match="1 or more units per layer"):
        DeepBoltzmannMachine(3, 0, 2)
    with pytest.raises(ValueError, match="cardinality to be an integer, 2 or more"):
        CategoricalUnits([3, 1])
    with pytest.raises(ValueError, match="a width of 1 or more"):
        JoinedUnits([BernoulliUnits()], [2, 3])
    with pytest.raises(ValueError, match=r"edges \(3, 3\), symmetric"):
        BoltzmannMachine(3, edges=torch.ones(3, 3).bool())
    with pytest.raises(ValueError, match="a side of 3 or more"):
        problems.ising_torus(2)
    machine = rbm("bernoulli")
    with torch.no_grad():
        machine.weight[0, 0] = math.nan
    for function in (log_partition, log_partition_ais, log_partition_sandwich):
        with pytest.raises(ValueError, match=r"finite.*weight.*1 not finite.*smaller step"):
            function(machine)
    with isolated(seed=0):
        built = RBM(3, 26, units=CountUnits())
    with pytest.raises(ValueError, match=r"at most 25 units.*got \(3, 26\).*log_partition_sandwich"):
        log_partition(built)


def test_units_in_the_interval_have_the_density_they_say():
    units = ContinuousBernoulliUnits()
    eta = torch.tensor([-60.0, -3.0, -1e-4, 0.0, 5e-4, 2.0, 700.0]).double()
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(400))
    v = (nodes + 1) / 2
    for each in eta:
        log_mass = torch.logsumexp(each * v + torch.log(weights / 2), 0)
        assert float(units.log_partition(each[None])) == pytest.approx(float(log_mass), rel=1e-9, abs=1e-9)
    gradient = torch.func.grad(lambda x: units.log_partition(x))(eta)
    with isolated(seed=0):
        draws = units.sample(eta.expand(40_000, -1))
    assert bool(((draws >= 0) & (draws <= 1)).all())
    stderr = draws.std(0) / 200
    assert bool(((draws.mean(0) - gradient).abs() < 4 * stderr).all())
    assert float((units.natural_parameters(gradient.clamp(0.02, 0.98).expand(10**6, -1))[1] - eta[1]).abs()) < 1e-3


@each_family
def test_slopes_in_closed_form_are_those_of_the_free_energy(family):
    with isolated(seed=1):
        rbm = RBM(5, 3, units=UNITS[family]()).double()
        with torch.no_grad():
            rbm.weight.normal_()
            v = rbm.units.sample(rbm.visible_bias.expand(20, -1))
    leaves = dict(rbm.named_parameters())
    exact = torch.autograd.grad(-rbm.free_energy(v).mean(), list(leaves.values()))
    found = rbm.gradients(v)
    assert found.keys() == leaves.keys()
    for name, gradient in zip(leaves, exact, strict=True):
        assert torch.allclose(found[name], gradient, rtol=0, atol=1e-12), name
