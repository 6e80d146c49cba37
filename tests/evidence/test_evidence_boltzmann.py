"""The log partition function of Boltzmann machines: exact, annealed both ways, bounded, and what it does to a likelihood."""

import itertools
import math
import os
from pathlib import Path

import pytest
import torch

from probmodel.data import problems
from probmodel.evidence.by_family import boltzmann_sides
from probmodel.evidence.by_family.boltzmann_machines import (
    log_likelihood,
    log_odds,
    log_partition,
    log_partition_ais,
    log_partition_sandwich,
)
from probmodel.families.boltzmann_machines import model_draws as boltzmann_draws
from probmodel.families.boltzmann_machines.annealing import annealing_schedule
from probmodel.families.boltzmann_machines.binary_rbm import BinaryRBM
from probmodel.families.boltzmann_machines.harmonium import HarmoniumPath
from probmodel.protocols.errors import EvidenceWarning
from probmodel.protocols.evidence import Evidence
from probmodel.tracing.randomness import isolated

BESIDE = Path(__file__).parents[3] / "shared" / "data"
PUBLISHED = pytest.mark.parametrize(
    "problem", [problems.boltzmann_16x10(), problems.boltzmann_64x16()], ids=["16x10", "64x16"]
)


@pytest.fixture
def digits(monkeypatch):
    """The machine trained on digits; skipped where no folder holds it."""
    for folder in (os.environ.get("PROBMODEL_DATA"), BESIDE):
        if folder and (Path(folder) / "evidence" / "rbm_digits64x16.csv").is_file():
            monkeypatch.setenv("PROBMODEL_DATA", str(folder))
            return problems.boltzmann_digits()
    pytest.skip("neither PROBMODEL_DATA nor a folder shared/data beside the repository holds evidence/")


def machine(problem: problems.BoltzmannProblem) -> BinaryRBM:
    return BinaryRBM(problem.weight, problem.visible_bias, problem.hidden_bias)


def asymmetric(scale: float = 1.0) -> BinaryRBM:
    """Five and four units, no two parameters alike, strongly coupled."""
    i, j = torch.arange(1, 6.0).double(), torch.arange(1, 5.0).double()
    weight = scale * (1.3 * torch.sin(1.7 * i[:, None] * j + i[:, None]) + 0.4)
    return BinaryRBM(weight, 0.7 * torch.cos(2 * i) - 0.3, 0.9 * torch.sin(3 * j) + 0.2)


def ferromagnet(coupling: float) -> BinaryRBM:
    """Two modes, all off and all on: between them lies a barrier that grows with the coupling."""
    weight = torch.full((16, 10), coupling, dtype=torch.float64)
    return BinaryRBM(weight, -weight.sum(1) / 2 + 0.03, -weight.sum(0) / 2)


def brute_force(rbm: BinaryRBM) -> float:
    """Log of the sum over every (v, h), one state at a time."""
    W, b, c = (each.double().numpy() for each in (rbm.weight, rbm.visible_bias, rbm.hidden_bias))
    energies = []
    for v in itertools.product((0, 1), repeat=W.shape[0]):
        for h in itertools.product((0, 1), repeat=W.shape[1]):
            pairs = sum(v[i] * W[i, j] * h[j] for i in range(len(v)) for j in range(len(h)))
            energies.append(pairs + sum(b * v) + sum(c * h))
    return math.log(math.fsum(math.exp(energy) for energy in energies))


# ------------------------------------------------------------------------------------------ exact


def test_enumeration_equals_the_sum_over_all_pairs_of_states():
    found = log_partition(asymmetric())
    assert abs(found.log_z - brute_force(asymmetric())) < 1e-12
    assert found.lower < found.log_z < found.upper
    assert (found.stderr, found.level, found.method) == (0.0, 1.0, "exact (enumeration)")


@PUBLISHED
def test_enumeration_finds_the_published_constants(problem):
    found = log_partition(machine(problem))
    assert abs(found.log_z - problem.log_z) < 1e-9
    assert found.info["seconds"] < 1


