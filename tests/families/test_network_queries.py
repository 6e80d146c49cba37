"""Queries, draws, missing values and files of discrete networks against sums over the whole joint table and textbooks."""

import math
import os
from itertools import combinations, product

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln, xlogy

import probmodel as pb
from probmodel.data.locate import VARIABLE, locate
from probmodel.families import bayesian_networks as bn
from probmodel.families.bayesian_networks.tables.elimination import categorical, min_fill

NEEDS_DATA = pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} is not set")
NETWORKS = [
    "asia",
    "cancer",
    "earthquake",
    "survey",
    "sachs",
    "child",
    "insurance",
    "alarm",
    "hailfinder",
    "hepar2",
    "win95pts",
    "water",
]


def random_network(seed: int, num_nodes: int = 5, zeros: float = 0.0) -> bn.DiscreteNetwork:
    """Two to four values a node, edges with probability one half, some probabilities zero."""
    rng = np.random.default_rng(seed)
    names = [f"x{i}" for i in rng.permutation(num_nodes)]
    parents = {
        name: tuple(rng.permutation([p for p in names[:i] if rng.random() < 0.5])) for i, name in enumerate(names)
    }
    dag = bn.DAG({str(name): tuple(map(str, parents[name])) for name in rng.permutation(names)})
    levels = {node: tuple("abcd"[: rng.integers(2, 5)]) for node in dag.nodes}
    tables = {}
    for node in dag.nodes:
        table = rng.dirichlet(np.ones(len(levels[node])), size=[len(levels[p]) for p in dag.parents[node]])
        table = np.where(rng.random(table.shape) < zeros, 0.0, table)
        table[..., 0] += table.sum(-1) == 0
        tables[node] = table / table.sum(-1, keepdims=True)
    return bn.DiscreteNetwork(dag, levels, tables)


def joint_table(network: bn.DiscreteNetwork) -> np.ndarray:
    """All probabilities, one axis a node, cell by cell."""
    table = np.zeros([len(network.levels[node]) for node in network.nodes])
    for cell in np.ndindex(*table.shape):
        at = dict(zip(network.nodes, cell, strict=True))
        table[cell] = math.prod(
            network.tables[node][(*(at[p] for p in network.dag.parents[node]), at[node])] for node in network.nodes
        )
    return table


def restricted(network: bn.DiscreteNetwork, table: np.ndarray, evidence: dict[str, str]) -> np.ndarray:
    """Zero where the evidence does not hold."""
    table = table.copy()
    for node, value in evidence.items():
        other = np.arange(len(network.levels[node])) != network.levels[node].index(value)
        np.moveaxis(table, network.nodes.index(node), 0)[other] = 0.0
    return table


def over(network: bn.DiscreteNetwork, table: np.ndarray, targets: tuple[str, ...]) -> np.ndarray:
    """Summed to the targets, in their order."""
    axes = [network.nodes.index(each) for each in targets]
    rest = tuple(axis for axis in range(table.ndim) if axis not in axes)
    return table.sum(rest).transpose([sorted(axes).index(axis) for axis in axes])


def by_enumeration(
    network: bn.DiscreteNetwork, targets: tuple[str, ...], evidence: dict[str, str], do: dict[str, str]
) -> tuple[np.ndarray, float]:
    """The table given evidence, and log p(evidence), from the truncated factorization."""
    cut = {node: np.ones_like(table) if node in do else table for node, table in network.tables.items()}
    table = np.ones([len(network.levels[node]) for node in network.nodes])
    for cell in np.ndindex(*table.shape):
        at = dict(zip(network.nodes, cell, strict=True))
        table[cell] = math.prod(cut[n][(*(at[p] for p in network.dag.parents[n]), at[n])] for n in network.nodes)
    table = restricted(network, table, evidence | do)
    return over(network, table, targets) / table.sum(), math.log(table.sum())


def sprinkler() -> bn.DiscreteNetwork:
    dag = bn.DAG.from_string("[rain][sprinkler|rain][wet|rain:sprinkler]")
    tables = {
        "rain": np.array([0.2, 0.8]),
        "sprinkler": np.array([[0.01, 0.99], [0.4, 0.6]]),
        "wet": np.array([[[0.99, 0.01], [0.8, 0.2]], [[0.9, 0.1], [0.0, 1.0]]]),
    }
    return bn.DiscreteNetwork(dag, dict.fromkeys(dag.nodes, ("yes", "no")), tables)


def smoking() -> bn.DiscreteNetwork:
    """Smoking, tar and cancer with a gene that nobody sees: the frontdoor graph of Pearl (2009, section 3.3)."""
    dag = bn.DAG.from_string("[gene][smoking|gene][tar|smoking][cancer|gene:tar]")
    tables = {
        "gene": np.array([0.4, 0.6]),
        "smoking": np.array([[0.9, 0.1], [0.2, 0.8]]),
        "tar": np.array([[0.95, 0.05], [0.1, 0.9]]),
        "cancer": np.array([[[0.8, 0.2], [0.6, 0.4]], [[0.3, 0.7], [0.05, 0.95]]]),
    }
    return bn.DiscreteNetwork(dag, dict.fromkeys(dag.nodes, ("yes", "no")), tables)


