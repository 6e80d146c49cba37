"""Linear kinetics of gene networks: exact sums over regulators, against brute force and simulations of known networks."""

import math
import os
from itertools import combinations, product

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_t
from sklearn.metrics import roc_auc_score

from probmodel.data.signaling import dream4, simulated_genes
from probmodel.families.bayesian_networks import kinetics
from probmodel.families.bayesian_networks.kinetics import LinearKinetics, SteadyStates, Trajectories

needs_data = pytest.mark.skipif("PROBMODEL_DATA" not in os.environ, reason="PROBMODEL_DATA names no folder with DREAM4")


def simulated(**settings):
    genes = simulated_genes(**settings)
    return Trajectories(genes.trajectories, genes.disturbed), SteadyStates(genes.steady, genes.set_gene)


def test_the_sum_over_regulators_equals_the_student_t_of_every_set(monkeypatch):
    for name, value in (("PERSISTENCE", (0.3,)), ("STEADY_PRECISIONS", (0.5,)), ("COEFFICIENT_VARIANCE", (4.0,))):
        monkeypatch.setattr(kinetics, name, value)
    trajectories, steady = simulated(num_genes=3, num_series=2, num_times=4)
    found = LinearKinetics(num_regulators=0.8, input_fraction=0.4, max_terms=2)(trajectories, steady)
    every = np.concatenate([steady.x, trajectories.x.reshape(-1, 3)])
    mean, deviation = every.mean(0), every.std(0)
    at_rest, x = (steady.x - mean) / deviation, (trajectories.x - mean) / deviation
    total, edges = 0.0, np.zeros((3, 3))
    for gene in range(3):
        kept = [row for row, set_gene in zip(at_rest, steady.set_gene, strict=True) if set_gene != gene]
        others = [i for i in range(3) if i != gene]
        y, design, levels, deviations = [], [], [], []
        for row in kept:
            y.append(row[gene])
            design.append([*row[others], 0.0, 0.0])
            levels.append([1.0, 0.0])
            deviations.append(1 / math.sqrt(0.5))
        for s, t in product(range(2), range(3)):
            # As a density of the next level itself: coefficients are multiplied by 1 − ρ.
            y.append(x[s, t + 1, gene] - 0.3 * x[s, t, gene])
            inputs = [float(trajectories.disturbed[s, t] and s == each) for each in range(2)]
            design.append([0.7 * value for value in (*x[s, t, others], *inputs)])
            levels.append([0.0, 0.7])
            deviations.append(1.0)
        y, design, levels = np.array(y), np.array(design), np.array(levels)
        prior_probability = np.array([0.4, 0.4, 0.4, 0.4])
        terms, priors, members = [], [], []
        for size in range(3):
            for chosen in combinations(range(4), size):
                columns = design[:, chosen]
                cover = np.diag(np.square(deviations)) + 100.0 * levels @ levels.T + 4.0 * columns @ columns.T
                prior = sum(math.log(prior_probability[i] / (1 - prior_probability[i])) for i in chosen)
                t = multivariate_t(np.zeros(len(y)), cover * 0.05 / 0.5, df=1.0)
                terms.append(t.logpdf(y) + prior)
                priors.append(prior)
                members.append(chosen)
        total += logsumexp(terms) - logsumexp(priors)
        weight = np.exp(terms - logsumexp(terms))
        for position, parent in enumerate(others):
            edges[parent, gene] = sum(w for w, chosen in zip(weight, members, strict=True) if position in chosen)
    assert found.log_evidence == pytest.approx(total, abs=1e-8)
    assert np.abs(found.edges - edges).max() < 1e-9


def test_regulators_of_simulated_networks_come_first_and_are_as_probable_as_they_are_true():
    probability, truth = [], []
    for seed in range(4):
        genes = simulated_genes(num_genes=5, noise=0.2, seed=seed)
        found = LinearKinetics(max_terms=4)(
            Trajectories(genes.trajectories, genes.disturbed), SteadyStates(genes.steady, genes.set_gene)
        )
        apart = ~np.eye(5, dtype=bool)
        probability.append(found.edges[apart])
        truth.append(genes.edges[apart])
    p, t = np.concatenate(probability), np.concatenate(truth)
    assert roc_auc_score(t, p) > 0.95
    # What is expected of the posterior: as many edges as there are, within four standard errors.
    assert abs(p.sum() - t.sum()) < 4 * math.sqrt((p * (1 - p)).sum() + 1.0)


