"""Bayesian networks as models: exact posteriors and evidences, every verb, and classes by the joint probability."""

import math
import warnings
from itertools import product

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.stats import multivariate_t

import probmodel as pb
from probmodel.families.bayesian_networks.categorical_data import CategoricalData
from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.all_families import family_scores
from probmodel.families.bayesian_networks.scores.categorical_scores import BDeu, log_likelihood, score
from probmodel.families.bayesian_networks.scores.gaussian_scores import BGe, gaussian_score, moments
from probmodel.layers.decisions import ClassifyJoint
from probmodel.layers.features import MLP, Discretize, Identity, Standardize
from probmodel.layers.representations import ClassNetwork
from probmodel.layers.representations.bayesian_network import (
    CategoricalNetwork,
    ConditionalGaussianNetwork,
    LinearGaussianNetwork,
    NonlinearNetwork,
    best_augmented,
    conditional_information,
    gaussian_conditional_information,
    naive_bayes,
    tree_augmented,
)
from probmodel.protocols.dataset import Dataset

ROWS = 24
SIZES = {"u": 2, "v": 3}
PRIOR = BGe(0.7, 3.5)


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def whole(seed: int, rows: int, sizes: tuple[int, ...]) -> np.ndarray:
    """Categorical columns that depend on each other."""
    values = numbers(seed, rows, 1) + numbers(seed + 1, rows, len(sizes))
    return np.stack(
        [np.searchsorted(np.quantile(v, np.arange(1, r) / r), v) for v, r in zip(values.T, sizes, strict=True)], 1
    )


def categories(codes: np.ndarray, sizes: dict[str, int]) -> CategoricalData:
    return CategoricalData({name: tuple(map(str, range(r))) for name, r in sizes.items()}, codes)


def rows_of(x: np.ndarray, **kwargs: torch.Tensor) -> Dataset:
    return Dataset((torch.as_tensor(x),), kwargs, len(x))


def mixed_rows(rows: int = ROWS) -> np.ndarray:
    """Columns u, v (discrete), a, b (real): b follows a, differently for each v."""
    codes = whole(2, rows, (2, 3))
    a = 0.7 * codes[:, 0] + numbers(3, rows)
    b = (codes[:, 1] - 1) * a + 0.5 * numbers(4, rows)
    return np.column_stack([codes, a, b])


def categorical() -> tuple[CategoricalNetwork, Dataset]:
    dag, codes = DAG.from_string("[u][v|u]"), whole(0, ROWS, (2, 3))
    return CategoricalNetwork(dag, SIZES, 6.0).double(), rows_of(codes)


def linear_gaussian() -> tuple[LinearGaussianNetwork, Dataset]:
    x = mixed_rows()[:, 2:]
    return LinearGaussianNetwork(DAG.from_string("[a][b|a]"), torch.as_tensor(x.mean(0)), PRIOR), rows_of(x)


def conditional_gaussian() -> tuple[ConditionalGaussianNetwork, Dataset]:
    x = mixed_rows()[:, [0, 2, 3]]
    dag = DAG.from_string("[u][a|u][b|a]")
    return ConditionalGaussianNetwork(dag, {"u": 2}, torch.as_tensor(x.mean(0)), sample_size=4.0, prior=PRIOR), rows_of(
        x
    )


def nonlinear() -> tuple[NonlinearNetwork, Dataset]:
    x = mixed_rows()[:, [0, 2]]
    return NonlinearNetwork(DAG.from_string("[u|a][a]"), {"u": 2}, num_hidden=1), rows_of(x)


EXACT = {
    "categorical": categorical,
    "linear Gaussian": linear_gaussian,
    "conditional Gaussian": conditional_gaussian,
}
NETWORKS = {**EXACT, "nonlinear": nonlinear}
each_exact, each_network = pytest.mark.parametrize("name", EXACT), pytest.mark.parametrize("name", NETWORKS)


# ------------------------------------------------------------------------------------------ evidence in closed form