def test_log_z_of_uncoupled_units_is_a_sum_of_their_own():
    b, c = torch.tensor([0.5, -60.0, 60.0]).double(), torch.tensor([-2.0, 1.0]).double()
    expected = sum(torch.nn.functional.softplus(each, threshold=100).sum() for each in (b, c))
    assert abs(log_partition(BinaryRBM(torch.zeros(3, 2).double(), b, c)).log_z - float(expected)) < 1e-12


def test_large_biases_keep_every_digit():
    b, c = torch.full((4,), 25.0).double(), torch.full((300,), 21.0).double()
    expected = 4 * (25 + math.log1p(math.exp(-25))) + 300 * (21 + math.log1p(math.exp(-21)))
    assert abs(log_partition(BinaryRBM(torch.zeros(4, 300).double(), b, c)).log_z - expected) < 3e-11


def test_exchanging_the_layers_or_the_order_of_units_changes_nothing():
    rbm, rows, columns = asymmetric(), torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 3, 0, 1])
    permuted = BinaryRBM(rbm.weight[rows][:, columns], rbm.visible_bias[rows], rbm.hidden_bias[columns])
    exact = log_partition(rbm).log_z
    for other in (rbm.transposed, permuted, permuted.transposed):
        assert abs(log_partition(other).log_z - exact) < 1e-12
        found = log_partition_sandwich(other, num_chains=2_000, seed=1)
        assert found.lower < exact < found.upper


def test_flipping_a_unit_changes_nothing():
    """v → 1 − v turns the sign of its row of W and of its bias, and shifts c and the constant."""
    rbm = asymmetric()
    sign = torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0]).double()
    flipped = BinaryRBM(sign[:, None] * rbm.weight, sign * rbm.visible_bias, rbm.hidden_bias + rbm.weight[1])
    assert abs(log_partition(flipped).log_z + float(rbm.visible_bias[1]) - log_partition(rbm).log_z) < 1e-12


def test_more_units_than_can_be_enumerated_are_refused_with_the_way_out():
    rbm = BinaryRBM(torch.zeros(26, 30), torch.zeros(26), torch.zeros(30))
    with pytest.raises(ValueError, match=r"at most 25 units.*got \(26, 30\).*log_partition_sandwich"):
        log_partition(rbm)


# ------------------------------------------------------------------------------------------ annealing


@pytest.mark.parametrize("num_steps", [2, 3, 10])
@pytest.mark.parametrize("base", [None, torch.tensor([0.9, -0.4, 0.1, -1.2, 0.5]).double()], ids=["fitted", "given"])
def test_weights_of_few_temperatures_are_unbiased(num_steps, base):
    """At two, three and ten steps the weights vary much, and any error in a temperature would not be annealed away."""
    rbm = asymmetric(0.7)
    found = log_partition_ais(rbm, base_bias=base, num_chains=50_000, num_steps=num_steps, seed=num_steps)
    assert abs(math.expm1(found.log_z - brute_force(rbm))) < 4 * found.stderr
    assert 5e-5 < found.stderr < 0.03
    assert found.lower < brute_force(rbm)
    assert found.info["num_steps"] == num_steps


@pytest.mark.parametrize("rbm", [asymmetric(0.7), asymmetric(0.7).transposed], ids=["hidden side", "visible side"])
@pytest.mark.parametrize("num_steps", [2, 4])
def test_reverse_weights_of_few_temperatures_are_unbiased(rbm, num_steps):
    found = log_partition_sandwich(rbm, num_chains=50_000, num_steps=num_steps, seed=num_steps)
    reverse = found.agreement["reverse ais"]
    assert abs(math.expm1(reverse.log_z - brute_force(rbm))) < 4 * reverse.stderr
    assert 5e-5 < reverse.stderr < 0.03


@pytest.mark.parametrize("max_side", [0, 25])
def test_draws_of_the_machine_have_its_moments(max_side):
    rbm = asymmetric()
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=5))).double()
    probability = torch.softmax(rbm.log_unnormalized(states), 0)
    pairs = torch.einsum("n,ni,nj->ij", probability, states, states)
    known = boltzmann_draws.enumerated(rbm.machine, max_side)
    schedule = annealing_schedule(rbm.machine, None, num_steps=8, draws=None, seed=0)
    v = boltzmann_draws.tempered_draws(schedule, 4_000, 1) if known is None else known.draws(4_000, 1)
    assert v.shape == (4_000, 5)
    # Tempered draws are five sweeps apart: they are not independent, by a factor below two.
    assert float((v.T @ v / len(v) - pairs).abs().max()) < 4.5 * 0.5 * math.sqrt((1 if max_side else 2) / len(v))