# ------------------------------------------------------------------------------------------ queries


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_queries_are_sums_over_the_joint_table(seed, data):
    network = random_network(seed)
    names = data.draw(st.permutations(network.nodes))
    num_targets, num_given, num_set = (data.draw(st.integers(low, 2)) for low in (1, 0, 0))
    targets, rest = tuple(names[:num_targets]), names[num_targets:]
    values = {node: data.draw(st.sampled_from(network.levels[node])) for node in rest}
    evidence = {node: values[node] for node in rest[:num_given]}
    do = {node: values[node] for node in rest[num_given : num_given + num_set]}
    expected, log_evidence = by_enumeration(network, targets, evidence, do)
    found = bn.query(network, targets, given=evidence, do=do)
    assert np.abs(found.table - expected).max() < 1e-12
    assert abs(found.log_evidence - log_evidence) < 1e-10
    together = bn.marginals(network, given=evidence, do=do)
    assert abs(together.log_evidence - log_evidence) < 1e-10
    for node in network.nodes:
        assert np.abs(together.tables[node] - by_enumeration(network, (node,), evidence, do)[0]).max() < 1e-12


def test_a_joint_table_has_its_axes_as_asked():
    network = random_network(3)
    forwards, backwards = bn.query(network, network.nodes), bn.query(network, network.nodes[::-1])
    assert np.abs(forwards.table - joint_table(network)).max() < 1e-12
    assert np.abs(forwards.table - backwards.table.T).max() < 1e-12
    series = bn.query(network, ["x1", "x3"]).to_series()
    some = {"x1": "b", "x3": "a"}
    assert abs(series["b", "a"] - forwards.probability(some)) < 1e-12
    assert series.index.names == ["x1", "x3"]


def test_wet_grass_tells_of_rain_as_in_the_textbook():
    found = bn.query(sprinkler(), ["rain"], given={"wet": "yes"})
    assert abs(found.probability({"rain": "yes"}) - 0.00198 / 0.44838 - 0.1584 / 0.44838) < 1e-12
    assert abs(found.log_evidence - math.log(0.44838)) < 1e-12
    assert "0.357688" in repr(found) and "log probability" in repr(found)


def test_setting_the_sprinkler_says_nothing_of_rain_and_seeing_it_does():
    network = sprinkler()
    assert abs(bn.query(network, ["rain"], do={"sprinkler": "yes"}).table[0] - 0.2) < 1e-12
    assert abs(bn.query(network, ["rain"], given={"sprinkler": "yes"}).table[0] - 0.002 / 0.322) < 1e-12
    both = bn.query(network, ["rain"], do={"sprinkler": "yes"}, given={"wet": "yes"})
    assert abs(both.table[0] - 0.2 * 0.99 / (0.2 * 0.99 + 0.8 * 0.9)) < 1e-12


def test_backdoor_and_frontdoor_adjustment_give_the_intervention():
    network = smoking()
    seen = bn.query(network, ["cancer"], given={"smoking": "yes"}).table
    gene = bn.query(network, ["gene"]).table
    for smoked in ("yes", "no"):
        truth = bn.query(network, ["cancer"], do={"smoking": smoked}).table
        backdoor = sum(
            gene[i] * bn.query(network, ["cancer"], given={"smoking": smoked, "gene": value}).table
            for i, value in enumerate(("yes", "no"))
        )
        tar = bn.query(network, ["tar"], given={"smoking": smoked}).table
        p_smoking = bn.query(network, ["smoking"]).table
        frontdoor = sum(
            tar[i] * p_smoking[j] * bn.query(network, ["cancer"], given={"tar": t, "smoking": s}).table
            for (i, t), (j, s) in product(enumerate(("yes", "no")), repeat=2)
        )
        assert np.abs(truth - backdoor).max() < 1e-12
        assert np.abs(truth - frontdoor).max() < 1e-12
    assert abs(seen[0] - bn.query(network, ["cancer"], do={"smoking": "yes"}).table[0]) > 0.1


def test_the_order_of_levels_nodes_and_parents_does_not_matter():
    network = random_network(11)
    turned = bn.DiscreteNetwork(
        bn.DAG({node: network.dag.parents[node][::-1] for node in reversed(network.nodes)}),
        {node: values[::-1] for node, values in network.levels.items()},
        {
            node: np.flip(table.transpose(*reversed(range(table.ndim - 1)), table.ndim - 1))
            for node, table in network.tables.items()
        },
    )
    evidence = {"x0": "b", "x4": "a"}
    a, b = (bn.query(each, ["x2", "x1"], given=evidence) for each in (network, turned))
    assert np.abs(a.table - np.flip(b.table)).max() < 1e-12 and abs(a.log_evidence - b.log_evidence) < 1e-12
    rows = bn.sample(network, 50, seed=0)
    assert np.abs(bn.log_prob(network, rows) - bn.log_prob(turned, rows)).max() < 1e-12