@pytest.mark.parametrize("text", ["[a][b|a][c|a:b]", "[c][b|c][a]", "[a][b][c|a]"])
def test_the_exact_evidence_of_categorical_variables_is_their_score(text):
    sizes = {"a": 2, "b": 3, "c": 4}
    codes, dag = whole(0, 60, (2, 3, 4)), DAG.from_string(text)
    data, columns = categories(codes, sizes), ["abc".index(node) for node in dag.nodes]
    network = CategoricalNetwork(dag, sizes, 7.0).double()
    mixed = ConditionalGaussianNetwork(dag, sizes, torch.zeros(3).double(), sample_size=7.0)
    expected = score(dag, data, BDeu(7.0))
    assert math.isclose(network.exact_posterior(rows_of(codes[:, columns])).log_evidence, expected, rel_tol=1e-12)
    found = mixed.exact_posterior(rows_of(codes[:, columns].astype(float))).log_evidence
    assert math.isclose(found, expected, rel_tol=1e-12)


@pytest.mark.parametrize("text", ["[a][b|a][c|a:b]", "[c][b|c][a]", "[a][b][c|a:b]"])
def test_the_exact_evidence_of_real_variables_is_their_score(text):
    x, dag = numbers(0, 40, 3) @ numbers(1, 3, 3) + 2.0, DAG.from_string(text)
    columns = ["abc".index(node) for node in dag.nodes]
    center, data = torch.as_tensor(x[:, columns].mean(0)), rows_of(x[:, columns])
    expected = gaussian_score(dag, "abc", moments(x), PRIOR)
    for network in (
        LinearGaussianNetwork(dag, center, PRIOR),
        ConditionalGaussianNetwork(dag, {}, center, prior=PRIOR),
    ):
        assert math.isclose(network.exact_posterior(data).log_evidence, expected, rel_tol=1e-12)


def student(y: np.ndarray, parents: np.ndarray, center: float, at: np.ndarray, p: int) -> float:
    """Log density of one regression's rows, with its parameters integrated out: a multivariate Student t."""
    a, b = 0.5 * (PRIOR.extra_rows + p + 1), 0.5 * PRIOR.scale
    design = parents - at
    spread = np.eye(len(y)) + 1 / PRIOR.mean_rows + design @ design.T / PRIOR.scale
    return float(multivariate_t(np.full(len(y), center), b / a * spread, df=2 * a).logpdf(y))


def test_the_exact_evidence_of_mixed_variables_is_a_student_density_for_each_combination():
    x, dag = mixed_rows(60), DAG.from_string("[u][v|u][a|u][b|a:v:u]")
    center = np.array([0.0, 0.0, 0.3, -0.4])
    network = ConditionalGaussianNetwork(dag, SIZES, torch.as_tensor(center), sample_size=5.0, prior=PRIOR)
    expected = score(DAG.from_string("[u][v|u]"), categories(x[:, :2].astype(int), SIZES), BDeu(5.0))
    for u in range(2):
        rows = x[x[:, 0] == u]
        expected += student(rows[:, 2], np.zeros((len(rows), 0)), 0.3, np.zeros(0), 0)
        for v in range(3):
            few = rows[rows[:, 1] == v]
            expected += student(few[:, 3], few[:, 2:3], -0.4, center[2:3], 1) if len(few) else 0.0
    assert math.isclose(network.exact_posterior(rows_of(x)).log_evidence, expected, rel_tol=1e-9)


@each_exact
def test_every_draw_of_the_exact_posterior_weighs_the_evidence(name):
    """log p(data, θ) − log q(θ) is constant in θ exactly where q is the posterior."""
    network, data = EXACT[name]()
    fit = pb.Exact(num_samples=200)(network, data, seed=0)
    exact = pb.evidence.exact(fit)
    assert exact.log_z == fit.info["log_evidence"] == exact.lower == exact.upper
    found = pb.evidence.iwae(fit, seed=1)
    assert abs(found.log_z - exact.log_z) < 1e-9
    assert found.stderr < 1e-9