@pytest.mark.parametrize("first", [0, 1])
def test_exchanges_leave_each_temperature_its_distribution(first):
    rbm, betas = asymmetric(), torch.tensor([0.0, 0.4, 1.0]).double()
    path = HarmoniumPath(rbm.machine, torch.full((5,), 1.5).double(), torch.zeros(4).double())
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=5))).double()
    probability = torch.softmax(path.log_f(betas[:, None], path.products(states).expand(3, -1, -1)), 1)
    with isolated(0):
        v = states[torch.multinomial(probability, 40_000, replacement=True)].transpose(0, 1)
        after = boltzmann_draws._exchanged(path, betas, v, first)
    assert float((after.mean(0) - probability @ states).abs().max()) < 4.5 * 0.5 / math.sqrt(40_000)
    assert float((after != v).any(-1).double().mean()) > 0.1
    assert torch.equal(after.sum(1), v.sum(1))


@PUBLISHED
def test_ais_finds_the_published_constants_in_seconds(problem):
    found = log_partition_ais(machine(problem), seed=0)
    assert abs(found.log_z - problem.log_z) < min(0.02, 4.5 * found.stderr)
    assert found.lower < problem.log_z < found.lower + 0.05
    assert (found.upper, found.method) == (math.inf, "ais")
    assert found.info["seconds"] < 10


def test_base_rates_of_the_data_make_a_good_base(digits):
    train, _ = problems.binary_digits()
    found = log_partition_ais(machine(digits), base_bias=log_odds(train), num_chains=4_000, seed=2)
    assert abs(found.log_z - digits.log_z) < 4 * found.stderr
    assert found.stderr < 0.03


def test_log_odds_add_a_row_of_each_value():
    rows = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    assert torch.allclose(log_odds(rows).exp(), torch.tensor([4.0, 2 / 3]).double())


def test_harder_machines_get_more_temperatures():
    easy, hard = (log_partition_ais(ferromagnet(coupling), num_chains=1_000) for coupling in (0.1, 1.2))
    assert hard.info["num_steps"] > 1.5 * easy.info["num_steps"]
    assert hard.info["relative_ess"] > 0.4


# ------------------------------------------------------------------------------------------ both sides


@PUBLISHED
@pytest.mark.parametrize("max_side", [0, 25])
def test_sandwich_covers_the_published_constants(problem, max_side):
    found = log_partition_sandwich(machine(problem), seed=3, max_side=max_side, num_chains=1_000)
    assert found.lower < problem.log_z < found.upper < found.lower + 0.1
    assert abs(found.log_z - problem.log_z) < max(1e-9, 4 * found.stderr)
    exact = ["exact (enumeration)"] if max_side else []
    assert [each.method for each in found.agreement] == ["ais", "reverse ais", *exact]
    assert found.agreement.p_value > 1e-3
    assert ("upper bound holds at finite sample size: the draws are exact" in found.certified) is bool(max_side)
    assert ("as far as the parallel-tempering draws are of the machine" in found.certified) is not bool(max_side)
    assert (found.method, found.level, found.info["failed"]) == ("sandwich (Boltzmann machine)", 0.95, ())


def test_sandwich_of_the_digits_and_their_exact_likelihood(digits):
    train, test = problems.binary_digits()
    rbm = machine(digits)
    exact, bounded = log_partition(rbm), log_partition_sandwich(rbm, visible=train, num_chains=2_000, seed=1)
    assert abs(exact.log_z - digits.log_z) < 1e-6
    assert bounded.lower < exact.log_z < bounded.upper < bounded.lower + 0.5
    assert abs(log_likelihood(rbm, train, exact).log_z / 1500 + 18.7881) < 1e-4
    assert abs(log_likelihood(rbm, test, exact).log_z / 297 + 19.0051) < 1e-4