def test_evidence_of_a_thousand_features_neither_underflows_nor_misleads():
    """A class that 1,000 features speak for by 900 nats, ruled out by one that it cannot have."""
    features = [f"f{i}" for i in range(1000)]
    dag = bn.DAG({"y": (), **dict.fromkeys(features, ("y",)), "z": ("y",)})
    tables = {"y": np.array([0.5, 0.5]), "z": np.array([[0.0, 1.0], [0.3, 0.7]])}
    tables |= {f: np.array([[0.99, 0.01], [0.4, 0.6]]) for f in features}
    network = bn.DiscreteNetwork(dag, dict.fromkeys(dag.nodes, ("0", "1")), tables)
    seen = dict.fromkeys(features, "0")
    assert abs(bn.marginals(network).tables["f7"][0] - 0.695) < 1e-12
    assert abs(bn.query(network, ["y"], given=seen).table[0] - 1) < 1e-12
    found = bn.query(network, ["y"], given=seen | {"z": "0"})
    assert found.table.tolist() == [0.0, 1.0]
    assert abs(found.log_evidence - math.log(0.5) - 1000 * math.log(0.4) - math.log(0.3)) < 1e-8


def test_a_chain_of_five_hundred_is_its_matrix_power():
    step = np.array([[0.9, 0.1], [0.3, 0.7]])
    names = [f"x{i}" for i in range(500)]
    dag = bn.DAG({name: (names[i - 1],) if i else () for i, name in enumerate(names)})
    tables = {name: step if i else np.array([0.5, 0.5]) for i, name in enumerate(names)}
    network = bn.DiscreteNetwork(dag, dict.fromkeys(names, ("0", "1")), tables)
    assert (
        np.abs(bn.query(network, ["x20"], given={"x0": "1"}).table - np.linalg.matrix_power(step, 20)[1]).max() < 1e-12
    )
    assert np.abs(bn.marginals(network).tables["x499"] - [0.75, 0.25]).max() < 1e-12


def naive_min_fill(scopes: list[list[str]], sizes: dict[str, int]) -> tuple[list[str], int]:
    """The order and its entries, every cost counted anew at each step."""
    graph = nx.Graph()
    for scope in scopes:
        graph.add_nodes_from(scope)
        graph.add_edges_from(combinations(scope, 2))
    order, entries = [], 0
    while graph:

        def cost(node: str) -> tuple[int, int, str]:
            around = list(graph[node])
            fill = sum(not graph.has_edge(*pair) for pair in combinations(around, 2))
            return fill, math.prod(sizes[each] for each in (node, *around)), node

        node = min(graph, key=cost)
        entries += cost(node)[1]
        graph.add_edges_from(combinations(graph[node], 2))
        graph.remove_node(node)
        order.append(node)
    return order, entries


@pytest.mark.parametrize("seed", range(10))
def test_orders_join_the_fewest_neighbors_at_each_step(seed):
    network = random_network(seed, 8)
    scopes = [[*network.dag.parents[node], node] for node in network.nodes]
    plan = min_fill(scopes, network.cardinalities)
    assert (list(plan.order), plan.entries) == naive_min_fill(scopes, network.cardinalities)


def test_what_does_not_fit_is_refused_before_anything_is_allocated():
    names = [f"x{i}" for i in range(40)]
    dag = bn.DAG(
        {**dict.fromkeys(names, ()), **{f"y{i}{j}": (names[i], names[j]) for i in range(40) for j in range(i)}}
    )
    tables = {node: np.full((2,) * (len(dag.parents[node]) + 1), 0.5) for node in dag.nodes}
    network = bn.DiscreteNetwork(dag, dict.fromkeys(dag.nodes, ("0", "1")), tables)
    seen = {node: "1" for node in dag.nodes if node.startswith("y")}
    with pytest.raises(MemoryError, match="along an order of width 39"):
        bn.query(network, ["x0"], given=seen)
    with pytest.raises(MemoryError, match="the joint table of 40 variables"):
        bn.query(network, names)
    # Barren children marry nobody.
    assert bn.query(network, ["x0"]).table.tolist() == [0.5, 0.5]
    with pb.memory_budget(100), pytest.raises(MemoryError, match="in the stated budget"):
        bn.marginals(random_network(0))


# ------------------------------------------------------------------------------------------ tables from rows


def rows_of(network: bn.DiscreteNetwork, num_rows: int = 200, seed: int = 0) -> bn.CategoricalData:
    return bn.sample(network, num_rows, seed=seed)


def test_the_predictive_of_a_row_is_a_ratio_of_evidences():
    """p(new row | rows) = p(rows and new row) / p(rows), each a closed form; for parts of a row, sums of them."""
    network = random_network(5, 4)
    data = rows_of(network, 40)
    mean = bn.posterior_mean(network.dag, data, 3.0)
    before = bn.score(network.dag, data, bn.BDeu(3.0))
    new = np.array(list(np.ndindex(*data.cardinalities)))
    ratio = [
        bn.score(network.dag, data._replace(codes=np.vstack([data.codes, row])), bn.BDeu(3.0)) - before for row in new
    ]
    assert np.abs(bn.log_prob(mean, data._replace(codes=new)) - ratio).max() < 1e-9
    exact = np.exp(ratio).reshape(data.cardinalities)
    found = bn.query(mean, data.names[:2]).table
    assert np.abs(found - exact.sum((2, 3))).max() < 1e-12