@each_exact
def test_draws_have_the_moments_of_the_posterior(name):
    network, data = EXACT[name]()
    fit = pb.Exact(num_samples=20_000)(network, data, seed=0)
    x, draws = data.args[0].double().numpy(), {site: value[0].numpy() for site, value in fit.draws.items()}
    expected: dict[str, np.ndarray] = {}
    if name != "linear Gaussian":
        counted = np.bincount(x[:, 0].astype(int), minlength=2)
        prior = 3.0 if name == "categorical" else 2.0
        expected["u.probabilities"] = ((counted + prior) / (counted + prior).sum())[None]
    if name == "categorical":
        table = np.array([[((x == (u, v)).all(1)).sum() + 1.0 for v in range(3)] for u in range(2)])
        expected["v.probabilities"] = table / table.sum(1, keepdims=True)
    else:
        # Ridge regression of b on a, centered at the prior's mean.
        a, b = (x - x.mean(0))[:, -2:].T
        slope = a @ b / (a @ a + PRIOR.scale)
        rate = 0.5 * (PRIOR.scale + b @ b - slope * (a @ b))
        shape = 0.5 * (PRIOR.extra_rows + 2 + ROWS)
        expected["b.slopes"] = np.array([slope])
        expected["b.variance"] = np.array(rate / (shape - 1))
        expected["b.intercept"] = np.array(x.mean(0)[-1] - slope * x.mean(0)[-2])
        spread = expected["b.variance"] / (a @ a + PRIOR.scale)
        assert abs(draws["b.slopes"].var() / spread - 1) < 4 * math.sqrt(3 / 20_000)
    for site, mean in expected.items():
        error = draws[site].std(0) / math.sqrt(20_000)
        assert (np.abs(draws[site].mean(0) - mean) < 4 * error).all(), site


def test_thousands_of_parameters_are_exact():
    rng, names = np.random.default_rng(0), [f"x{i}" for i in range(30)]
    parents = {n: tuple(rng.choice(names[:i], size=min(i, 3), replace=False)) for i, n in enumerate(names)}
    dag = DAG({node: tuple(map(str, found)) for node, found in parents.items()})
    codes = whole(0, 500, (4,) * 30)
    network = CategoricalNetwork(dag, dict.fromkeys(names, 4)).double()
    found = network.exact_posterior(rows_of(codes))
    with pb.isolated(seed=0):
        draws = found.guide.draws(50)
    assert sum(value[0].numel() for value in draws.values()) > 6_500
    assert math.isclose(
        found.log_evidence, score(dag, categories(codes, dict.fromkeys(names, 4)), BDeu(1.0)), rel_tol=1e-12
    )


def test_values_set_from_outside_leave_their_own_family_out():
    codes, dag, sizes = whole(0, 60, (2, 3, 2)), DAG.from_string("[a][b|a][c|b]"), {"a": 2, "b": 3, "c": 2}
    target_of_row = ["b" if row % 3 == 0 else "c" if row % 3 == 1 else None for row in range(60)]
    intervened = torch.tensor([[name == node for node in "abc"] for name in target_of_row])
    network, data = CategoricalNetwork(dag, sizes, 5.0).double(), rows_of(codes, intervened=intervened)
    expected = score(dag, categories(codes, sizes), BDeu(5.0), target_of_row)
    fit = pb.Exact(num_samples=50)(network, data, seed=0)
    assert math.isclose(pb.evidence.exact(fit).log_z, expected, rel_tol=1e-12)
    assert abs(expected - score(dag, categories(codes, sizes), BDeu(5.0))) > 1
    # The model leaves out the same rows as the posterior.
    assert pb.evidence.iwae(fit, seed=0).stderr < 1e-9


def test_regressions_leave_values_set_from_outside_out():
    network, data = linear_gaussian()
    x = data.args[0]
    intervened = torch.zeros(x.shape, dtype=torch.bool)
    intervened[:9, 1] = True
    given = Dataset(data.args, {"intervened": intervened}, data.size)
    b, a, center = x[9:, 1].numpy(), x[9:, :1].numpy(), x.mean(0).numpy()
    root = student(x[:, 0].numpy(), np.zeros((ROWS, 0)), center[0], np.zeros(0), 0)
    expected = root + student(b, a, center[1], center[:1], 1)
    fit = pb.Exact(num_samples=50)(network, given, seed=0)
    assert math.isclose(fit.info["log_evidence"], expected, rel_tol=1e-9)
    assert pb.evidence.iwae(fit, seed=0).stderr < 1e-9


@each_network
def test_minibatches_average_to_all_rows(name):
    network, data = NETWORKS[name]()
    theta = torch.as_tensor(numbers(5, 3, pb.target(network, data).dim))
    halves = [data.rows(torch.arange(0, ROWS, 2)), data.rows(torch.arange(1, ROWS, 2))]
    parts = [pb.target(network, half).log_joint(theta) for half in halves]
    torch.testing.assert_close(sum(parts) / 2, pb.target(network, data).log_joint(theta))
    if name in EXACT:
        assert network.exact_posterior(halves[0]) is None


