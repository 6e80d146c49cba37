"""Scores, optimal graphs and posterior edges of Bayesian networks against published values and sums over all graphs."""

import math
import os
from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logsumexp

import probmodel as pb
from probmodel.data.locate import VARIABLE, locate
from probmodel.families.bayesian_networks.categorical_data import CategoricalData
from probmodel.families.bayesian_networks.dag import DAG, class_hamming_distance, structural_hamming_distance
from probmodel.families.bayesian_networks.scores.all_families import family_scores, gaussian_family_scores
from probmodel.families.bayesian_networks.scores.categorical_scores import (
    BDeu,
    BDs,
    aic,
    bic,
    k2,
    log_likelihood,
    score,
)
from probmodel.families.bayesian_networks.scores.gaussian_scores import BGe, gaussian_bic, gaussian_score, moments
from probmodel.families.bayesian_networks.structure.candidates import all_candidates
from probmodel.families.bayesian_networks.structure.exact_posterior import posterior_over_dags, posterior_over_orders
from probmodel.families.bayesian_networks.structure.exact_search import best_dag
from probmodel.families.bayesian_networks.structure.order_mcmc import OrderMCMC
from probmodel.layers.representations.bayesian_network import CategoricalNetwork, LinearGaussianNetwork
from probmodel.protocols.errors import MixingWarning

NEEDS_DATA = pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} is not set")
TRUE_ASIA = "[A][S][T|A][L|S][B|S][E|T:L][X|E][D|B:E]"
FOUR = "abcd"


def table(name: str) -> pd.DataFrame:
    return pd.read_csv(locate(f"bayesnets/{name}.csv.gz"), dtype=str, keep_default_na=False)