def test_maximum_likelihood_is_the_limit_and_its_log_likelihood_is_the_score():
    network = random_network(7)
    data = rows_of(network)
    likeliest = bn.maximum_likelihood(network.dag, data)
    assert abs(bn.log_prob(likeliest, data).sum() - bn.score(network.dag, data, bn.log_likelihood)) < 1e-8
    near = bn.posterior_mean(network.dag, data, 1e-9)
    for node in network.nodes:
        assert np.abs(near.tables[node] - likeliest.tables[node]).max() < 1e-6


def test_rows_where_a_variable_was_set_are_left_out_of_its_own_table_only():
    network = random_network(9)
    data = rows_of(network)
    node = network.nodes[2]
    intervened = [node if row % 2 else None for row in range(200)]
    found = bn.posterior_mean(network.dag, data, 1.0, intervened)
    half = bn.posterior_mean(network.dag, data._replace(codes=data.codes[::2]), 1.0)
    full = bn.posterior_mean(network.dag, data, 1.0)
    for each in network.nodes:
        assert np.abs(found.tables[each] - (half if each == node else full).tables[each]).max() < 1e-12
    assert np.abs(half.tables[node] - full.tables[node]).max() > 1e-3


def test_networks_drawn_from_the_posterior_have_its_mean_and_variance():
    dag = bn.DAG.from_string("[a][b|a]")
    data = bn.CategoricalData.of(pd.DataFrame({"a": list("xxxy"), "b": list("uuvv")}))
    drawn = bn.posterior_networks(dag, data, 2.0, num_samples=2000, seed=0)
    theta = np.array([network.tables["b"][:, 0] for network in drawn])
    for row, (up, down) in enumerate(((2.5, 1.5), (0.5, 1.5))):
        mean, total = up / (up + down), up + down
        variance = mean * (1 - mean) / (total + 1)
        assert abs(theta[:, row].mean() - mean) < 4 * math.sqrt(variance / 2000)
        assert abs(theta[:, row].var() / variance - 1) < 0.15
    assert np.isfinite(
        [bn.posterior_networks(dag, data, 1e-3, num_samples=5, seed=1)[i].tables["b"] for i in range(5)]
    ).all()


# ------------------------------------------------------------------------------------------ sampling


def apart_in_errors(found: np.ndarray, exact: np.ndarray, num_rows: int) -> float:
    """Largest distance of frequencies from probabilities, in standard errors; cells that cannot occur must not."""
    assert (found[exact == 0] == 0).all()
    error = np.sqrt(exact * (1 - exact) / num_rows)
    return float((np.abs(found - exact) / np.where(error > 0, error, 1.0)).max())


@pytest.mark.parametrize(
    ("evidence", "do"), [({}, {}), ({"x1": "a"}, {}), ({}, {"x2": "b"}), ({"x0": "b", "x4": "a"}, {"x1": "a"})]
)
def test_frequencies_of_sampled_rows_are_the_probabilities(evidence, do):
    network, num_rows = random_network(21, zeros=0.2), 40_000
    rows = bn.sample(network, num_rows, seed=1, given=evidence, do=do)
    found = np.zeros(rows.cardinalities)
    np.add.at(found, tuple(rows.codes.T), 1 / num_rows)
    exact, _ = by_enumeration(network, network.nodes, evidence, do)
    # Of some hundred cells the largest distance is about three.
    assert apart_in_errors(found, exact, num_rows) < 4.5
    pairs = over(network, found, network.nodes[:2]), over(network, exact, network.nodes[:2])
    assert apart_in_errors(*pairs, num_rows) < 4


def test_values_are_drawn_in_proportion_and_never_those_of_probability_zero():
    weights = np.array([0.0, 0.2, 0.0, 0.3, 0.0])
    drawn = categorical(np.tile(weights, (20_000, 1)), np.random.default_rng(0))
    found = np.bincount(drawn, minlength=5) / 20_000
    assert apart_in_errors(found, weights / 0.5, 20_000) < 4


def test_samples_repeat_with_their_seed_and_differ_with_another():
    network = random_network(2)
    a, b, c = (bn.sample(network, 100, seed=seed).codes for seed in (0, 0, 1))
    assert (a == b).all() and (a != c).any()


# ------------------------------------------------------------------------------------------ missing values


def with_holes(data: bn.CategoricalData, share: float, seed: int = 0) -> bn.CategoricalData:
    holes = np.random.default_rng(seed).random(data.codes.shape) < share
    return data._replace(codes=np.where(holes, -1, data.codes))