# ------------------------------------------------------------------------------------------ every verb


@each_exact
def test_two_sided_bounds_hold_the_closed_form(name):
    network, data = EXACT[name]()
    fit = pb.Exact(num_samples=2_000)(network, data, seed=0)
    found = pb.evidence.sandwich(fit, seed=0, precision=0.02, max_chains=4_000)
    exact = fit.info["log_evidence"]
    assert found.log_z == exact
    for method in ("ais", "reverse ais", "smc", "bridge"):
        estimate = found.agreement[method]
        assert abs(estimate.log_z - exact) < 4 * estimate.stderr + 1e-9 < 1.2, method
    assert found.lower <= exact + 1e-6
    assert found.upper >= exact - 1e-6


def test_estimators_of_a_nonlinear_network_agree_with_its_integral():
    """Very many draws of the prior are the reference."""
    network, data = nonlinear()
    few = data.rows(slice(8))._replace(size=8)
    target = pb.target(network, few)
    log_likelihood = target.log_likelihood(target.sample_prior(200_000, 0))
    weights = (log_likelihood - log_likelihood.max()).exp()
    reference = float(weights.mean().log() + log_likelihood.max())
    error = float(weights.std() / weights.mean() / math.sqrt(len(weights)))
    found = pb.evidence.smc(target, seed=0)
    assert error < 0.02
    assert abs(found.log_z - reference) < 4 * math.hypot(found.stderr, error) < 0.5


@each_network
def test_svi_bounds_the_evidence_from_below(name):
    network, data = NETWORKS[name]()
    fit = pb.SVI(
        num_steps=600, num_samples=500, optimizer=lambda p: torch.optim.Adam(p, lr=0.03), compile=False, progress=False
    )(network, data, seed=0)
    bound = pb.evidence.elbo(fit, seed=0)
    if name in EXACT:
        exact = pb.evidence.exact(fit)
        assert exact.log_z - bound.log_z < 2.0
    else:
        # Hidden units of a node, and their signs, are exchangeable: a normal guide covers one of many equal modes.
        exact = pb.evidence.smc(pb.target(network, data), seed=0)
    assert bound.log_z < exact.log_z + 4 * math.hypot(bound.stderr, exact.stderr)


@each_exact
def test_laplace_finds_the_mode_and_comes_near(name):
    network, data = NETWORKS[name]()
    fit = pb.Laplace(num_samples=1_000)(network, data, seed=0)
    assert abs(pb.evidence.laplace(fit).log_z - pb.evidence.exact(fit).log_z) < 1.5


@pytest.mark.parametrize("name", ["categorical", "linear Gaussian"])
def test_chains_agree_with_the_exact_posterior(name):
    network, data = EXACT[name]()
    chains = pb.NUTS(num_samples=30, num_warmup=40, num_chains=16, compile=False, progress=False)(network, data, seed=0)
    exact = pb.Exact(num_samples=4_000)(network, data, seed=0)
    for site, draws in chains.draws.items():
        by_chain = draws.mean(1)
        error = by_chain.std(0) / 4
        assert ((by_chain.mean(0) - exact.draws[site].mean((0, 1))).abs() < 5 * error + 1e-3).all(), site


@each_exact
def test_a_fit_is_saved_read_and_scored_alike(name, tmp_path):
    network, data = EXACT[name]()
    fit = pb.Exact(num_samples=20)(network, data, seed=0)
    again = pb.load(pb.save(fit, tmp_path / "fit"))
    assert pb.evidence.exact(again).log_z == fit.info["log_evidence"]
    assert all(torch.equal(again.draws[site], draws) for site, draws in fit.draws.items())
    assert pb.evidence.iwae(again, seed=1).log_z == pb.evidence.iwae(fit, seed=1).log_z


def test_a_nonlinear_network_is_saved_and_read(tmp_path):
    network, data = nonlinear()
    fit = pb.Laplace(num_samples=5)(network, data, seed=0)
    again = pb.load(pb.save(fit, tmp_path / "fit"))
    theta = torch.zeros(1, pb.target(network, data).dim).double()
    assert torch.equal(pb.target(again.model, data).log_joint(theta), pb.target(network, data).log_joint(theta))