def test_bounds_miss_no_more_often_than_their_level_says():
    rbm, exact = asymmetric(), brute_force(asymmetric())
    found = [
        log_partition_sandwich(rbm, num_chains=100, num_steps=4, seed=seed, level=0.8, max_side=25 * (seed % 8 > 0))
        for seed in range(24)
    ]
    # More than 9 misses of 24 at a probability of 0.2 each have a probability of 1 %.
    assert sum(not each.lower < exact < each.upper for each in found) <= 9
    narrow, wide = (log_partition_sandwich(rbm, num_chains=200, num_steps=6, level=level) for level in (0.5, 0.99))
    assert wide.lower < narrow.lower < narrow.upper < wide.upper


def test_bennett_ratio_of_known_weights():
    """Normal log weights of variance s² around ±s²/2 are those of an exact pair of ways; log Z is 3 then."""
    noise = torch.Generator().manual_seed(0)
    forward = 3 - 0.5 + torch.randn(20_000, generator=noise, dtype=torch.float64)
    reverse = 3 + 0.5 + torch.randn(5_000, generator=noise, dtype=torch.float64)
    log_z, stderr = boltzmann_sides._bennett(forward, reverse)
    assert abs(log_z - 3) < 4 * stderr
    assert 0.003 < stderr < 0.012


@pytest.mark.parametrize("max_side", [0, 25])
def test_too_few_temperatures_are_refused(max_side):
    with pytest.warns(EvidenceWarning, match="relative ESS.*num_steps"):
        found = log_partition_sandwich(ferromagnet(1.0), num_steps=2, num_chains=1_000, max_side=max_side)
    assert (found.lower, found.upper) == (-math.inf, math.inf)
    assert found.certified == "neither side: a check has failed"
    assert found.info["failed"]
    assert math.isfinite(found.log_z)


def test_draws_of_another_machine_are_refused(monkeypatch):
    """Draws at the first temperature for draws at the last: the weights look well, and what they say is wrong."""
    rbm = asymmetric(2.0)

    def hot(schedule, count, seed):
        with isolated(seed):
            return schedule.path.base(count)

    monkeypatch.setattr(boltzmann_sides, "tempered_draws", hot)
    with pytest.warns(EvidenceWarning) as seen:
        found = log_partition_sandwich(rbm, max_side=0, num_chains=40_000, num_steps=8)
    assert any("estimates disagree" in str(each.message) and "raise num_steps" in str(each.message) for each in seen)
    assert any("bounds cross" in failed for failed in found.info["failed"])
    assert (found.lower, found.upper) == (-math.inf, math.inf)
    assert found.log_z == found.agreement["ais"].log_z


def test_weights_not_to_be_trusted_warn_in_ais_alone():
    with pytest.warns(EvidenceWarning, match="ais: .*num_steps"):
        log_partition_ais(ferromagnet(1.0), num_steps=2, num_chains=1_000)


# ------------------------------------------------------------------------------------------ likelihood


def test_bounds_of_the_likelihood_flip_and_widen():
    rbm = asymmetric()
    rows = torch.tensor([[1, 0, 0, 1, 1], [0, 1, 0, 0, 1], [1, 1, 1, 0, 0]]).double()
    partition = Evidence(9.0, 0.5, lower=8.0, upper=11.0, level=0.9, method="m", certified="yes")
    found = log_likelihood(rbm, rows, partition)
    hidden = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4))).double()
    joint = (rows @ rbm.weight + rbm.hidden_bias) @ hidden.T + (rows @ rbm.visible_bias)[:, None]
    total = float(torch.logsumexp(joint, 1).sum())
    assert abs(found.log_z - (total - 27)) < 1e-12
    assert abs(found.lower - (total - 33)) < 1e-12
    assert abs(found.upper - (total - 24)) < 1e-12
    assert (found.stderr, found.level, found.method) == (1.5, 0.9, "m")
    assert found.certified.endswith("the bounds of log Z, with lower and upper exchanged: yes")
    assert found.given == ("weight", "visible_bias", "hidden_bias")


def test_probabilities_of_all_rows_add_up_to_one():
    rbm = asymmetric()
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=5))).double()
    partition = log_partition(rbm)
    total = math.fsum(math.exp(log_likelihood(rbm, row[None], partition).log_z) for row in states)
    assert abs(total - 1) < 1e-12