@pytest.mark.parametrize("plans", [1, 10**9], ids=["a plan each pattern", "one plan"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_probability_of_a_row_with_holes_is_a_sum_over_them(share, plans, monkeypatch):
    monkeypatch.setattr("probmodel.families.bayesian_networks.tables.incomplete_rows.ENTRIES_WORTH_A_PLAN", plans)
    network = random_network(13, zeros=0.1)
    data = with_holes(rows_of(network, 60), share)
    table = joint_table(network)
    exact = [math.log(table[tuple(slice(None) if c < 0 else c for c in row)].sum()) for row in data.codes]
    assert np.abs(bn.log_prob(network, data) - exact).max() < 1e-12


def test_columns_that_are_not_there_are_summed_over():
    network = random_network(13)
    data = rows_of(network, 30)
    frame = pd.DataFrame({name: np.array(data.levels[name])[data.codes[:, i]] for i, name in enumerate(data.names)})
    fewer = bn.CategoricalData.of(frame[["x3", "x0"]], network.levels)
    table = over(network, joint_table(network), ("x3", "x0"))
    assert np.abs(bn.log_prob(network, fewer) - np.log(table[tuple(fewer.codes.T)])).max() < 1e-12


def test_the_table_of_what_was_set_does_not_count():
    network = random_network(17)
    data = with_holes(rows_of(network, 40), 0.3)
    node, column = "x1", network.nodes.index("x1")
    data.codes[:, column] = 0
    intervened = [node if row % 2 else None for row in range(40)]
    found = bn.log_prob(network, data, intervened)
    after = bn.intervene(network, {node: network.levels[node][0]})
    assert np.abs(found[1::2] - bn.log_prob(after, data)[1::2]).max() < 1e-12
    assert np.abs(found[::2] - bn.log_prob(network, data)[::2]).max() < 1e-12
    data.codes[1, column] = -1
    with pytest.raises(ValueError, match=r"value that was set in each row, got none in rows \[1\]"):
        bn.log_prob(network, data, intervened)


def test_a_small_budget_splits_rows_and_changes_nothing():
    network = random_network(13)
    data = with_holes(rows_of(network, 300), 0.4)
    whole = bn.log_prob(network, data)
    with pb.memory_budget(200_000):
        assert np.abs(bn.log_prob(network, data) - whole).max() < 1e-12


def test_imputed_values_have_the_conditional_distribution():
    network = random_network(23, zeros=0.2)
    one = rows_of(network, 1, seed=3).codes[0].copy()
    one[[0, 3]] = -1
    evidence = {n: network.levels[n][c] for n, c in zip(network.nodes, one, strict=True) if c >= 0}
    data = bn.CategoricalData({n: network.levels[n] for n in network.nodes}, np.tile(one, (20_000, 1)))
    filled = bn.impute(network, data, seed=0)
    assert filled.num_missing == 0 and (filled.codes[:, one >= 0] == one[one >= 0]).all()
    targets = (network.nodes[0], network.nodes[3])
    exact = bn.query(network, targets, given=evidence).table
    found = np.zeros(exact.shape)
    np.add.at(found, tuple(filled.codes[:, [0, 3]].T), 1 / 20_000)
    assert apart_in_errors(found, exact, 20_000) < 4


# ------------------------------------------------------------------------------------------ EM


@pytest.mark.parametrize("sample_size", [0.0, 2.0])
def test_em_of_complete_rows_is_the_closed_form(sample_size):
    network = random_network(31)
    data = rows_of(network)
    intervened = ["x2" if row % 5 == 0 else None for row in range(200)]
    found = bn.EM(sample_size)(network.dag, data, intervened, seed=0).network
    closed = (
        bn.posterior_mean(network.dag, data, sample_size, intervened)
        if sample_size
        else bn.maximum_likelihood(network.dag, data, intervened)
    )
    for node in network.nodes:
        assert np.abs(found.tables[node] - closed.tables[node]).max() < 1e-12


@pytest.mark.parametrize("plans", [1, 10**9], ids=["a plan each pattern", "one plan"])
def test_expected_counts_are_those_of_the_joint_table(plans, monkeypatch):
    """Each step from the tables of the one before, against sums over all completions of every row."""
    monkeypatch.setattr("probmodel.families.bayesian_networks.tables.incomplete_rows.ENTRIES_WORTH_A_PLAN", plans)
    network = random_network(37, 4)
    data = with_holes(rows_of(network, 60), 0.3)
    with pytest.warns(bn.EMWarning, match="still rising after"):
        before, after = (bn.EM(1.0, max_steps=steps)(network.dag, data, seed=4).network for steps in (1, 2))
    table, expected = joint_table(before), np.zeros(joint_table(network).shape)
    for row in data.codes:
        at = tuple(slice(None) if c < 0 else c for c in row)
        here = np.zeros_like(table)
        here[at] = table[at]
        expected += here / here.sum()
    for node in network.nodes:
        cells = over(network, expected, (*network.dag.parents[node], node)) + 1.0 / network.tables[node].size
        assert np.abs(after.tables[node] - cells / cells.sum(-1, keepdims=True)).max() < 1e-12


@pytest.mark.parametrize("sample_size", [0.0, 1.0])
def test_em_never_falls_and_ends_where_the_gradient_is_zero(sample_size):
    network = random_network(41, 4)
    data = with_holes(rows_of(network, 300), 0.25)
    settings_ = bn.EM(sample_size, tolerance=1e-12, max_steps=20_000)
    found = settings_(network.dag, data, seed=0)
    assert np.diff(found.log_posteriors).min() > -1e-9
    assert found.log_posteriors[-1] > found.log_posteriors[0] + 1

    def log_posterior(tables: dict[str, np.ndarray]) -> float:
        moved = bn.DiscreteNetwork(network.dag, data.levels, tables)
        prior = sum(xlogy(sample_size / table.size, table).sum() for table in tables.values())
        return float(bn.log_prob(moved, data).sum() + prior)

    best = log_posterior(dict(found.network.tables))
    assert abs(best - found.log_posteriors[-1]) < 1e-8
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = {}
        for node, table in found.network.tables.items():
            tilted = table * np.exp(0.05 * rng.normal(size=table.shape))
            moved[node] = tilted / tilted.sum(-1, keepdims=True)
        assert log_posterior(moved) < best


def test_em_recovers_what_was_hidden_at_random():
    network = random_network(43, 4)
    data = rows_of(network, 20_000)
    full = bn.posterior_mean(network.dag, data)
    found = bn.EM(tolerance=1e-4)(network.dag, with_holes(data, 0.2), seed=0).network
    for node in network.nodes:
        weight = bn.query(network, network.dag.parents[node]).table if network.dag.parents[node] else np.ones(())
        error = np.sqrt(1 / (20_000 * weight * 0.8 ** (1 + len(network.dag.parents[node]))))
        assert (np.abs(found.tables[node] - full.tables[node]) < 4 * error[..., None]).all()


def test_a_hidden_class_is_found_up_to_its_labels():
    """Three features, independent given a class that is never seen: identified (Allman et al., 2009)."""
    dag = bn.DAG.from_string("[h][a|h][b|h][c|h]")
    sharp = np.array([[0.9, 0.1], [0.2, 0.8]])
    levels = dict.fromkeys("habc", ("0", "1"))
    truth = bn.DiscreteNetwork(dag, levels, {"h": np.array([0.3, 0.7]), "a": sharp, "b": sharp, "c": sharp})
    rows = bn.sample(truth, 20_000, seed=0)
    hidden = rows._replace(codes=np.where(np.arange(4) == 0, -1, rows.codes))
    found = bn.EM(tolerance=1e-5, max_steps=5_000)(dag, hidden, seed=0).network
    first = int(found.tables["a"][0, 0] < found.tables["a"][1, 0])
    assert abs(found.tables["h"][first] - 0.3) < 0.04
    for node in "abc":
        table = found.tables[node][::-1] if first else found.tables[node]
        assert np.abs(table - sharp).max() < 0.05


def test_the_log_posterior_is_that_of_the_log_odds():
    """With complete rows it is the log density of Dirichlet tables times the Jacobian Π θ of the log odds."""
    dag = bn.DAG.from_string("[a]")
    data = bn.CategoricalData.of(pd.DataFrame({"a": list("xxyz")}))
    found = bn.EM(3.0)(dag, data, seed=0)
    theta, alpha = found.network.tables["a"], 1.0 + np.array([2, 1, 1])
    density = gammaln(alpha.sum()) - gammaln(alpha).sum() + ((alpha - 1) * np.log(theta)).sum() + np.log(theta).sum()
    constant = gammaln(alpha.sum()) - gammaln(alpha).sum()
    assert abs(found.log_posteriors[-1] - (density - constant)) < 1e-12


# ------------------------------------------------------------------------------------------ reading rows


def test_rows_become_a_frame_and_come_back():
    data = bn.CategoricalData({"a": ("low", "high", "never"), "b": ("1", "0")}, np.array([[0, 1], [1, 0], [-1, 1]]))
    frame = data.frame()
    assert frame["a"].tolist()[:2] == ["low", "high"] and frame["b"].tolist() == ["0", "1", "0"]
    assert frame["a"].isna().tolist() == [False, False, True]
    again = bn.CategoricalData.with_missing(frame)
    assert again.levels == data.levels and (again.codes == data.codes).all()
    assert frame["a"].value_counts()["never"] == 0
    with pytest.raises(ValueError, match="expected codes from 0"):
        data._replace(codes=data.codes + 2).frame()


def test_missing_values_are_read_on_request_and_refused_by_scores():
    frame = pd.DataFrame({"a": [1, 2, None, 1], "b": ["u", None, "v", "u"]})
    with pytest.raises(ValueError, match=r"CategoricalData.with_missing"):
        bn.CategoricalData.of(frame)
    data = bn.CategoricalData.with_missing(frame)
    assert data.levels == {"a": ("1", "2"), "b": ("u", "v")}
    assert data.codes.tolist() == [[0, 0], [1, -1], [-1, 1], [0, 0]] and data.num_missing == 2
    dag = bn.DAG.from_string("[a][b|a]")
    for refuse in (
        lambda: bn.score(dag, data, bn.bic),
        lambda: bn.family_scores(data, bn.BDeu(1.0)),
        lambda: bn.posterior_mean(dag, data),
        lambda: bn.maximum_likelihood(dag, data),
    ):
        with pytest.raises(ValueError, match=r"no missing values, got some in \['a', 'b'\]"):
            refuse()


def test_a_variable_that_is_never_seen_needs_its_levels():
    frame = pd.DataFrame({"a": ["x", "y"], "h": [None, None]})
    with pytest.raises(ValueError, match="two values of 'h'"):
        bn.CategoricalData.with_missing(frame)
    assert bn.CategoricalData.with_missing(frame, {"h": ["0", "1"]}).codes[:, 1].tolist() == [-1, -1]


# ------------------------------------------------------------------------------------------ files


def test_a_written_network_reads_the_same(tmp_path):
    for seed in range(5):
        network = random_network(seed, zeros=0.1)
        bn.write_bif(network, tmp_path / "network.bif")
        same_network(bn.read_bif(tmp_path / "network.bif"), network)


def same_network(a: bn.DiscreteNetwork, b: bn.DiscreteNetwork) -> None:
    assert (
        a.dag == b.dag and a.nodes == b.nodes and {n: a.levels[n] for n in a.nodes} == {n: b.levels[n] for n in b.nodes}
    )
    for node in a.nodes:
        assert np.array_equal(a.tables[node], b.tables[node])


ODD = [
    "p, q",
    "f(x)",
    "a b",
    "table",
    "default",
    "<5",
    ">=7.5",
    "1-3_days",
    "//",
    "Asy/Patch",
    "{",
    "ß;|",
    "probability",
]


def test_odd_names_are_kept_and_those_that_cannot_be_are_refused(tmp_path):
    dag = bn.DAG({"variable": (), "x | y": ("variable",), "table": ("x | y", "variable")})
    levels = {"variable": tuple(ODD), "x | y": ("type", "}"), "table": ("]", "property")}
    rng = np.random.default_rng(0)
    tables = {
        node: rng.dirichlet(np.ones(len(levels[node])), size=[len(levels[p]) for p in dag.parents[node]])
        for node in dag.nodes
    }
    network = bn.DiscreteNetwork(dag, levels, tables)
    bn.write_bif(network, tmp_path / "odd.bif")
    same_network(bn.read_bif(tmp_path / "odd.bif"), network)
    bad = bn.DiscreteNetwork(bn.DAG({"a": ()}), {"a": ('say "x"', "y")}, {"a": np.array([0.5, 0.5])})
    with pytest.raises(ValueError, match="without double quotes"):
        bn.write_bif(bad, tmp_path / "bad.bif")


BIF = """network "a test" {{ property author "me; (and \\r\\n)"; }}
// a comment
variable a {{ property position = (10, 20); type discrete [ 2 ] {{ yes no }}; }}
variable "b c" {{ type discrete[3] {{"low", mid , high}}; }}
variable d {{ type discrete [ 2 ] {{ u, v }}; }}
probability ( a ) {{ table 0.25, 0.75; }}
probability ( "b c" | a ) {{ {b} }}
/* a longer
   one */
probability ( d | a, "b c" ) {{ {d} }}
"""
LINES = {"b": "(yes) 0.1, 0.2, 0.7; default 0.5 0.25 0.25;", "d": "table 0 .1 .2 .3 .4 .5, 1 .9 .8 .7 .6 .5;"}


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_format_is_read_in_full(tmp_path, ending):
    (tmp_path / "full.bif").write_bytes(BIF.format(**LINES).replace("\n", ending).encode())
    network = bn.read_bif(tmp_path / "full.bif")
    assert network.levels == {"a": ("yes", "no"), "b c": ("low", "mid", "high"), "d": ("u", "v")}
    assert network.tables["b c"].tolist() == [[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]]
    assert network.tables["d"][..., 0].tolist() == [[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]]
    assert network.tables["d"][1, 2].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("default 0.5 0.25 0.25;", "", r"all values of its parents, got none for \['no'\]"),
        ("(yes)", "(perhaps)", r"values of \['a'\], the parents of 'b c', got \['perhaps'\]"),
        ("0.1, 0.2, 0.7", "0.1, 0.9", "expected 3 numbers for 'b c', got 2"),
        ("0.1, 0.2, 0.7", "0.1, x, 0.7", "expected numbers for 'b c'"),
        ("0.1, 0.2, 0.7", "0.1, 0.2, 0.6", "each row of 'b c' to sum to one, got 0.9"),
        ("[ 2 ] { u, v }", "[ 3 ] { u, v }", "expected 3 values of 'd'"),
        ("d | a,", "d | z,", r"declared variables in .*, got \['z'\]"),
        ("probability ( a ) { table 0.25, 0.75; }", "", r"none of \['a'\]"),
        ("table 0 .1 .2 .3 .4 .5, 1 .9 .8 .7 .6 .5; }", "table 0 .1 .2", "a closing brace for each"),
        ("discrete [ 2 ]", "continuous [ 2 ]", "'type discrete' of 'a'"),
    ],
)
def test_a_file_that_is_wrong_is_told_where(tmp_path, old, new, message):
    text = BIF.format(**LINES)
    assert old in text
    (tmp_path / "wrong.bif").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        bn.read_bif(tmp_path / "wrong.bif")


