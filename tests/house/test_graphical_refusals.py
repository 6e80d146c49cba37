"""Graphical models: input that would give a silently wrong number is refused, edge cases have their limits."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import probmodel as pb
from probmodel.families import bayesian_networks as bn
from probmodel.families.bayesian_networks.edge_calibration import SimulatedNetworks
from probmodel.families.bayesian_networks.kinetics import LinearKinetics, SteadyStates, Trajectories
from probmodel.families.bayesian_networks.scores.gaussian_scores import gaussian_bic
from probmodel.families.boltzmann_machines.coupled import CoupledMachine
from probmodel.families.boltzmann_machines.discrete_units import CategoricalUnits
from probmodel.families.boltzmann_machines.learning.monitor import Monitor
from probmodel.families.boltzmann_machines.real_units import GaussianUnits
from probmodel.protocols.errors import MixingWarning


def rows(count: int = 60, columns: int = 3, seed: int = 0) -> bn.CategoricalData:
    rng = np.random.default_rng(seed)
    return bn.CategoricalData({f"x{i}": ("0", "1") for i in range(columns)}, rng.integers(2, size=(count, columns)))


# ------------------------------------------------------------------------------------------ evidences


def test_evidences_of_different_interventions_are_of_different_data() -> None:
    data = rows(40)
    told = ["x0"] * 10 + [None] * 30
    plain, first = (
        pb.evidence.structures(data, bn.posterior_over_dags),
        pb.evidence.structures(data, bn.posterior_over_dags, None, told),
    )
    other = pb.evidence.structures(data, bn.posterior_over_dags, None, ["x1"] * 10 + [None] * 30)
    assert len({plain.digest, first.digest, other.digest}) == 3
    assert pb.evidence.structures(data, bn.posterior_over_dags, None, [None] * 40).digest == plain.digest

    network = pb.bn.CategoricalNetwork(bn.DAG.from_string("[x0][x1|x0][x2]"), dict.fromkeys(data.names, 2))
    mask = torch.zeros(40, 3, dtype=torch.bool)
    mask[:10, 0] = True
    x = torch.as_tensor(data.codes)
    fits = {
        "told": pb.Exact()(network, pb.Dataset((x, mask), {}, 40), seed=0),
        "not": pb.Exact()(network, pb.Dataset((x,), {}, 40), seed=0),
    }
    assert pb.evidence.exact(fits["told"]).digest == first.digest
    assert pb.evidence.exact(fits["not"]).digest == plain.digest
    with pytest.raises(ValueError, match="evidences of the same observations"):
        pb.compare(fits)


def test_families_without_a_score_leave_the_other_graphs_to_be_summed() -> None:
    families = bn.family_scores(rows(), bn.BDeu(1.0))
    families[1, 0] = -np.inf  # x1 has a parent.
    found = bn.posterior_over_dags(families)
    assert found.edges[0, 1] + found.edges[2, 1] >= 1 - 1e-12
    by_hand = [
        families[0, a] + families[1, b] + families[2, c]
        for a in (0, 2, 4, 6)
        for b in (0, 1, 4, 5)
        for c in (0, 1, 2, 3)
        if _acyclic(a, b, c) and b
    ]
    assert found.log_evidence == pytest.approx(np.logaddexp.reduce(by_hand) - math.log(len(by_hand)), abs=1e-9)
    families[2, 0] = families[0, 0] = -np.inf
    for prior in (bn.posterior_over_dags, bn.posterior_over_orders):
        with pytest.raises(ValueError, match="expected a graph of finite score"):
            prior(families)


def _acyclic(*masks: int) -> bool:
    left = {0, 1, 2}
    while left:
        free = {i for i in left if not any(masks[i] >> j & 1 for j in left)}
        if not free:
            return False
        left -= free
    return True


@pytest.mark.parametrize("size", [-1.0, 0.0, math.inf, math.nan])
def test_priors_that_count_for_no_rows_are_refused(size: float) -> None:
    for make in (bn.BDeu, bn.BDs, bn.BGe, lambda value: bn.BGe(extra_rows=1 + value)):
        with pytest.raises(ValueError, match="finite number above"):
            make(size)
    with pytest.raises(ValueError, match="sample_size"):
        pb.bn.CategoricalNetwork(bn.DAG.from_string("[a]"), {"a": 2}, size)


@pytest.mark.parametrize("most", [-1, True])
def test_limits_of_parents_are_whole_numbers(most: int) -> None:
    with pytest.raises(ValueError, match="max_parents"):
        bn.family_scores(rows(), bn.BDeu(1.0), (), most)
    with pytest.raises(ValueError, match="max_parents"):
        bn.OrderSearch(max_parents=most)(bn.categorical_families(rows(), bn.BDeu(1.0)), seed=0)


def test_no_parents_at_most_is_the_empty_graph() -> None:
    found = bn.OrderSearch(max_parents=0)(bn.categorical_families(rows(), bn.BDeu(1.0)), seed=0)
    assert found.dag == bn.DAG.from_string("[x0][x1][x2]")
    best = bn.best_dag(bn.family_scores(rows(), bn.BDeu(1.0), (), 0), rows().names)
    assert best.score == pytest.approx(found.score, abs=1e-9)


def test_a_criterion_of_no_rows_is_zero_for_all_families() -> None:
    families = bn.family_scores(rows(0), bn.bic)
    assert np.abs(families[np.isfinite(families)]).max() < 1e-12
    assert not np.isnan(families).any()


def test_regressions_without_a_maximum_are_refused() -> None:
    x = np.random.default_rng(0).normal(size=(30, 2))
    given = bn.moments(np.column_stack([x, x.sum(1), np.ones(30)]))
    for child, parents in ((2, [0, 1]), (3, [])):
        with pytest.raises(ValueError, match="no maximum"):
            gaussian_bic(given, child, parents)
    with pytest.raises(ValueError, match="more rows than"):
        gaussian_bic(bn.moments(x[:3]), 0, [1, 1])
    shifted = (x + 1e6).astype(np.float32)
    assert bn.moments(shifted).scatter == pytest.approx(bn.moments(shifted.astype(float)).scatter)


# ------------------------------------------------------------------------------------------ rows and graphs


def test_frames_that_would_be_misread_are_refused() -> None:
    frame = pd.DataFrame({"a": [0.0, 1.0, 1.0], "b": ["x", "y", "x"]})
    assert bn.CategoricalData.of(frame).levels["a"] == ("0", "1")
    with pytest.raises(ValueError, match="levels of the columns"):
        bn.CategoricalData.of(frame, {"A": ("0", "1", "2")})
    more = {"a": ("0", "1"), "b": ("x", "y"), "c": ("0", "1")}
    assert bn.CategoricalData.of(frame, more).levels == {"a": ("0", "1"), "b": ("x", "y")}
    with pytest.raises(ValueError, match="different levels"):
        bn.CategoricalData.of(frame, {"b": ("x", "y", "x")})
    with pytest.raises(ValueError, match="different names"):
        bn.CategoricalData.of(frame.set_axis(["a", "a"], axis=1))
    with pytest.raises(ValueError, match="different names"):
        bn.CategoricalData.of(frame.set_axis(["1", 1], axis=1))


@pytest.mark.parametrize("codes", [np.array([[0, 2]]), np.array([[0, -2]]), np.array([[0]]), np.array([[0.0, 1.0]])])
def test_codes_out_of_range_are_refused(codes: np.ndarray) -> None:
    bad = bn.CategoricalData({"a": ("0", "1"), "b": ("0", "1")}, codes)
    network = bn.DiscreteNetwork(bn.DAG.from_string("[a][b]"), bad.levels, {"a": np.full(2, 0.5), "b": np.full(2, 0.5)})
    for read in (lambda: bn.family_scores(bad, bn.BDeu(1.0)), lambda: bn.log_prob(network, bad)):
        with pytest.raises(ValueError, match="expected codes"):
            read()


def test_graphs_are_equal_by_nodes_and_edges_and_names_occur_once() -> None:
    one, other = bn.DAG({"a": (), "b": (), "c": ("a", "b")}), bn.DAG({"b": (), "a": (), "c": ("b", "a")})
    assert one == other
    assert len({one, other}) == 1
    assert one != bn.DAG.from_string("[a][b|a][c|a]")
    for make in (
        lambda: bn.DAG.from_string("[A][B][A|B]"),
        lambda: bn.DAG.from_edges(["A", "B", "A"], [("A", "B")]),
        lambda: bn.best_dag(bn.family_scores(rows(), bn.BDeu(1.0)), ["a", "a", "b"]),
    ):
        with pytest.raises(ValueError, match="different names"):
            make()


def test_blocks_and_lines_of_a_file_occur_once(tmp_path: object) -> None:
    path = f"{tmp_path}/a.bif"
    text = (
        "network n {\n}\nvariable a {\n type discrete [ 2 ] { x, y };;\n}\nprobability ( a ) {\n table 0.25, 0.75;\n}\n"
    )
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    assert bn.read_bif(path).tables["a"].tolist() == [0.25, 0.75]
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "probability ( a ) {\n table 0.5, 0.5;\n}\n")
    with pytest.raises(ValueError, match="one probability block"):
        bn.read_bif(path)


def test_one_chain_alone_is_said_to_be_one() -> None:
    candidates = bn.all_candidates(bn.family_scores(rows(), bn.BDeu(1.0)))
    with pytest.warns(MixingWarning, match="one chain"):
        bn.OrderMCMC(num_samples=20, num_chains=1)(candidates, seed=0)
    single = bn.all_candidates(bn.family_scores(rows(columns=1), bn.BDeu(1.0)))
    assert bn.OrderMCMC(num_samples=5)(single, seed=0).edges.tolist() == [[0.0]]


def test_complete_rows_end_expectation_maximization_at_once() -> None:
    fit = bn.EM(tolerance=0.0)(bn.DAG.from_string("[x0][x1|x0][x2]"), rows(), seed=0)
    assert len(fit.log_posteriors) <= 4


@pytest.mark.parametrize(
    "settings", [{"num_regulators": 2.0}, {"num_regulators": 0.0}, {"input_fraction": 1.0}, {"max_terms": -1}]
)
def test_priors_of_regulators_lie_inside_their_ranges(settings: dict[str, float]) -> None:
    rng = np.random.default_rng(0)
    given = Trajectories(rng.normal(size=(2, 6, 3)), np.zeros((2, 6), dtype=bool)), SteadyStates(np.zeros((0, 3)), ())
    assert np.isfinite(LinearKinetics()(*given).edges).all()
    with pytest.raises(ValueError, match="expected"):
        LinearKinetics(**settings)(*given)


def test_calibration_is_refused_before_the_work_is_done() -> None:
    for settings, call in (({"num_networks": 1}, {}), ({}, {"num_bins": 0}), ({"sample_size": -1.0}, {})):
        with pytest.raises(ValueError, match="expected"):
            SimulatedNetworks(**settings)(seed=0, **call)


# ------------------------------------------------------------------------------------------ Boltzmann machines


def test_couplings_of_one_triangle_are_refused() -> None:
    j, none = torch.triu(torch.ones(4, 4, dtype=torch.float64), 1), torch.zeros(4, 0, dtype=torch.float64)
    bias, empty = torch.zeros(4, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"J \+ J.T"):
        pb.evidence.log_partition(CoupledMachine(j, none, bias, empty))
    with pytest.raises(ValueError, match="zero diagonal"):
        pb.evidence.log_partition(CoupledMachine(torch.eye(4, dtype=torch.float64), none, bias, empty))
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 4)
    exact = float(torch.logsumexp(((states @ j) * states).sum(1), 0))
    assert abs(pb.evidence.log_partition(CoupledMachine(j + j.T, none, bias, empty)).log_z - exact) < 1e-10


def test_couplings_are_counted_once_a_pair() -> None:
    edges = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    with pb.isolated(seed=0):
        machine, every = pb.boltzmann.BoltzmannMachine(3, edges=edges.bool()), pb.boltzmann.BoltzmannMachine(4)
    assert sum(each.numel() for each in machine.parameters()) == 5
    assert sum(each.numel() for each in every.parameters()) == 10
    assert torch.equal(machine.couplings != 0, edges.bool())


def test_units_of_another_width_are_refused() -> None:
    for units in (CategoricalUnits([2, 3]), GaussianUnits(4)):
        with pytest.raises(ValueError, match="expected visible units of 6 columns"):
            pb.RBM(6, 2, units=units)
    with pytest.raises(ValueError, match="cardinality"):
        CategoricalUnits([2, 1])


def test_frozen_biases_stay_and_the_others_learn() -> None:
    with pb.isolated(seed=0):
        rbm, x = pb.RBM(4, 2), (torch.rand(100, 4) < 0.7).float()
    rbm.hidden_bias.requires_grad_(False)
    settings = pb.BoltzmannLearning(
        pb.boltzmann.Persistent(50), pb.boltzmann.GradientAscent(200), monitor=None, progress=False
    )
    fitted = settings(rbm, pb.Dataset((x,), {}, 100), seed=0).model
    assert bool((fitted.hidden_bias == 0).all())
    assert bool((fitted.visible_bias != rbm.visible_bias).all())


def test_noise_where_nothing_can_be_gained_is_no_divergence() -> None:
    assert not Monitor().has_diverged([-10.7500, -10.7504, -10.7503])
    assert Monitor().has_diverged([-10.75, -10.85, -10.84])
    with pytest.raises(ValueError, match="least"):
        Monitor(least=-1.0)


def test_networks_with_discrete_parents_are_traced() -> None:
    with pb.isolated(seed=0):
        z = (torch.rand(40) < 0.5).double()
        x = torch.stack([z, 2 * z + torch.randn(40)], 1)
        network = pb.bn.NonlinearNetwork(bn.DAG.from_string("[z][y|z]"), {"z": 2}).double()
    goal = pb.target(network, pb.Dataset((x,), {}, 40))
    assert not goal.fallback
    assert bool(torch.isfinite(goal.log_joint(goal.sample_prior(3, seed=0))).all())


def test_pictures_of_what_are_no_probabilities_are_refused() -> None:
    edges = np.array([[0.0, 0.5], [np.nan, 0.0]])
    with pytest.raises(ValueError, match="between 0 and 1"):
        bn.plot(edges, ["a", "b"])
    with pytest.raises(ValueError, match="one row and column per name"):
        bn.plot(np.zeros((3, 3)), ["a", "b"])
    with pytest.raises(ValueError, match="different names"):
        bn.plot(np.zeros((2, 2)), ["a", "a"])


def test_the_evidence_of_tables_with_empty_cells_lies_between_its_bounds() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(400) < 0.05, rng.random(400) < 0.1
    x = torch.as_tensor(np.stack([a, b, a | b], 1).astype(int))
    network = pb.bn.CategoricalNetwork(bn.DAG.from_string("[a][b][c|a:b]"), {"a": 2, "b": 2, "c": 2})
    fit = pb.Exact()(network, pb.Dataset((x,), {}, 400), seed=0)
    assert fit.draws["c.probabilities"].dtype == torch.float64
    exact, found = pb.evidence.exact(fit).log_z, pb.evidence.bridge(fit)
    assert abs(found.log_z - exact) < 4 * found.stderr + 0.02


def test_columns_in_another_order_keep_their_names() -> None:
    data = rows(5)
    turned = data.ordered(("x2", "x0", "x1"))
    assert turned.names == ("x2", "x0", "x1")
    assert turned.codes.tolist() == data.codes[:, [2, 0, 1]].tolist()
    with pytest.raises(ValueError, match="one of the variables"):
        data.ordered(("x0", "y"))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((3, 4)), r"expected scores of shape \(n, 2ⁿ\).+ got \(3, 4\)"),
        (np.zeros((0, 3)), r"expected scores of shape \(n, 2ⁿ\).+ got \(0, 3\)"),
        (np.full((2, 4), math.nan), "expected scores that are numbers, got NaN"),
    ],
)
@pytest.mark.parametrize("function", [pb.bn.posterior_over_dags, pb.bn.posterior_over_orders, pb.bn.all_candidates])
def test_scores_of_families_are_a_full_table_of_numbers(function, scores, message):
    with pytest.raises(ValueError, match=message):
        function(scores)


def test_levels_of_a_variable_are_different():
    codes = np.zeros((4, 1), dtype=int)
    with pytest.raises(ValueError, match=r"expected different values of 'u', got \['p', 'p'\]"):
        pb.bn.score(pb.bn.DAG({"u": ()}), pb.bn.CategoricalData({"u": ("p", "p")}, codes), pb.bn.bic)
    with pytest.raises(TypeError, match="expected levels as a dict from names to values, got None"):
        pb.bn.score(pb.bn.DAG({"u": ()}), pb.bn.CategoricalData(None, codes), pb.bn.bic)


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        (["u", "u"], ValueError, r"expected different names, got \['u'\]"),
        (["class", "u"], ValueError, r"expected different names, got \['class'\]"),
        ("ab", TypeError, "expected codes as a list of names, got the text 'ab'"),
    ],
)
def test_names_of_a_class_structure_are_a_list_of_different_names(codes, error, message):
    with pytest.raises(error, match=message):
        pb.bn.naive_bayes(codes)