def test_networks_are_compared_and_told_to_arviz():
    x = rows_of(mixed_rows()[:, 2:])
    center = x.args[0].mean(0)
    fits = {
        text: pb.Exact(num_samples=200)(LinearGaussianNetwork(DAG.from_string(text), center), x, seed=0)
        for text in ("[a][b|a]", "[a][b]")
    }
    evidences = {text: pb.evidence.exact(fit) for text, fit in fits.items()}
    assert evidences["[a][b|a]"].digest == evidences["[a][b]"].digest
    found = pb.to_arviz(fits["[a][b|a]"])
    assert found.posterior["b.slopes"].shape == (1, 200, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diagnosis = pb.diagnose(fits["[a][b|a]"])
    assert str(diagnosis)


# ------------------------------------------------------------------------------------------ bad input


def test_bad_input_is_named():
    network, data = conditional_gaussian()
    x = data.args[0]
    for bad, message in (
        (x[:, :2], r"rows \(N, 3\), columns \['u', 'a', 'b'\]"),
        (x + 0.5, "integers 0 … 1 of 'u'"),
        (x.long(), "real numbers of 'a'"),
        (x / 0, "finite"),
        (torch.cat([x[:, :2], torch.ones(ROWS, 1)], 1), "'b' that differ"),
    ):
        with pytest.raises(ValueError, match=message):
            pb.Exact()(network, Dataset((bad,), {}, ROWS), seed=0)
    table, codes = categorical()
    with pytest.raises(ValueError, match="integers 0 … 2 of 'v', got values from 1 to 3"):
        pb.target(table, Dataset((codes.args[0] + torch.tensor([0, 1]),), {}, ROWS))
    with pytest.raises(ValueError, match=r"intervened of shape \(24, 2\) and dtype bool"):
        pb.target(table, Dataset(codes.args, {"intervened": codes.args[0]}, ROWS))
    with pytest.raises(ValueError, match=r"discrete parents of the discrete node 'v', got \['a'\]"):
        ConditionalGaussianNetwork(DAG.from_string("[a][v|a]"), {"v": 2}, torch.zeros(2))
    with pytest.raises(ValueError, match="cardinality of 'v'"):
        CategoricalNetwork(DAG.from_string("[v]"), {"v": 1})
    with pytest.raises(ValueError, match="sample_size to be a finite number above 0"):
        CategoricalNetwork(DAG.from_string("[v]"), {"v": 2}, 0.0)


# ------------------------------------------------------------------------------------------ classes


def labeled(rows: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.arange(rows) % 3
    return torch.as_tensor(numbers(0, rows, 3) + 1.5 * y[:, None].numpy() * np.array([1.0, -1.0, 0.5])), y


def class_pipeline(*, discrete: bool, dag: DAG | None = None) -> tuple[pb.Pipeline, Dataset]:
    x, y = labeled()
    with pb.isolated(seed=0):
        features = Discretize.fitted(Identity(), x, 3) if discrete else Standardize.fitted(Identity(), x)
        network = ClassNetwork(
            dag or DAG.from_string("[class][a|class][b|a:class][c|class]"),
            3,
            cardinalities=dict.fromkeys("abc", 3) if discrete else {},
            sample_size=4.0,
        )
        return pb.Pipeline(features, network, ClassifyJoint(3)).double(), Dataset((x,), {"y": y}, len(x))


each_kind = pytest.mark.parametrize("discrete", [True, False], ids=["discrete codes", "real codes"])


@each_kind
@pytest.mark.parametrize("text", ["[class][a|class][b|a:class][c|class]", "[class|a][a][b|class][c|b]"])
def test_a_pipeline_by_bayes_rule_is_the_network_of_codes_and_class(discrete, text):
    dag = DAG.from_string(text)
    if not discrete and "class" in text.split("][")[0] and "|" in text.split("][")[0]:
        with pytest.raises(ValueError, match="discrete parents of the discrete node 'class'"):
            class_pipeline(discrete=discrete, dag=dag)
        return
    model, data = class_pipeline(discrete=discrete, dag=dag)
    h = model.features(data.args[0])
    joined = Dataset((torch.cat([data.kwargs["y"][:, None].to(h), h], 1),), {}, 60)
    sizes = {"class": 3, **(dict.fromkeys("abc", 3) if discrete else {})}
    plain = ConditionalGaussianNetwork(dag, sizes, torch.zeros(4).double(), sample_size=4.0)
    pair = pb.target(model, data), pb.target(plain, joined)
    theta = torch.as_tensor(numbers(1, 5, pair[0].dim))
    torch.testing.assert_close(pair[0].log_joint(theta), pair[1].log_joint(theta))
    fit = pb.Exact(num_samples=50)(model, data, seed=0)
    assert math.isclose(pb.evidence.exact(fit).log_z, plain.exact_posterior(joined).log_evidence, rel_tol=1e-9)
    assert pb.evidence.iwae(fit, seed=0).stderr < 1e-9
    assert pb.evidence.exact(fit).given == ()


def test_classes_are_predicted_by_the_joint_probability_of_code_and_class():
    """Tables are independent, so that E[p(h, y)] is the product of their means."""
    model, data = class_pipeline(discrete=True)
    x, y = data.args[0], data.kwargs["y"]
    fit = pb.Exact(num_samples=4_000)(model, data.rows(slice(18))._replace(size=18), seed=0)
    h = model.features(x).long()
    tables = {site: value.concentration for site, value in fit.guide.families.items()}
    mean = {node: table / table.sum(1, keepdim=True) for node, table in tables.items()}
    classes = torch.arange(3)
    joint = mean["class"][0] * mean["a"][classes, h[:, :1]] * mean["c"][classes, h[:, 2:]]
    joint = joint * mean["b"][h[:, :1] * 3 + classes, h[:, 1:2]]
    expected = joint / joint.sum(1, keepdim=True)
    prediction = pb.predict(fit, x, num_samples=4_000)
    weights = prediction.log_weights.exp()[..., None]
    error = (weights.square() * (prediction.by_draw.probs - expected).square()).sum(0).sqrt()
    assert ((prediction.distribution.probs - expected).abs() < 4.5 * error + 1e-9).all()
    # Draws with equal weights have another expectation.
    assert ((prediction.by_draw.probs.mean(0) - expected).abs() > 5 * error).any()
    assert torch.equal(prediction.action, prediction.distribution.probs.argmax(-1))
    assert float((prediction.action == y).double().mean()) > 0.7


@each_kind
def test_a_class_network_is_fitted_by_svi_too(discrete):
    model, data = class_pipeline(discrete=discrete)
    fit = pb.SVI(
        num_steps=500, num_samples=50, optimizer=lambda p: torch.optim.Adam(p, lr=0.05), compile=False, progress=False
    )(model, data, seed=0)
    exact = pb.evidence.exact(fit).log_z
    bound = pb.evidence.elbo(fit, seed=0)
    assert fit.info["fallback"] is None
    assert exact - 12 < bound.log_z < exact + 4 * bound.stderr


@each_kind
def test_a_class_network_is_saved_read_and_predicts_alike(discrete, tmp_path):
    model, data = class_pipeline(discrete=discrete)
    fit = pb.Exact(num_samples=30)(model, data, seed=0)
    again = pb.load(pb.save(fit, tmp_path / "fit"))
    x = data.args[0]
    assert torch.equal(pb.predict(again, x).distribution.probs, pb.predict(fit, x).distribution.probs)


def test_trainable_features_of_a_density_of_codes_are_refused():
    x, y = labeled()
    with pb.isolated(seed=0):
        model = pb.Pipeline(MLP(3, 3), ClassNetwork(naive_bayes(list("abc")), 3), ClassifyJoint(3)).double()
    for method in (pb.Exact(), pb.SVI(num_steps=1, progress=False), pb.Laplace()):
        with pytest.raises(ValueError, match=r"expected fixed features, since ClassNetwork is a density of its codes"):
            method(model, Dataset((x,), {"y": y}, 60), seed=0)


def test_codes_that_a_class_network_is_not_for_are_refused():
    model, data = class_pipeline(discrete=True)
    wrong = pb.Pipeline(Identity(), model.representation, model.decision)
    with pytest.raises(ValueError, match="integers 0 … 2 of 'a'"):
        pb.Exact()(wrong, data, seed=0)
    with pytest.raises(ValueError, match=r"codes \(N, 3\)"):
        model.representation.check_codes(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="the class 'class' among the nodes"):
        ClassNetwork(DAG.from_string("[a]"), 2)
    with pytest.raises(ValueError, match="one column of z for each of 3 classes, got 2; set num_classes=2"):
        ClassifyJoint(3).likelihood(torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"expected a loss of shape \(actions, 3\)"):
        ClassifyJoint(3, loss=torch.zeros(2, 2))


def test_codes_are_part_of_the_data_of_an_evidence():
    """Evidences of two sets of codes are of different data, and cannot be compared."""
    model, data = class_pipeline(discrete=True)
    with pb.isolated(seed=0):
        finer = pb.Pipeline(Discretize.fitted(Identity(), data.args[0], 4), model.representation, model.decision)
    a, b = (pb.target(each, data).digest for each in (model, class_pipeline(discrete=False)[0]))
    assert len({a, b}) == 2
    assert finer.features.bins == 4


# ------------------------------------------------------------------------------------------ structures and features


def test_the_augmenting_tree_is_the_likeliest_of_all():
    codes, names = whole(0, 120, (3, 3, 3, 3, 3)), ["a", "b", "c", "d"]
    y = torch.as_tensor(codes[:, 4])
    found = tree_augmented(conditional_information(torch.as_tensor(codes[:, :4]).double(), y), names)
    data = categories(codes, dict.fromkeys([*names, "class"], 3))
    scores = {}
    for code in product(range(4), repeat=2):
        tree = nx.from_prufer_sequence(list(code))
        parent = dict(nx.bfs_predecessors(tree, 0))
        dag = DAG(
            {
                **{n: (*((names[parent[i]],) if i in parent else ()), "class") for i, n in enumerate(names)},
                "class": (),
            }
        )
        scores[str(dag)] = score(dag, data, log_likelihood)
    assert len(scores) == 16
    assert str(found) == max(scores, key=scores.__getitem__)


def test_information_of_normal_codes_is_that_of_their_correlation():
    x, y = labeled(90)
    x = torch.cat([x, x[:, :1] + 0.5 * x[:, 1:2]], 1)
    found = gaussian_conditional_information(x, y)
    expected = sum(-0.5 / 3 * np.log(1 - np.corrcoef(x[y == k, 0], x[y == k, 3])[0, 1] ** 2) for k in range(3))
    assert abs(found[0, 3] - expected) < 1e-12
    assert "b" in str(tree_augmented(found, list("abcd")))
    assert (found.diagonal() == 0).all()


def test_augmented_graphs_beat_naive_and_tree_augmented_ones():
    codes, names = whole(3, 150, (3, 2, 3, 3)), ["a", "b", "c"]
    data = categories(codes, {"a": 3, "b": 2, "c": 3, "class": 3})
    best = best_augmented(family_scores(data, BDeu(4.0)), names)
    tree = tree_augmented(
        conditional_information(torch.as_tensor(codes[:, :3]).double(), torch.as_tensor(codes[:, 3])), names
    )
    assert all("class" in best.parents[name] for name in names)
    assert not best.parents["class"]
    for other in (naive_bayes(names), tree):
        assert score(best, data, BDeu(4.0)) >= score(other, data, BDeu(4.0))


def test_bins_hold_equally_many_training_rows():
    x = torch.as_tensor(numbers(0, 120, 2))
    features = Discretize.fitted(Identity(), x, 4)
    h = features(x)
    assert all(torch.equal(column.long().bincount(), torch.full((4,), 30)) for column in h.T)
    assert features(torch.full((1, 2), 99.0).double()).tolist() == [[3.0, 3.0]]
    assert features(torch.full((1, 2), -99.0).double()).tolist() == [[0.0, 0.0]]
    with pytest.raises(ValueError, match="bins"):
        Discretize.fitted(Identity(), x, 1)
    with pytest.raises(ValueError, match="edges from low to high"):
        Discretize(Identity(), torch.tensor([[1.0, 0.0]]))


def test_fixed_features_are_standardized_and_leave_the_network_as_it_was():
    x = torch.as_tensor(numbers(0, 50, 4))
    with pb.isolated(seed=0):
        network = MLP(4, 3).double()
        features = Standardize.fitted(network, x)
    h = features(x)
    torch.testing.assert_close(h.mean(0), torch.zeros(3).double())
    torch.testing.assert_close(h.var(0, correction=0), torch.ones(3).double())
    assert not any(p.requires_grad for p in features.parameters())
    assert all(p.requires_grad for p in network.parameters())
    with pytest.raises(ValueError, match="positive scales"):
        Standardize.fitted(Identity(), torch.ones(5, 2))
