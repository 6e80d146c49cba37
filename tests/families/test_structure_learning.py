"""Caches of families, searches and chains over many variables, evidence of all graphs, calibration of edges."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import chisquare

import probmodel as pb
from probmodel.evidence.by_family.bayesian_networks import gaussian_structures, structures
from probmodel.families.bayesian_networks.categorical_data import CategoricalData
from probmodel.families.bayesian_networks.dag import DAG, class_hamming_distance
from probmodel.families.bayesian_networks.edge_calibration import SimulatedNetworks, edge_reliability, random_dag
from probmodel.families.bayesian_networks.edge_reliability_figure import edge_reliability_figure
from probmodel.families.bayesian_networks.scores.all_families import family_scores, gaussian_family_scores
from probmodel.families.bayesian_networks.scores.categorical_scores import BDeu, BDs, bic, k2, log_likelihood, score
from probmodel.families.bayesian_networks.scores.family_cache import (
    FamilyCache,
    categorical_families,
    gaussian_families,
)
from probmodel.families.bayesian_networks.scores.gaussian_scores import BGe, gaussian_bic, gaussian_score, moments
from probmodel.families.bayesian_networks.structure import candidates
from probmodel.families.bayesian_networks.structure.candidates import (
    all_candidates,
    candidate_parents,
    improved_candidates,
    score_table,
)
from probmodel.families.bayesian_networks.structure.exact_posterior import (
    posterior_over_dags,
    posterior_over_orders,
    sums_over_subsets,
)
from probmodel.families.bayesian_networks.structure.exact_search import best_dag, verify
from probmodel.families.bayesian_networks.structure.order_mcmc import OrderMCMC, placements
from probmodel.families.bayesian_networks.structure.order_search import OrderSearch
from probmodel.families.bayesian_networks.structure.partition_mcmc import (
    PartitionMCMC,
    log_scores_of_partitions,
    placement_scores,
    split_or_joined,
)
from probmodel.families.bayesian_networks.structure.pgmpy_search import HAS_PGMPY, hill_climbing, pc
from probmodel.layers.representations.bayesian_network import CategoricalNetwork, LinearGaussianNetwork
from probmodel.protocols.errors import MixingWarning

NEEDS_PGMPY = pytest.mark.skipif(not HAS_PGMPY, reason="pgmpy is not installed")


def parents_of(n: int, seed: int) -> list[list[int]]:
    """Up to two of the variables before each."""
    rng = np.random.default_rng((seed, 1))
    return [rng.choice(i, size=min(i, 2), replace=False).tolist() for i in range(n)]


def rows_of(n: int, num_rows: int, seed: int = 0, values: int = 2) -> CategoricalData:
    """Each variable follows its parents, noisily."""
    rng = np.random.default_rng(seed)
    codes = np.zeros((num_rows, n), dtype=np.int64)
    for i, parents in enumerate(parents_of(n, seed)):
        # Not the sum, of which a single parent would say nothing.
        codes[:, i] = (codes[:, parents].max(1, initial=0) + i) % values
        noise = rng.random(num_rows) < 0.25
        codes[noise, i] = rng.integers(values, size=noise.sum())
    return CategoricalData({f"x{i}": tuple(map(str, range(values))) for i in range(n)}, codes)


def gaussian_rows(n: int, num_rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_rows, n)) @ (np.eye(n) + np.triu(rng.normal(size=(n, n)), 1) / 2)


# ------------------------------------------------------------------------------------------ families


@pytest.mark.parametrize("term", [BDeu(1.0), BDs(3.0), k2, bic, log_likelihood])
@pytest.mark.parametrize("share_set", [0.0, 0.3])
def test_a_cache_scores_as_the_graph_does(term, share_set):
    data = rows_of(5, 200, values=3)
    rng = np.random.default_rng(1)
    intervened = [f"x{rng.integers(5)}" if rng.random() < share_set else None for _ in data.codes]
    families = categorical_families(data, term, intervened)
    dag = DAG.from_string("[x3][x1][x0|x1:x3][x2|x0:x1:x3][x4|x2]")
    assert abs(families.score(dag) - score(dag, data, term, intervened)) < 1e-9
    table = families.by_subset(2, [4, 0, 3], 2)
    expected = family_scores(data, term, intervened, max_parents=2)
    for chosen in product((0, 1), repeat=3):
        mask = sum(bit << i for i, bit in enumerate(chosen))
        whole = sum(bit << variable for bit, variable in zip(chosen, (4, 0, 3), strict=True))
        assert table[mask] == expected[2, whole] or abs(table[mask] - expected[2, whole]) < 1e-9


@pytest.mark.parametrize("term", [BGe(0.7, 3.0), gaussian_bic])
def test_a_cache_of_gaussian_families_scores_as_the_graph_does(term):
    x = gaussian_rows(4, 60)
    families = gaussian_families(moments(x), term, "abcd")
    dag = DAG.from_string("[c][a|c][d|a:c][b|a:d]")
    assert abs(families.score(dag) - gaussian_score(dag, "abcd", moments(x), term)) < 1e-8
    whole = gaussian_family_scores(moments(x), term)
    table = families.by_subset(1, [3, 0], 1)
    assert np.allclose(table[:3], [whole[1, 0], whole[1, 0b1000], whole[1, 0b0001]], atol=1e-8)
    assert np.isneginf(table[3])
    by_child = [moments(x[i:]) for i in range(4)]
    assert abs(gaussian_families(by_child, term, "abcd")(2, (0, 3)) - term(by_child[2], 2, [0, 3])) < 1e-9
    with pytest.raises(ValueError, match="expected 4 names, got 3"):
        gaussian_families(moments(x), term, "abc")


def test_no_family_is_scored_twice():
    asked = []

    def scored(child, parents):
        asked.extend((child, frozenset(each)) for each in parents)
        return [float(len(each)) for each in parents]

    families = FamilyCache(("a", "b", "c"), scored, lambda child, candidates, most: np.zeros(2 ** len(candidates)))
    assert families(0, (2, 1)) == families(0, (1, 2)) == 2.0
    assert np.array_equal(families.additions(0, (1,)), [-math.inf, -math.inf, 2.0])
    families.additions(1, ())
    assert len(asked) == len(set(asked)) == 3
    with pytest.raises(ValueError, match="expected a graph of"):
        families.score(DAG.from_string("[a][b]"))


# ------------------------------------------------------------------------------------------ candidates and orders


def test_what_a_move_adds_is_the_score_of_the_whole_order():
    rng = np.random.default_rng(0)
    families = categorical_families(rows_of(7, 50), BDeu(1.0))
    given = candidate_parents(families, 4)
    among = sums_over_subsets(given.scores)
    place = rng.permuted(np.tile(np.arange(7), (6, 1)), axis=1)
    moved = rng.integers(7, size=6)
    rank = place - (place > place[np.arange(6), moved][:, None])
    found = placements(rank, moved, given, among)
    for chain, at in product(range(6), range(7)):
        order = [i for i in np.argsort(place[chain]) if i != moved[chain]]
        order.insert(at, int(moved[chain]))
        total = 0.0
        for i, child in enumerate(order):
            allowed = [p for p, parent in enumerate(given.parents[child]) if parent in order[:i]]
            masks = [m for m in range(16) if all(not m >> p & 1 or p in allowed for p in range(4))]
            total += logsumexp(given.scores[child, masks])
        assert abs(found[chain, at] - total) < 1e-9


@pytest.mark.parametrize("max_parents", [None, 2])
def test_a_search_over_orders_finds_the_optimum(max_parents):
    data = rows_of(9, 300, values=3)
    families = categorical_families(data, BDeu(1.0))
    exact = best_dag(family_scores(data, BDeu(1.0), max_parents=max_parents), data.names)
    # Four candidates do not hold all of it: the search widens them.
    found = OrderSearch(num_candidates=4, max_parents=max_parents, num_sweeps=10, num_chains=4)(families, seed=0)
    assert abs(found.score - exact.score) < 1e-8
    assert abs(families.score(found.dag) - found.score) < 1e-8
    assert max_parents is None or max(map(len, found.dag.parents.values())) <= max_parents


def test_parents_that_the_candidates_miss_are_found():
    data = rows_of(8, 400)
    families = categorical_families(data, BDeu(1.0))
    best = best_dag(family_scores(data, BDeu(1.0)), data.names).dag
    at = {name: i for i, name in enumerate(data.names)}
    worst = [[int(i) for i in np.argsort(families.additions(child, ())) if i != child][:3] for child in range(8)]
    start = score_table(families, worst)
    wider = improved_candidates(families, start, best, 5, None)
    for name, parents in best.parents.items():
        assert {at[parent] for parent in parents} <= set(wider.parents[at[name]].tolist())
    again = improved_candidates(families, wider, best, 5, None)
    assert again is wider or set(again.parents.ravel()) == set(wider.parents.ravel())


def test_twenty_five_variables_reach_the_graph_they_come_from():
    data = rows_of(25, 1_000, values=3)
    families = categorical_families(data, BDeu(1.0))
    found = OrderSearch(num_candidates=8, num_sweeps=20)(families, seed=0)
    truth = DAG({f"x{i}": tuple(f"x{p}" for p in parents) for i, parents in enumerate(parents_of(25, 0))})
    assert found.score >= families.score(truth) - 1e-6
    assert class_hamming_distance(found.dag, truth) <= 5
    assert (np.diff(found.by_round) >= -1e-6).all()


def test_candidates_that_take_hours_are_told(monkeypatch):
    monkeypatch.setattr(candidates, "MANY_FAMILIES", 8 * 2**4)
    families = categorical_families(rows_of(8, 40), BDeu(1.0))
    candidate_parents(families, 4)
    candidate_parents(families, 5, max_parents=2)
    with pytest.warns(
        candidates.SlowSearchWarning, match="256 families to score .sets of up to 5 candidates of 8 variables"
    ):
        candidate_parents(families, 5)


def test_more_candidates_than_memory_holds_are_refused():
    families = categorical_families(rows_of(30, 40), BDeu(1.0))
    with pb.memory_budget(10**6), pytest.raises(MemoryError, match="all sets of 20 candidates of 30 variables"):
        candidate_parents(families, 20)
    with pytest.raises(MemoryError, match="max_parents saves time, no memory"):
        family_scores(rows_of(40, 20), BDeu(1.0))


@pytest.mark.parametrize("temperatures", [(), (2.0, 3.0), (1.0, 1.0)])
def test_temperatures_that_do_not_rise_from_one_are_refused(temperatures):
    given = all_candidates(family_scores(rows_of(3, 20), BDeu(1.0)))
    for chains in (OrderMCMC, PartitionMCMC):
        with pytest.raises(ValueError, match=r"rise from 1\.0"):
            chains(temperatures=temperatures)(given, seed=0)


# ------------------------------------------------------------------------------------------ partitions


def partition_of(graph: np.ndarray) -> tuple[int, ...]:
    """Part of each node: without parents first, then without once those are away."""
    part, left, number = np.zeros(len(graph), dtype=int), np.ones(len(graph), dtype=bool), 0
    while left.any():
        roots = left & ~graph[left].any(0)
        part[roots], left, number = number, left & ~roots, number + 1
    return tuple(part.tolist())


def graphs_of(n: int) -> list[np.ndarray]:
    """All directed acyclic graphs."""
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    found = []
    for bits in product((0, 1), repeat=len(pairs)):
        graph = np.zeros((n, n), dtype=int)
        for (i, j), bit in zip(pairs, bits, strict=True):
            graph[i, j] = bit
        if not np.linalg.matrix_power(graph, n).any():
            found.append(graph)
    return found


def test_partitions_share_out_all_graphs():
    families = family_scores(rows_of(4, 30), BDeu(1.0))
    by_partition: dict[tuple[int, ...], list[float]] = {}
    for graph in graphs_of(4):
        value = sum(families[child, graph[:, child] @ (1 << np.arange(4))] for child in range(4))
        by_partition.setdefault(partition_of(graph), []).append(value)
    assert sum(map(len, by_partition.values())) == 543
    given = all_candidates(families)
    part = np.array(list(by_partition))
    found = log_scores_of_partitions(part, given, sums_over_subsets(given.scores))
    assert np.abs(found - [logsumexp(values) for values in by_partition.values()]).max() < 1e-9


def test_places_of_a_node_are_scores_of_partitions():
    rng, n = np.random.default_rng(3), 6
    given = candidate_parents(categorical_families(rows_of(n, 60), BDeu(1.0)), 4)
    among = sums_over_subsets(given.scores)
    part = np.array([np.unique(rng.integers(n, size=n), return_inverse=True)[1] for _ in range(30)])
    node = rng.integers(n, size=30)
    own = part[np.arange(30), node]
    rest = part - ((part > own[:, None]) & ((part == own[:, None]).sum(1) == 1)[:, None])
    rest[np.arange(30), node] = n
    joins, opens = placement_scores(rest, node, given, among)
    for chain in range(30):
        num_parts = max(k for k in rest[chain] if k < n) + 1
        for at in range(n):
            joined = np.where(np.arange(n) == node[chain], at, rest[chain])
            opened = np.where(np.arange(n) == node[chain], at, rest[chain] + (rest[chain] >= at))
            for value, there, allowed in (
                (joins[chain, at], joined, at < num_parts),
                (opens[chain, at], opened, at <= num_parts),
            ):
                expected = log_scores_of_partitions(there[None], given, among)[0] if allowed else -np.inf
                assert value == expected or abs(value - expected) < 1e-8


def test_cuts_and_joins_keep_the_distribution_of_partitions():
    """Without data every partition is as likely as it has graphs: a chain of these moves alone visits them so."""
    families = np.where(np.isfinite(family_scores(rows_of(3, 10), BDeu(1.0))), 0.0, -np.inf)
    given = all_candidates(families)
    among = sums_over_subsets(given.scores)
    expected: dict[tuple[int, ...], int] = {}
    for graph in graphs_of(3):
        expected[partition_of(graph)] = expected.get(partition_of(graph), 0) + 1
    rng, seen = np.random.default_rng(0), dict.fromkeys(expected, 0)
    part = np.zeros((3_000, 3), dtype=np.int64)
    value = log_scores_of_partitions(part, given, among)
    for _ in range(60):
        part, value = split_or_joined(part, value, given, among, rng, np.ones(len(part)))
    for each in part:
        seen[tuple(each.tolist())] += 1
    share = np.array(list(expected.values())) / 25
    assert chisquare(np.array(list(seen.values())), 3_000 * share).pvalue > 1e-3


def test_chains_over_partitions_agree_with_the_sum_over_graphs():
    families = family_scores(rows_of(5, 25), BDeu(1.0))
    given = all_candidates(families)
    graphs, orders = posterior_over_dags(families).edges, posterior_over_orders(families).edges
    found = PartitionMCMC(num_samples=1_000, num_warmup=100, thinning=5, temperatures=(1.0, 2.0))(given, seed=0)
    error = found.by_chain.std(0, ddof=1) / 2
    assert (np.abs(found.edges - graphs) < 5 * error + 0.01).all()
    assert np.abs(found.edges - graphs).max() < 0.03 < np.abs(graphs - orders).max()
    by_orders = OrderMCMC(num_samples=1_600, num_warmup=50, thinning=5, temperatures=(1.0, 2.0))(given, seed=0)
    assert np.abs(by_orders.edges - orders).max() < 0.03


def test_chains_over_partitions_keep_to_the_candidates():
    families = categorical_families(rows_of(6, 80), BDeu(1.0))
    given = candidate_parents(families, 2)
    found = PartitionMCMC(num_samples=400, num_warmup=100, thinning=5, num_chains=2, temperatures=(1.0, 2.0))(
        given, seed=1
    )
    allowed = np.zeros((6, 6), dtype=bool)
    for child, parents in enumerate(given.parents):
        allowed[parents, child] = True
    assert not found.edges[~allowed].any() and found.edges[allowed].max() > 0.5
    assert (found.edges + found.edges.T < 1 + 1e-9).all()


def test_few_samples_of_partitions_say_so():
    given = all_candidates(family_scores(rows_of(5, 30), BDeu(1.0)))
    with pytest.warns(MixingWarning, match="PartitionMCMC"):
        PartitionMCMC(num_samples=1, num_warmup=0, thinning=1, num_chains=10)(given, seed=0)


# ------------------------------------------------------------------------------------------ evidence of all graphs


def test_the_evidence_of_all_graphs_compares_with_that_of_each():
    data = rows_of(3, 30, values=3)
    dag = DAG.from_string("[x2][x0|x2][x1|x0]")
    network = CategoricalNetwork(dag, dict(zip(data.names, data.cardinalities, strict=True)))
    columns = data.codes[:, [data.column(node) for node in dag.nodes]]
    target = pb.target(network, pb.Dataset((torch.as_tensor(columns),), {}, len(columns)))
    for prior, name in ((posterior_over_dags, "uniform over graphs"), (posterior_over_orders, "uniform over orders")):
        found = structures(data, prior, BDeu(1.0))
        assert found.digest == target.digest
        assert found.method == f"structures, {name}" and found.stderr == 0.0
        assert np.allclose(found.info["edges"], prior(family_scores(data, BDeu(1.0))).edges)
    families = family_scores(data, BDeu(1.0))
    by_graph = [sum(families[c, g[:, c] @ (1 << np.arange(3))] for c in range(3)) for g in graphs_of(3)]
    assert abs(structures(data, posterior_over_dags).log_z - (logsumexp(by_graph) - math.log(25))) < 1e-9
    other = CategoricalData(data.levels, data.codes[::-1].copy())
    assert structures(other, posterior_over_dags).digest != found.digest
    assert structures(data, posterior_over_dags, max_parents=1).method.endswith("of at most 1 parents")


def test_the_evidence_of_all_gaussian_graphs_compares_with_that_of_each():
    x = gaussian_rows(3, 20)
    with pb.isolated(seed=0):
        network = LinearGaussianNetwork(DAG.from_string("[c][a|c][b|a]"), torch.as_tensor(x)[:, [2, 0, 1]].mean(0))
    target = pb.target(network, pb.Dataset((torch.as_tensor(x)[:, [2, 0, 1]].contiguous(),), {}, len(x)))
    found = gaussian_structures(x, "abc", posterior_over_dags)
    assert found.digest == target.digest
    singles = [gaussian_score(DAG.from_string(g), "abc", moments(x), BGe()) for g in ("[a][b][c]", "[a][b|a][c|a:b]")]
    assert min(singles) - math.log(25) < found.log_z < max(singles) + 1e-9 or found.log_z < max(singles) + math.log(25)


def test_a_criterion_is_no_evidence():
    for term in (bic, log_likelihood):
        with pytest.raises(ValueError, match="expected the evidence of a family"):
            structures(rows_of(3, 20), posterior_over_dags, term)
    with pytest.raises(ValueError, match="pass BGe"):
        gaussian_structures(gaussian_rows(3, 20), "abc", posterior_over_dags, gaussian_bic)
    with pytest.raises(ValueError, match="expected 3 names"):
        gaussian_structures(gaussian_rows(3, 20), "ab", posterior_over_dags)


# ------------------------------------------------------------------------------------------ certificates


def test_an_optimum_is_verified_and_a_false_one_is_not():
    data = rows_of(7, 100)
    families = family_scores(data, BDeu(1.0))
    best = best_dag(families, data.names)
    verify(best, families, data.names)
    assert "448 families" in str(best) and "128 sets" in str(best) and "no graph scores more" in str(best)
    empty = DAG(dict.fromkeys(data.names, ()))
    with pytest.raises(ArithmeticError, match="as the best of all"):
        verify(best._replace(dag=empty), families, data.names)
    with pytest.raises(ArithmeticError, match="as the best of all"):
        verify(best._replace(dag=empty, score=score(empty, data, BDeu(1.0))), families, data.names)


# ------------------------------------------------------------------------------------------ pgmpy


@NEEDS_PGMPY
def test_hill_climbing_ends_where_no_edge_helps(capfd):
    data = rows_of(6, 300)
    families = categorical_families(data, BDeu(1.0))
    found = hill_climbing(families, max_parents=3, tabu_length=0)
    best = families.score(found)
    assert max(map(len, found.parents.values())) <= 3
    for a, b in product(data.names, repeat=2):
        removed = found.edges - {(a, b)}
        for edges in (removed, found.edges | {(a, b)}, removed | {(b, a)} if (a, b) in found.edges else removed):
            try:
                other = DAG.from_edges(data.names, edges)
            except ValueError:
                continue
            if max(map(len, other.parents.values())) <= 3:
                assert families.score(other) <= best + 1e-3
    assert capfd.readouterr() == ("", "")
    assert families.score(OrderSearch(num_candidates=5)(families, seed=0).dag) >= best - 1e-9


@NEEDS_PGMPY
def test_independent_causes_of_one_effect_are_directed():
    rng = np.random.default_rng(0)
    a, b = rng.integers(2, size=(2, 2_000))
    c = np.where(rng.random(2_000) < 0.9, a + b, rng.integers(3, size=2_000))
    data = CategoricalData.of(pd.DataFrame({"a": a, "b": b, "c": c}))
    found = pc(data)
    assert found.nodes == ("a", "b", "c")
    assert found.directed == {("a", "c"), ("b", "c")} and not found.undirected
    x = rng.normal(size=(2_000, 2))
    chain = pc(pd.DataFrame({"u": x[:, 0], "v": x.sum(1)}))
    assert chain.undirected == {frozenset("uv")} and not chain.directed
    with pytest.raises(ValueError, match="alpha between 0 and 1"):
        pc(data, alpha=1.0)


# ------------------------------------------------------------------------------------------ calibration


@pytest.mark.parametrize("n", [2, 3])
def test_random_graphs_are_uniform_over_all(n):
    rng, num = np.random.default_rng(0), 5_000
    seen = {graph.tobytes(): 0 for graph in graphs_of(n)}
    for _ in range(num):
        seen[random_dag(n, rng).tobytes()] += 1
    assert chisquare(list(seen.values())).pvalue > 1e-3


def test_exact_probabilities_are_frequencies_under_their_prior_and_others_are_not():
    networks = SimulatedNetworks(num_networks=250, num_variables=4, num_rows=40)
    found = networks(seed=1)
    assert found.p_value > 0.01
    assert found.num_edges.sum() == 250 * 12
    filled = found.num_edges > 100
    assert (np.abs(found.frequency - found.probability)[filled] < 4 * found.stderr[filled]).all()
    fewer = replace(networks, num_networks=120)
    for broken in (log_likelihood, BDeu(40.0)):
        assert (
            fewer(lambda data, term=broken: posterior_over_dags(family_scores(data, term)).edges, seed=1).p_value < 1e-4
        )
    figure = edge_reliability_figure(found)
    drawn = figure.axes[0].collections[-1].get_offsets()
    assert np.allclose(drawn, np.stack([found.probability, found.frequency], 1)[found.num_edges > 0])


def test_reliability_counts_pairs_by_their_probability():
    p = np.full((30, 2, 2), 0.25)
    truth = np.zeros((30, 2, 2), dtype=np.int64)
    truth[:10, 0, 1] = 1
    found = edge_reliability(p, truth, 4)
    assert found.num_edges.tolist() == [0, 60, 0, 0]
    assert abs(found.frequency[1] - 10 / 60) < 1e-12 and found.probability[1] == 0.25
    for bad, message in ((p + 1, "between 0 and 1"), (p[:1], "two networks")):
        with pytest.raises(ValueError, match=message):
            edge_reliability(bad, truth[: len(bad)], 4)