def test_data_of_no_network_leave_the_prior_or_less():
    rng = np.random.default_rng(3)
    trajectories = Trajectories(rng.normal(size=(3, 8, 5)), np.zeros((3, 8), dtype=bool))
    found = LinearKinetics(max_terms=3)(trajectories, SteadyStates(rng.normal(size=(6, 5)), [None] * 6))
    assert found.edges.sum() / 5 < 1.5
    # Where nothing ever disturbs, what the inputs act on is as probable as before, but for the limit of three terms.
    assert np.abs(found.inputs - 1 / 3).max() < 0.1


def test_the_order_of_genes_and_of_series_does_not_matter():
    trajectories, steady = simulated(num_genes=4, num_series=3, num_times=6)
    order, turn = [2, 0, 3, 1], [1, 2, 0]
    one = LinearKinetics(max_terms=3)(trajectories, steady)
    moved = SteadyStates(steady.x[:, order], [None if g is None else order.index(g) for g in steady.set_gene])
    other = LinearKinetics(max_terms=3)(
        Trajectories(trajectories.x[turn][:, :, order], trajectories.disturbed[turn]), moved
    )
    assert np.abs(one.edges[np.ix_(order, order)] - other.edges).max() < 1e-9
    assert np.abs(one.inputs[np.ix_(turn, order)] - other.inputs).max() < 1e-9
    assert one.log_evidence == pytest.approx(other.log_evidence, abs=1e-8)


def test_rescaling_a_gene_changes_nothing():
    trajectories, steady = simulated(num_genes=4, num_series=3, num_times=6)
    scale = np.array([1.0, 10.0, 0.1, 3.0])
    one = LinearKinetics(max_terms=3)(trajectories, steady)
    other = LinearKinetics(max_terms=3)(
        Trajectories(trajectories.x * scale + 5.0, trajectories.disturbed), steady._replace(x=steady.x * scale + 5.0)
    )
    assert np.abs(one.edges - other.edges).max() < 1e-9


def test_a_row_where_a_gene_was_set_says_nothing_of_its_regulators():
    trajectories, steady = simulated(num_genes=4, num_series=3, num_times=6, noise=0.5)
    free = SteadyStates(steady.x, [None, 0, None, 2, 3])
    with_row, without = (
        LinearKinetics(max_terms=3)(trajectories, free),
        LinearKinetics(max_terms=3)(trajectories, steady),
    )
    assert np.abs(with_row.edges[:, 1] - without.edges[:, 1]).max() > 1e-3
    assert np.abs(with_row.edges[:, 0] - without.edges[:, 0]).max() < 1e-12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, s: (t._replace(disturbed=t.disturbed[:, 1:]), s), "disturbed"),
        (lambda t, s: (t, s._replace(set_gene=[None])), "None where no gene was set"),
        (lambda t, s: (t, s._replace(x=s.x * np.nan)), "finite"),
        (lambda t, s: (t, s._replace(set_gene=[9, *s.set_gene[1:]])), "genes set among"),
        (lambda t, s: (t._replace(x=t.x[:, :, :2]), s), "same two genes"),
        (lambda t, s: (t._replace(x=t.x * [1, 1, 0]), s._replace(x=s.x * [1, 1, 0])), "constant"),
    ],
)
def test_bad_input_is_named(change, words):
    trajectories, steady = simulated(num_genes=3, num_series=2, num_times=4)
    with pytest.raises(ValueError, match=words):
        LinearKinetics()(*change(trajectories, steady))


@needs_data
def test_edges_of_a_dream_network_come_first():
    genes = dream4(4)
    found = LinearKinetics(max_terms=3)(
        Trajectories(genes.trajectories, genes.disturbed), SteadyStates(genes.steady, genes.set_gene)
    )
    first = np.argsort(-found.edges, axis=None)[:8]
    assert genes.edges.flatten()[first].sum() >= 7


def test_a_dream_network_of_another_number_is_refused():
    with pytest.raises(ValueError, match="1 to 5"):
        dream4(6)