def mixed(rows: int = 60, sizes: tuple[int, ...] = (2, 3, 2, 4)) -> CategoricalData:
    """CategoricalData that depend on each other."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(rows, 1))
    values = common + rng.normal(size=(rows, len(sizes)))
    frame = pd.DataFrame({n: pd.qcut(v, size).codes for n, v, size in zip(FOUR, values.T, sizes, strict=False)})
    return CategoricalData.of(frame)


# ------------------------------------------------------------------------------------------ graphs


def test_a_graph_is_written_as_it_is_read():
    assert str(DAG.from_string(TRUE_ASIA)) == "[A][S][T|A][L|S][B|S][E|L:T][X|E][D|B:E]"
    order = DAG.from_string("[C|A:B][A|B][B]").order
    assert order.index("B") < order.index("A") < order.index("C")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[A|B][B|C][C|A]", "expected no cycle"),
        ("[A|Z]", r"got \['Z'\] of 'A'"),
        ("[A][B|A:A]", "each parent once"),
        ("A,B", r"expected nodes as in"),
    ],
)
def test_what_is_no_acyclic_graph_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        DAG.from_string(text)


def test_colliders_are_compelled_and_chains_are_not():
    assert DAG.from_string("[A][B|A][C|B]").compelled == frozenset()
    assert DAG.from_string("[A][B][C|A:B]").compelled == {("A", "C"), ("B", "C")}
    # What comes after a collider follows from it, and a chord that would close a cycle.
    assert DAG.from_string("[A][B][C|A:B][D|C]").compelled == {("A", "C"), ("B", "C"), ("C", "D")}


def test_distances_count_missing_added_and_reversed_edges():
    a, b = DAG.from_string("[A][B|A][C|B][D]"), DAG.from_string("[B][A|B][C][D|C]")
    assert structural_hamming_distance(a, b) == structural_hamming_distance(b, a) == 3
    assert class_hamming_distance(DAG.from_string("[A][B|A][C|B]"), DAG.from_string("[C][B|C][A|B]")) == 0
    assert class_hamming_distance(DAG.from_string("[A][B|A][C|B]"), DAG.from_string("[A][C][B|A:C]")) == 2
    with pytest.raises(ValueError, match="in one of them only"):
        structural_hamming_distance(a, DAG.from_string("[A]"))


# ------------------------------------------------------------------------------------------ scores


@NEEDS_DATA
@pytest.mark.parametrize(
    ("file", "graph", "term", "expected"),
    [
        ("bnlearn_learning.test", "[A][C][F][B|A][D|A:C][E|B:F]", log_likelihood, -23832.1318),
        ("bnlearn_learning.test", "[A][C][F][B|A][D|A:C][E|B:F]", bic, -24006.7342),
        ("bnlearn_learning.test", "[A][C][F][B|A][D|A:C][E|B:F]", BDeu(1.0), -24028.0948),
        ("bnlearn_learning.test", "[A][C][F][B|A][D|A:C][E|B:F]", BDeu(10.0), -23967.6496),
        ("bnlearn_learning.test", "[A][C][F][B|A][D|A:C][E|B:F]", k2, -23958.6953),
        ("bnlearn_asia", TRUE_ASIA, BDeu(1.0), -11095.8242),
        ("bnlearn_asia", TRUE_ASIA, BDeu(10.0), -11142.0144),
        ("bnlearn_asia", TRUE_ASIA, k2, -11110.1517),
        ("bnlearn_asia", TRUE_ASIA, bic, -11109.7419),
    ],
)
def test_scores_are_the_published_ones(file, graph, term, expected):
    assert abs(score(DAG.from_string(graph), CategoricalData.of(table(file)), term) - expected) < 1e-4


@NEEDS_DATA
def test_gaussian_scores_are_the_published_ones():
    frame = table("bnlearn_gaussian.test").astype(float)
    found, names = moments(frame.to_numpy()), list(frame)
    graph = DAG.from_string("[A][B][E][G][C|A:B][D|B][F|A:D:E:G]")
    assert abs(gaussian_score(graph, names, found, BGe()) + 53258.9416) < 1e-4
    assert abs(gaussian_score(DAG(dict.fromkeys(names, ())), names, found, BGe()) + 88130.9901) < 1e-4


def test_three_rows_score_as_published():
    data = CategoricalData.of(pd.DataFrame({"A": [0, 0, 1], "B": [0, 1, 1], "C": [1, 0, 0], "D": ["X", "Y", "Z"]}))
    for graph, expected in (("[A][D][B|D][C|A:B]", -9.907103407446435), ("[C][A|C][B|C][D|A]", -9.839964104608821)):
        assert abs(score(DAG.from_string(graph), data, BDeu(10.0)) - expected) < 1e-12


@pytest.mark.parametrize("term", [log_likelihood, aic, bic, BDeu(1.0), BDeu(7.5)])
def test_equivalent_graphs_score_alike(term):
    data = mixed()
    alike = ["[a][b|a][c|b][d|c]", "[d][c|d][b|c][a|b]", "[b][a|b][c|b][d|c]"]
    values = [score(DAG.from_string(graph), data, term) for graph in alike]
    assert max(values) - min(values) < 1e-8
    assert abs(score(DAG.from_string("[a][c][b|a:c][d|c]"), data, term) - values[0]) > 1e-3


def test_equivalent_gaussian_graphs_score_alike():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 3))
    for term in (BGe(), BGe(0.3, 4.5), gaussian_bic):
        values = [
            gaussian_score(DAG.from_string(g), "abc", moments(x), term)
            for g in ("[a][b|a][c|b]", "[c][b|c][a|b]", "[b][a|b][c|b]")
        ]
        assert max(values) - min(values) < 1e-8


def test_dirichlet_scores_are_urns():
    """Evidence as a product of predictions: each row given the ones before."""
    data = mixed(30, (2, 3))
    alpha, seen = 2.0 / 6, np.full((2, 3), 2.0 / 6)
    total = 0.0
    for a, b in data.codes:
        total += math.log(seen[a, b] / seen[a].sum())
        seen[a, b] += 1
    first = score(DAG.from_string("[a]"), CategoricalData({"a": data.levels["a"]}, data.codes[:, :1]), BDeu(2.0))
    assert abs(score(DAG.from_string("[a][b|a]"), data, BDeu(2.0)) - first - total) < 1e-10
    assert alpha < 1


def test_a_variable_set_from_outside_says_nothing_of_its_own_family():
    data = mixed()
    intervened = ["b" if row % 3 == 0 else None for row in range(len(data.codes))]
    graph = DAG.from_string("[a][b|a][c|b][d]")

    def family_of_b(rows: slice | np.ndarray) -> float:
        both, first = ({name: data.levels[name] for name in names} for names in ("ab", "a"))
        joint = score(DAG.from_string("[a][b|a]"), CategoricalData(both, data.codes[rows, :2]), BDeu(1.0))
        return joint - score(DAG.from_string("[a]"), CategoricalData(first, data.codes[rows, :1]), BDeu(1.0))

    free = np.flatnonzero([name is None for name in intervened])
    lost = family_of_b(free) - family_of_b(slice(None))
    assert abs(score(graph, data, BDeu(1.0), intervened) - score(graph, data, BDeu(1.0)) - lost) < 1e-9
    assert abs(lost) > 1
    with pytest.raises(ValueError, match="interventions on"):
        score(graph, data, BDeu(1.0), ["z"] * len(data.codes))


# ------------------------------------------------------------------------------------------ all graphs


@pytest.mark.parametrize("term", [log_likelihood, bic, BDeu(3.0), k2, BDs(2.0), aic])
def test_family_scores_are_those_of_graphs(term):
    data = mixed()
    families = family_scores(data, term)
    for graph in ("[a][b|a][c|a:b][d|a:b:c]", "[d][c|d][a|d][b|a:c]"):
        dag = DAG.from_string(graph)
        masks = [sum(1 << FOUR.index(parent) for parent in dag.parents[node]) for node in FOUR]
        assert abs(sum(families[i, mask] for i, mask in enumerate(masks)) - score(dag, data, term)) < 1e-9
    assert np.isneginf(families[0, 1]) and np.isneginf(family_scores(data, term, max_parents=1)[0, 0b0110])


@pytest.mark.parametrize("term", [BGe(), gaussian_bic])
def test_gaussian_family_scores_are_those_of_graphs(term):
    x = np.random.default_rng(2).normal(size=(40, 4)) @ np.random.default_rng(3).normal(size=(4, 4))
    families = gaussian_family_scores(moments(x), term)
    dag = DAG.from_string("[a][b|a][c|a:b][d|a:b:c]")
    found = sum(families[i, mask] for i, mask in enumerate((0, 0b1, 0b11, 0b111)))
    assert abs(found - gaussian_score(dag, FOUR, moments(x), term)) < 1e-8
    assert np.allclose(gaussian_family_scores([moments(x)] * 4, term), families, atol=1e-8)


def all_graphs(n: int) -> list[tuple[tuple[int, ...], int]]:
    """(mask of each node's parents, how many orders the graph admits)."""
    before = [[sum(1 << earlier for earlier in order[:i]) for i in range(n)] for order in permutations(range(n))]
    orders = list(permutations(range(n)))
    found = []
    for masks in product(*[[mask for mask in range(2**n) if not mask >> child & 1] for child in range(n)]):
        admitted = sum(
            all(masks[child] & ~seen == 0 for child, seen in zip(order, sets, strict=True))
            for order, sets in zip(orders, before, strict=True)
        )
        if admitted:
            found.append((masks, admitted))
    return found


@pytest.mark.parametrize("max_parents", [None, 2])
def test_optimum_evidence_and_edges_are_those_of_all_543_graphs(max_parents):
    families = family_scores(mixed(25), BDeu(1.0), max_parents=max_parents)
    graphs = [each for each in all_graphs(4) if all(np.isfinite(families[i, mask]) for i, mask in enumerate(each[0]))]
    assert len(graphs) == 543 or max_parents
    scores = np.array([sum(families[i, mask] for i, mask in enumerate(masks)) for masks, _ in graphs])
    edges = np.array([[[mask >> i & 1 for mask in masks] for i in range(4)] for masks, _ in graphs], dtype=float)
    best = best_dag(families, FOUR)
    assert abs(best.score - scores.max()) < 1e-10
    admitted = np.array([count for _, count in graphs], dtype=float)
    for prior, found in (
        (np.ones(len(graphs)), posterior_over_dags(families)),
        (admitted, posterior_over_orders(families)),
    ):
        log_weight = scores + np.log(prior / prior.sum())
        assert abs(found.log_evidence - logsumexp(log_weight)) < 1e-10
        expected = np.einsum("g,gij->ij", np.exp(log_weight - logsumexp(log_weight)), edges)
        assert np.abs(found.edges - expected).max() < 1e-12


def test_chains_over_orders_agree_with_the_sum_over_them():
    families = family_scores(mixed(25), BDeu(1.0), max_parents=2)
    exact = posterior_over_orders(families).edges
    found = OrderMCMC(num_samples=400, num_warmup=50, thinning=10)(all_candidates(families), seed=0)
    error = found.by_chain.std(0, ddof=1) / 2
    assert (np.abs(found.edges - exact) < 4 * error + 0.01).all()
    assert np.abs(found.edges - exact).max() < 0.02


def test_chains_that_disagree_say_so():
    families = family_scores(mixed(60), BDeu(1.0))
    with pytest.warns(MixingWarning, match="differ by up to"):
        OrderMCMC(num_samples=1, num_warmup=0, thinning=1, num_chains=20)(all_candidates(families), seed=0)


def test_the_order_of_variables_does_not_matter():
    data = mixed(40)
    turned = CategoricalData(dict(reversed(data.levels.items())), data.codes[:, ::-1])
    a, b = (family_scores(each, BDeu(1.0)) for each in (data, turned))
    assert abs(best_dag(a, FOUR).score - best_dag(b, FOUR[::-1]).score) < 1e-9
    for summed in (posterior_over_orders, posterior_over_dags):
        assert np.abs(summed(a).edges - summed(b).edges[::-1, ::-1]).max() < 1e-10


@NEEDS_DATA
@pytest.mark.parametrize(
    ("term", "expected"), [(bic, -11107.2933), (BDeu(1.0), -11095.7885), (BDeu(10.0), -11132.1466)]
)
def test_the_optimum_of_asia_is_the_published_one(term, expected):
    data = CategoricalData.of(table("bnlearn_asia"))
    best = best_dag(family_scores(data, term), data.names)
    assert abs(best.score - expected) < 1e-4
    assert abs(score(best.dag, data, term) - best.score) < 1e-8
    assert len(best.dag.edges) == (13 if term == BDeu(10.0) else 7)


@NEEDS_DATA
def test_protein_signaling_is_found_up_to_sixteen_edges():
    with np.load(locate("bayesnets/sachs_853_continuous.npz")) as file:
        x, truth, names = file["X"], file["DAG"], [str(name) for name in file["header"]]
    best = best_dag(gaussian_family_scores(moments(x), BGe()), names)
    graph = DAG.from_edges(names, [(names[i], names[j]) for i, j in zip(*np.nonzero(truth), strict=True)])
    assert structural_hamming_distance(best.dag, graph) <= 16


# ------------------------------------------------------------------------------------------ bad input


def test_bad_input_is_named():
    frame = pd.DataFrame({"a": ["x", "y"], "b": ["u", "u"]})
    for bad, message in (
        (frame, "two values of 'b'"),
        (frame.assign(b=["u", None]), r"missing values, got some in \['b'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            CategoricalData.of(bad)
    with pytest.raises(ValueError, match=r"got \['y'\]; add them"):
        CategoricalData.of(frame, {"a": ["x", "z"], "b": ["u", "v"]})
    with pytest.raises(ValueError, match="finite"):
        moments(np.array([[1.0, np.nan], [0.0, 1.0]]))
    with pytest.raises(MemoryError, match="families of 40 variables"):
        gaussian_family_scores(moments(np.random.default_rng(0).normal(size=(50, 40))), BGe())
    with pytest.raises(ValueError, match="at most 14"):
        posterior_over_dags(np.zeros((15, 2**15)))


# ------------------------------------------------------------------------------------------ networks as models


def test_the_evidence_of_a_categorical_network_is_its_score():
    data = mixed(40, (2, 3, 2))
    dag = DAG.from_string("[a][b|a][c|a:b]")
    network = CategoricalNetwork(dag, dict(zip(data.names, data.cardinalities, strict=True)), 10.0)
    target = pb.target(network, pb.Dataset((torch.as_tensor(data.codes),), {}, len(data.codes)))
    found = pb.evidence.smc(target, seed=0)
    assert abs(found.log_z - score(dag, data, BDeu(10.0))) < 4 * found.stderr < 0.4


def test_the_evidence_of_a_linear_gaussian_network_is_its_score():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 3)) + 2.0
    prior = BGe(0.7, 3.5)
    for text in ("[a][b|a][c|a:b]", "[c][a][b]"):
        dag = DAG.from_string(text)
        columns = torch.as_tensor(x)[:, ["abc".index(node) for node in dag.nodes]]
        network = LinearGaussianNetwork(dag, columns.mean(0), prior)
        found = pb.evidence.smc(pb.target(network, pb.Dataset((columns,), {}, len(x))), seed=0)
        assert abs(found.log_z - gaussian_score(dag, "abc", moments(x), prior)) < 4 * found.stderr < 0.8


def test_a_network_of_other_variables_is_refused():
    dag = DAG.from_string("[a][b|a]")
    with pytest.raises(ValueError, match=r"cardinalities of \['a', 'b'\]"):
        CategoricalNetwork(dag, {"a": 2})
    with pytest.raises(ValueError, match="center of 2"):
        LinearGaussianNetwork(dag, torch.zeros(3))


@pytest.mark.parametrize("seed", range(8))
def test_sums_over_graphs_keep_large_scores_that_cancel(seed):
    rng = np.random.default_rng(seed)
    n, masks = 6, np.arange(2**6)
    small = -40.0 * np.bitwise_count(masks) + rng.normal(size=(n, 2**n))
    small[masks[None] >> np.arange(n)[:, None] & 1 == 1] = -np.inf
    shift = rng.uniform(-9_000, -3_000, size=(n, 1))
    near, far = posterior_over_dags(small), posterior_over_dags(small + shift)
    assert far.log_evidence == pytest.approx(near.log_evidence + shift.sum(), abs=1e-6)
    assert np.abs(far.edges - near.edges).max() < 1e-6