@NEEDS_DATA
@pytest.mark.parametrize("name", NETWORKS)
def test_published_networks_are_read_and_written_to_the_last_digit(name, tmp_path):
    network = bn.read_bif(locate(f"bayesnets/{name}.bif"))
    bn.write_bif(network, tmp_path / "copy.bif")
    same_network(bn.read_bif(tmp_path / "copy.bif"), network)


@NEEDS_DATA
@pytest.mark.parametrize("name", ["asia", "alarm", "insurance", "hailfinder"])
def test_tables_and_marginals_are_those_of_pgmpy(name):
    readwrite = pytest.importorskip("pgmpy.readwrite")
    inference = pytest.importorskip("pgmpy.inference")
    path = locate(f"bayesnets/{name}.bif")
    network, theirs = bn.read_bif(path), readwrite.BIFReader(str(path)).get_model()
    for node in network.nodes:
        cpd = theirs.get_cpds(node)
        assert tuple(cpd.variables[1:]) == network.dag.parents[node]
        assert tuple(cpd.state_names[node]) == network.levels[node]
        assert np.abs(np.moveaxis(cpd.values, 0, -1) - network.tables[node]).max() < 1e-12
    row = bn.sample(network, 1, seed=0)
    evidence = {node: network.levels[node][row.codes[0, i]] for i, node in enumerate(network.nodes) if i % 6 == 5}
    found = bn.marginals(network, given=evidence)
    engine = inference.VariableElimination(theirs)
    for node in [n for n in network.nodes if n not in evidence][:8]:
        values = engine.query([node], evidence=evidence, show_progress=False).values
        # Rows of printed digits sum to one within 1e-7.
        assert np.abs(found.tables[node] - values).max() < 1e-6