def test_forward_annealing_bounds_the_likelihood_from_above_alone():
    found = log_likelihood(asymmetric(), torch.ones(2, 5), log_partition_ais(asymmetric(), num_chains=500, num_steps=8))
    assert found.lower == -math.inf
    assert math.isfinite(found.upper)


def test_likelihood_refuses_what_does_not_belong_together():
    rbm, exact = asymmetric(), log_partition(asymmetric())
    with pytest.raises(ValueError, match="another's"):
        log_likelihood(asymmetric(0.5), torch.ones(2, 5), exact)
    with pytest.raises(ValueError, match="rows of 5 visible units, got 4"):
        log_likelihood(rbm, torch.ones(2, 4), exact)
    for rows in (torch.full((2, 5), 0.5), torch.full((2, 5), math.nan), torch.ones(0, 5)):
        with pytest.raises(ValueError, match="of 0 and 1"):
            log_likelihood(rbm, rows, exact)


# ------------------------------------------------------------------------------------------ input


def test_machines_that_do_not_fit_together_are_refused():
    for weight, b, c in (((4, 5), 5, 4), ((5, 4), 4, 4), ((5, 4), 5, 5), ((0, 4), 0, 4), ((5, 0), 5, 0)):
        with pytest.raises(ValueError, match=r"expected weight.*got.*transpose"):
            BinaryRBM(torch.zeros(*weight), torch.zeros(b), torch.zeros(c))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"finite.*hidden_bias.*1 not finite"):
            BinaryRBM(torch.zeros(2, 1), torch.zeros(2), torch.tensor([bad]))


def test_settings_out_of_range_are_refused():
    rbm = asymmetric()
    for settings in ({"num_chains": 1}, {"num_steps": 0}, {"level": 1.0}, {"level": 0.0}):
        for function in (log_partition_ais, log_partition_sandwich):
            with pytest.raises(ValueError, match=r"num_chains|num_steps|level"):
                function(rbm, **settings)
    with pytest.raises(ValueError, match="max_side between 0 and 25, got 26"):
        log_partition_sandwich(rbm, max_side=26)
    with pytest.raises(ValueError, match="base biases of shape"):
        log_partition_ais(rbm, base_bias=torch.zeros(4))
    with pytest.raises(ValueError, match="base biases of shape"):
        log_partition_sandwich(rbm, visible=torch.ones(3, 4))
    with pytest.raises(ValueError, match="of 0 and 1"):
        log_partition_sandwich(rbm, visible=torch.full((3, 5), 2.0))


def test_single_precision_is_computed_in_double():
    rbm = asymmetric()
    single = BinaryRBM(rbm.weight.float(), rbm.visible_bias.float(), rbm.hidden_bias.float())
    exact = log_partition(single).log_z
    assert abs(exact - brute_force(single)) < 1e-12
    found = log_partition_sandwich(single, num_chains=1_000, num_steps=20, visible=torch.eye(5))
    assert found.lower < exact < found.upper
    assert log_likelihood(single, torch.eye(5), found).upper < 0


def test_learnable_parameters_need_no_detaching():
    rbm = asymmetric()
    learnt = BinaryRBM(*(torch.nn.Parameter(each) for each in (rbm.weight, rbm.visible_bias, rbm.hidden_bias)))
    assert log_partition(learnt).log_z == log_partition(rbm).log_z
    assert (
        log_partition_ais(learnt, num_chains=50, num_steps=2).log_z
        == log_partition_ais(rbm, num_chains=50, num_steps=2).log_z
    )


def test_a_seed_gives_one_answer_whatever_was_drawn_before():
    rbm = asymmetric()
    settings = {"num_chains": 200, "num_steps": 8}
    for function, extra in ((log_partition_ais, {}), (log_partition_sandwich, {"max_side": 0})):
        first = function(rbm, seed=5, **settings, **extra)
        with torch.random.fork_rng():
            torch.manual_seed(99)
            before = torch.get_rng_state()
            again = function(rbm, seed=5, **settings, **extra)
            assert torch.equal(torch.get_rng_state(), before)
        assert (first.log_z, first.lower) == (again.log_z, again.lower)
        assert function(rbm, seed=6, **settings, **extra).log_z != first.log_z