# ------------------------------------------------------------------------------------------ bad input


def test_tables_that_are_none_are_refused():
    dag, levels = bn.DAG.from_string("[a][b|a]"), {"a": ("0", "1"), "b": ("x", "y", "z")}
    good = {"a": np.array([0.5, 0.5]), "b": np.full((2, 3), 1 / 3)}
    for tables, message in (
        ({"a": good["a"]}, r"tables of \['a', 'b'\]"),
        ({**good, "b": np.full((3, 2), 0.5)}, r"shape \(2, 3\), parents first, got \(3, 2\)"),
        ({**good, "a": np.array([1.5, -0.5])}, "probabilities of 'a', got -0.5"),
        (
            {**good, "b": np.array([[0.2, 0.3, 0.5], [0.2, 0.3, 0.4]])},
            r"sum to one, got 0.9 for the parents' values \(1,\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            bn.DiscreteNetwork(dag, levels, tables)
    with pytest.raises(ValueError, match="different levels of 'a'"):
        bn.DiscreteNetwork(dag, {**levels, "a": ("0", "0")}, good)


def test_questions_that_make_no_sense_are_refused():
    network = sprinkler()
    for ask, message in (
        (lambda: bn.query(network, ["snow"]), r"got \['snow'\]"),
        (lambda: bn.query(network, []), "one target at least"),
        (lambda: bn.query(network, ["rain"], given={"rain": "yes"}), r"\['rain'\] twice"),
        (lambda: bn.query(network, ["rain"], given={"wet": "yes"}, do={"wet": "yes"}), r"\['wet'\] twice"),
        (lambda: bn.query(network, ["rain"], given={"wet": "damp"}), "value of 'wet' among"),
        (lambda: bn.marginals(network, do={"wet": "damp"}), "value of 'wet' among"),
        (lambda: bn.sample(network, 0, seed=0), "num_rows"),
        (lambda: bn.EM(-1.0)(network.dag, bn.sample(network, 5, seed=0), seed=0), "zero or more"),
        (lambda: bn.posterior_mean(network.dag, bn.sample(network, 5, seed=0), 0.0), "positive sample_size"),
    ):
        with pytest.raises(ValueError, match=message):
            ask()
    other = bn.CategoricalData.of(pd.DataFrame({"rain": ["yes", "drizzle"]}))
    with pytest.raises(ValueError, match=r"got \['drizzle'\]"):
        bn.log_prob(network, other)
    with pytest.raises(ValueError, match=r"got \['hail'\]; drop them"):
        bn.log_prob(network, bn.CategoricalData.of(pd.DataFrame({"hail": ["yes", "no"]})))


def test_what_cannot_be_is_told():
    network = sprinkler()
    never = {"wet": "yes", "rain": "no", "sprinkler": "no"}
    for ask in (
        lambda: bn.marginals(network, given={"wet": "yes"}, do={"rain": "no", "sprinkler": "no"}),
        lambda: bn.marginals(network, given=never),
        lambda: bn.sample(network, 5, seed=0, given=never),
    ):
        with pytest.raises(ValueError, match="expected evidence that can occur"):
            ask()
    rows = bn.CategoricalData(dict(network.levels), np.array([[1, 1, 0], [0, 0, 0], [1, 1, -1]]))
    found = bn.log_prob(network, rows)
    assert np.isneginf(found[0]) and np.isfinite(found[1:]).all()
    impossible = bn.CategoricalData(dict(network.levels), np.array([[-1, 0, 1], [1, 1, 0]]))
    with pytest.raises(ValueError, match=r"got 1 of probability zero, the first of them \[1\]"):
        bn.impute(network, impossible, seed=0)
