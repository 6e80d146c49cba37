"""Mixture of Gaussian processes: evidence over assignments against enumeration, fits of planted functions, predictions."""

import math
from itertools import product

import gpytorch
import pytest
import torch
from gpytorch.kernels import RBFKernel
from gpytorch.utils.warnings import NumericalWarning
from torch import Tensor
from torch.distributions import MixtureSameFamily

import probmodel as pb
from probmodel.evidence.by_family.gp_mixtures import assignments, assignments_ais, assignments_smc
from probmodel.families.gaussian_processes.exact import gp_log_marginal
from probmodel.families.gaussian_processes.mixtures.assignments import (
    Assigned,
    assigned,
    gibbs_sweep,
    log_evidence_by_enumeration,
    log_joint,
    subset_log_marginals,
)
from probmodel.families.gaussian_processes.mixtures.assignments_smc import smc_over_rows
from probmodel.families.gaussian_processes.mixtures.gates import Gate, log_prior_of_counts
from probmodel.families.gaussian_processes.mixtures.soft_assignments import evidence_bound, updated_responsibilities
from probmodel.families.normal_mixture import NormalMixture, modes, quantiles
from probmodel.inference.collapsed_gibbs import CollapsedGibbs
from probmodel.inference.variational_em import VariationalEM
from probmodel.layers.representations import GaussianProcess
from probmodel.layers.representations.gaussian_process.gates import (
    DensityGate,
    DirichletGate,
    SoftmaxGate,
    StickBreakingGate,
)
from probmodel.layers.representations.gaussian_process.mixture import GPMixture
from probmodel.protocols.model import ConditionsOnRows

DOUBLE = torch.float64


def expert(lengthscale: float = 0.3, variance: float = 1.0, noise: float = 0.01) -> GaussianProcess:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
    process = GaussianProcess(kernel, mean=gpytorch.means.ZeroMean()).double()
    kernel.base_kernel.lengthscale = torch.tensor(lengthscale, dtype=DOUBLE)
    kernel.outputscale = torch.tensor(variance, dtype=DOUBLE)
    process.likelihood.noise = torch.tensor(noise, dtype=DOUBLE)
    return process


def alternating(n: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.linspace(0, 1, n, dtype=DOUBLE)
    return x[:, None], (-1.0) ** torch.arange(n, dtype=DOUBLE) * torch.sin(2 * math.pi * x)


def reference(num_experts: int) -> tuple[GPMixture, pb.Dataset]:
    x, y = alternating()
    mixture = GPMixture([expert() for _ in range(num_experts)], DirichletGate(num_experts))
    return mixture, pb.Dataset((x,), {"y": y})


ASYMMETRIC = (expert(), expert(0.7, 2.0, 0.1), expert(0.15, 0.5, 0.03))


def opened(gate: Gate) -> Gate:
    """The gate with parameters away from their initial values."""
    torch.nn.utils.vector_to_parameters(
        torch.linspace(-0.7, 0.9, sum(p.numel() for p in gate.parameters()), dtype=DOUBLE), gate.parameters()
    )
    return gate


GATES = {
    "Dirichlet": lambda k: DirichletGate(k, concentration=0.6),
    "sticks": lambda k: StickBreakingGate(k, concentration=1.3),
    "softmax": lambda k: opened(SoftmaxGate(1, k)),
    "density": lambda k: opened(DensityGate(1, k)),
}


def evaluated(gate: str, num_experts: int, n: int) -> Assigned:
    return assigned(ASYMMETRIC[:num_experts], GATES[gate](num_experts), *alternating(n)).detach()


def every_assignment(model: Assigned) -> tuple[Tensor, Tensor]:
    """All c, and log p(y, c | x) of each, term by term."""
    num_experts, n = model.residual.shape
    c = torch.tensor(list(product(range(num_experts), repeat=n)))
    counts = torch.nn.functional.one_hot(c, num_experts).sum(1).double()
    gate = torch.stack([model.log_input_factors[torch.arange(n), each].sum() for each in c])
    return c, log_joint(model, c) + log_prior_of_counts(model.count_prior, counts) + gate


@pytest.mark.parametrize(("num_experts", "expected"), [(1, -268.3996021), (2, -14.7479318)])
def test_the_reference_evidences_are_met_exactly(num_experts, expected):
    mixture, data = reference(num_experts)
    found = assignments(pb.Posterior(mixture, data, {}, {}))
    assert abs(found.log_z - expected) < 1e-6
    assert found.lower <= found.log_z <= found.upper
    assert "experts.0.likelihood.noise_covar.raw_noise" in found.given


def test_the_model_itself_has_the_exact_evidence_as_its_likelihood():
    mixture, data = reference(2)
    assert abs(pb.evidence.exact(pb.target(mixture, data)).log_z + 14.7479318) < 1e-6


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("num_experts", [2, 3])
def test_the_sum_over_sets_of_rows_is_the_sum_over_assignments(gate, num_experts):
    model = evaluated(gate, num_experts, 6)
    _, log_p = every_assignment(model)
    assert abs(float(log_evidence_by_enumeration(model) - log_p.logsumexp(0))) < 1e-9


@pytest.mark.parametrize("gate", GATES)
def test_gates_are_normalized_over_assignments_and_agree_with_their_own_next_row(gate):
    model = evaluated(gate, 3, 5)
    c, log_p = every_assignment(model)
    prior = log_p - log_joint(model, c)
    assert abs(float(prior.logsumexp(0))) < 1e-12
    counts, chain = torch.zeros(len(c), 3, dtype=DOUBLE), torch.zeros(len(c), dtype=DOUBLE)
    for i in range(5):
        one = torch.nn.functional.one_hot(c[:, i], 3).double()
        chain += ((model.count_prior.log_next_assignment(counts) + model.log_input_factors[i]) * one).sum(1)
        counts += one
    assert torch.allclose(chain, prior, atol=1e-12)


def test_subsets_have_the_marginals_of_single_processes():
    x, y = alternating(5)
    log_l = subset_log_marginals(evaluated("Dirichlet", 2, 5))
    rows = [0, 2, 3]
    each = ASYMMETRIC[1]
    alone = gp_log_marginal(each.mean, each.kernel, each.likelihood, x[rows], y[rows]).detach()
    assert abs(float(log_l[1, sum(2**i for i in rows)] - alone)) < 1e-10


def test_one_stick_is_the_exact_gaussian_process():
    x, y = alternating(40)
    each = expert()
    alone = gp_log_marginal(each.mean, each.kernel, each.likelihood, x, y).detach()
    data = pb.Dataset((x,), {"y": y})
    mixture = GPMixture([each], StickBreakingGate(1))
    assert abs(assignments(pb.Posterior(mixture, data, {}, {})).log_z - float(alone)) < 1e-8
    assert abs(assignments_smc(pb.Posterior(mixture, data, {}, {}), num_repeats=2).log_z - float(alone)) < 1e-8
    whole = evidence_bound(mixture.assigned(x, y).detach(), torch.ones(1, 40, 1, dtype=DOUBLE))
    assert abs(float(whole) - float(alone)) < 1e-8


def partitions(rows: list[int]) -> list[list[list[int]]]:
    if not rows:
        return [[]]
    first, smaller = rows[0], partitions(rows[1:])
    joined = [[*p[:i], [first, *p[i]], *p[i + 1 :]] for p in smaller for i in range(len(p))]
    return joined + [[[first], *p] for p in smaller]


def test_many_sticks_give_the_evidence_of_the_dirichlet_process_over_partitions():
    x, y = alternating(7)
    alpha, each = 0.8, expert()
    log_l = subset_log_marginals(assigned([each], DirichletGate(1), x, y).detach())[0]
    terms = []
    for blocks in partitions(list(range(7))):
        crp = math.lgamma(alpha) - math.lgamma(alpha + 7) + len(blocks) * math.log(alpha)
        crp += sum(math.lgamma(len(b)) for b in blocks)
        terms.append(crp + sum(log_l[sum(2**i for i in b)] for b in blocks))
    assert len(terms) == 877
    exact = float(torch.stack(terms).logsumexp(0))
    cut = assigned([each] * 40, StickBreakingGate(40, concentration=alpha), x, y).detach()
    assert abs(float(log_evidence_by_enumeration(cut)) - exact) < 1e-8


def test_the_order_of_the_experts_does_not_matter_under_a_dirichlet():
    x, y = alternating(8)
    one, two = (
        log_evidence_by_enumeration(assigned(order, DirichletGate(3, concentration=0.7), x, y).detach())
        for order in (ASYMMETRIC, ASYMMETRIC[::-1])
    )
    assert abs(float(one - two)) < 1e-10


def test_the_exact_evidence_has_its_gradient():
    mixture, data = reference(2)
    short = (data.args[0][:6], data.kwargs["y"][:6])
    raw = mixture.experts[0].kernel.raw_outputscale

    def value() -> Tensor:
        return log_evidence_by_enumeration(mixture.assigned(*short))

    (grad,) = torch.autograd.grad(value(), raw)
    with torch.no_grad():
        raw += 1e-5
        above = value()
        raw -= 2e-5
        below = value()
    assert abs(float((above - below) / 2e-5 - grad)) < 1e-6


def test_too_many_rows_to_enumerate_are_refused_with_the_remedy():
    x, y = alternating(17)
    with pytest.raises(ValueError, match=r"at most 16 rows .*assignments_smc"):
        assignments(pb.Posterior(GPMixture([expert(), expert()], DirichletGate(2)), pb.Dataset((x,), {"y": y}), {}, {}))


# ---------------------------------------------------------------------------------------------- Monte Carlo


def test_particles_meet_the_reference_within_two_hundredths():
    mixture, data = reference(2)
    found = assignments_smc(pb.Posterior(mixture, data, {}, {}), num_particles=100)
    assert abs(found.log_z + 14.7479318) < 0.02
    assert found.lower <= found.log_z


@pytest.mark.parametrize("gate", GATES)
def test_particles_are_unbiased_for_the_evidence(gate):
    model = evaluated(gate, 3, 8)
    exact = float(log_evidence_by_enumeration(model))
    with pb.isolated(0):
        runs = torch.stack([smc_over_rows(model, 6, torch.randperm(8)).log_z for _ in range(400)])
    ratios = (runs - exact).exp()
    assert float(ratios.std()) > 0.01
    assert abs(float(ratios.mean()) - 1) < 4 * float(ratios.std()) / 20


def test_enough_particles_are_the_exact_sum():
    model = evaluated("softmax", 3, 5)
    particles = smc_over_rows(model, 3**5, torch.tensor([3, 1, 4, 0, 2]))
    assert abs(float(particles.log_z - log_evidence_by_enumeration(model))) < 1e-10
    c, log_p = every_assignment(model)
    order = {tuple(each.tolist()): float(value) for each, value in zip(c, log_p, strict=True)}
    for each, value in zip(particles.c, particles.log_weights, strict=True):
        assert abs(order[tuple(each.tolist())] - float(value)) < 1e-9


def test_annealing_agrees_with_the_enumeration():
    x, y = alternating(8)
    mixture, data = GPMixture(ASYMMETRIC[:2], DirichletGate(2)), pb.Dataset((x,), {"y": y})
    found = assignments_ais(pb.Posterior(mixture, data, {}, {}), num_chains=400, num_steps=40)
    assert abs(found.log_z - assignments(pb.Posterior(mixture, data, {}, {})).log_z) < 4 * found.stderr < 0.4


@pytest.mark.parametrize("gate", ["sticks", "softmax"])
def test_gibbs_leaves_the_posterior_of_the_assignments_alone(gate):
    model = evaluated(gate, 2, 4)
    c, log_p = every_assignment(model)
    exact = log_p.softmax(0)
    with pb.isolated(1):
        draws = c[torch.randint(len(c), (4000,))]
        for _ in range(12):
            draws = gibbs_sweep(model, draws).c
    code = (draws * 2 ** torch.arange(3, -1, -1)).sum(1)
    share = code.bincount(minlength=16) / 4000
    assert (share - exact).abs().max() < 4 * 0.5 / math.sqrt(4000)


# ---------------------------------------------------------------------------------------------- the bound


@pytest.mark.parametrize("gate", GATES)
def test_the_bound_of_certain_assignments_is_their_joint_density(gate):
    model = evaluated(gate, 3, 4)
    c, log_p = every_assignment(model)
    r = torch.nn.functional.one_hot(c, 3).double()
    assert torch.allclose(evidence_bound(model, r), log_p, atol=1e-7)


@pytest.mark.parametrize("gate", GATES)
def test_the_bound_rises_with_each_e_step_and_stays_below_the_evidence(gate):
    model = evaluated(gate, 3, 8)
    exact = float(log_evidence_by_enumeration(model))
    with pb.isolated(2):
        r = torch.rand(5, 8, 3, dtype=DOUBLE).softmax(-1)
    values = []
    for _ in range(10):
        values.append(evidence_bound(model, r))
        r = updated_responsibilities(model, r)
    rising = torch.stack(values)
    assert (rising.diff(dim=0) > -1e-9).all()
    assert rising.max() < exact


# ---------------------------------------------------------------------------------------------- fits


def crossing(num_rows: int = 200) -> tuple[pb.Dataset, Tensor, Tensor]:
    """Two smooth functions that cross, the function of each row, and the rows where the two differ."""
    with pb.isolated(3):
        x = torch.rand(num_rows, 1, dtype=DOUBLE) * 2 - 1
        c = (torch.rand(num_rows) < 0.5).long()
        f = torch.stack([torch.sin(2.5 * x[:, 0]), 0.3 * x[:, 0] ** 2 - torch.sin(2.5 * x[:, 0])])
        y = f.gather(0, c[None])[0] + 0.1 * torch.randn(num_rows, dtype=DOUBLE)
    return pb.Dataset((x,), {"y": y}), c, (f[0] - f[1]).abs() > 0.6


def smooth() -> GaussianProcess:
    return expert(0.5, 1.0, 0.02)


@pytest.fixture(scope="module")
def crossing_fit() -> pb.Posterior:
    data, _, _ = crossing(120)
    mixture = GPMixture([smooth() for _ in range(4)], StickBreakingGate(4))
    return VariationalEM(num_restarts=2)(mixture, data, seed=0)


def test_two_crossing_functions_are_recovered_and_their_number_inferred(crossing_fit):
    _, c, apart = crossing(120)
    r = crossing_fit.model.responsibilities[0]
    assert crossing_fit.info["num_experts"] == 2
    two = r.sum(0).topk(2).indices
    assert torch.isin(r.argmax(1)[apart], two).all()
    first = (r.argmax(1) == two[0]).long()[apart]
    agree = float((first == c[apart]).double().mean())
    assert max(agree, 1 - agree) > 0.98  # Which of the two comes first does not matter.


def test_the_predictive_has_two_modes_where_the_functions_are_apart_and_a_density_that_adds_up(crossing_fit):
    at = torch.tensor([[0.6], [-0.6]], dtype=DOUBLE)
    prediction = pb.predict(crossing_fit, at)
    assert isinstance(prediction.distribution, MixtureSameFamily)
    mixture = crossing_fit.model.given(crossing_fit.data).predictive(at)
    grid = torch.linspace(-4, 4, 8001, dtype=DOUBLE)
    density = prediction.distribution.log_prob(grid[:, None]).exp()
    assert torch.allclose(density.sum(0) * (grid[1] - grid[0]), torch.ones(2, dtype=DOUBLE), atol=2e-3)
    assert torch.allclose(density.log(), mixture.log_prob(grid[:, None]), atol=1e-9)
    for row, value in zip(modes(mixture), at[:, 0], strict=True):
        expected = torch.sin(2.5 * value), 0.3 * value**2 - torch.sin(2.5 * value)
        assert (row[:2].sort().values - torch.stack(expected).sort().values).abs().max() < 0.15
    q = quantiles(prediction.distribution, torch.tensor([0.05, 0.5, 0.95], dtype=DOUBLE))
    assert torch.allclose(mixture.cdf(q), torch.tensor([[0.05], [0.5], [0.95]], dtype=DOUBLE).expand(3, 2), atol=1e-9)


def test_gibbs_draws_predict_as_the_fit_does_and_keep_two_experts(crossing_fit):
    drawn = CollapsedGibbs(num_samples=4, num_warmup=4, num_chains=2)(crossing_fit.model, crossing_fit.data, seed=0)
    at = torch.linspace(-0.9, 0.9, 7, dtype=DOUBLE)[:, None]
    one, two = (fit.model.given(fit.data).predictive(at) for fit in (crossing_fit, drawn))
    assert drawn.draws["assignments"].shape == (2, 4, 120)
    assert (one.mean - two.mean).abs().max() < 0.15
    y = torch.linspace(-1.2, 1.2, 25, dtype=DOUBLE)[:, None]
    assert (one.cdf(y) - two.cdf(y)).abs().max() < 0.15


def test_inference_leaves_the_model_it_is_given_alone():
    mixture, data = reference(2)
    before = [p.detach().clone() for p in mixture.parameters()]
    fit = VariationalEM(num_restarts=1, num_finalists=1, num_rounds=1, max_steps=5)
    with pytest.warns(UserWarning, match="still rose"):
        fit(mixture, data, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, mixture.parameters(), strict=True))
    assert mixture.responsibilities is None


def test_an_input_gate_hands_over_where_the_experts_do():
    with pb.isolated(4):
        x = torch.linspace(-1.5, 1.5, 80, dtype=DOUBLE)[:, None]
        scale = torch.where(x[:, 0] < 0, 0.05, 0.7)
        y = torch.sin(2 * x[:, 0]) + scale * torch.randn(80, dtype=DOUBLE)
    data = pb.Dataset((x,), {"y": y})
    for gate in (SoftmaxGate(1, 2), DensityGate(1, 2)):
        fit = VariationalEM(num_restarts=2)(GPMixture([expert(0.5), expert(0.5)], gate), data, seed=0)
        spread = fit.model.given(data).predictive(torch.tensor([[-1.0], [1.0]], dtype=DOUBLE)).stddev
        assert spread[0] < 0.15 and spread[1] > 0.4


# ---------------------------------------------------------------------------------------------- the distribution


def test_modes_and_quantiles_of_a_known_mixture():
    mixture = NormalMixture(
        torch.tensor([[0.3, 0.7], [0.5, 0.5]], dtype=DOUBLE).log(),
        torch.tensor([[-3.0, 3.0], [-0.5, 0.5]], dtype=DOUBLE),
        torch.tensor([[1.0, 0.5], [1.0, 1.0]], dtype=DOUBLE),
    )
    two, one = modes(mixture)
    assert torch.allclose(two, torch.tensor([3.0, -3.0], dtype=DOUBLE), atol=1e-6)
    assert torch.allclose(one, torch.zeros(1, dtype=DOUBLE), atol=1e-2)
    # The lower one is 0.3 × 0.5 / (0.7 × 1) = 0.214 of the higher.
    assert len(modes(mixture, least=0.2)[0]) == 2 and torch.equal(modes(mixture, least=0.23)[0], two[:1])
    with pytest.raises(ValueError, match=r"expected least in \[0, 1\)"):
        modes(mixture, least=1.0)
    assert abs(float(quantiles(mixture, torch.tensor([0.5], dtype=DOUBLE))[0, 1])) < 1e-9
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantiles(mixture, torch.tensor([0.0, 0.5]))


def test_draws_of_the_model_have_the_moments_of_its_experts():
    mixture = GPMixture([expert(0.3, 1.0, 0.01), expert(0.3, 4.0, 0.5)], DirichletGate(2))
    with pb.isolated(5):
        y = mixture(torch.linspace(0, 1, 3, dtype=DOUBLE)[:, None])
        assert y.shape == (3,)
        from_model = torch.stack([mixture(torch.zeros(1, 1, dtype=DOUBLE))[0] for _ in range(2000)])
    variance = (1.01 + 4.5) / 2
    assert abs(float(from_model.var()) - variance) < 4 * variance * math.sqrt(3 / 2000)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: GPMixture([expert()], DirichletGate(2)), "gate of 1 experts, got 2"),
        (lambda: DirichletGate(2, concentration=0.0), "positive finite number"),
        (lambda: reference(2)[0].given(reference(2)[1]), "fit the mixture"),
        (lambda: VariationalEM()(expert(), reference(2)[1], seed=0), "expected a GPMixture"),
        (lambda: assignments(pb.Posterior(reference(2)[0], pb.Dataset((alternating()[0],)), {}, {})), "x and y"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_mixture_is_a_model_of_linked_rows():
    mixture, data = reference(2)
    assert isinstance(mixture, ConditionsOnRows)
    with pytest.raises(ValueError, match="size=None"):
        mixture.check(data._replace(size=12))


# ---------------------------------------------------------------------------------------------- no bound for an evidence


@pytest.fixture(scope="module")
def fitted_to_forty() -> pb.Posterior:
    data, _, _ = crossing(40)
    mixture = GPMixture([smooth(), smooth()], DirichletGate(2))
    return VariationalEM(num_restarts=2)(mixture, data, seed=0)


def test_the_variational_bound_never_stands_for_the_evidence(fitted_to_forty):
    fit = fitted_to_forty
    smc = assignments_smc(fit)
    assert fit.info["bound"] < smc.lower
    assert pb.evidence.best(fit).log_z == smc.log_z
    with pytest.raises(ValueError, match="assignments_smc"):
        pb.evidence.exact(fit)
    with pytest.raises(ArithmeticError, match="assignments_smc"):
        pb.evidence.exact(pb.target(fit.model, fit.data))


def test_the_sandwich_of_a_mixture_sets_annealing_beside_particles(fitted_to_forty):
    found = pb.evidence.sandwich(fitted_to_forty)
    assert len(found.agreement) == 2
    assert found.agreement.p_value > 1e-5
    assert found.lower < found.log_z < found.upper == math.inf
    first, second = found.agreement
    assert abs(first.log_z - second.log_z) < 4 * math.hypot(first.stderr, second.stderr)


def test_a_product_of_experts_is_no_mixture():
    x, y = alternating()
    product = pb.gp.GPProduct(expert().kernel, shards=3).double()
    subject = pb.Posterior(product, pb.Dataset((x,), {"y": y}), {}, {})
    exact = pb.evidence.exact(subject).log_z
    assert pb.evidence.best(subject).log_z == pytest.approx(exact, abs=1e-9)
    assert pb.evidence.sandwich(subject).log_z == pytest.approx(exact, abs=1e-9)


def test_few_rows_are_enumerated_by_every_door():
    mixture, data = reference(2)
    subject = pb.Posterior(mixture, data, {}, {})
    for estimator in (pb.evidence.exact, pb.evidence.best, pb.evidence.sandwich):
        assert abs(estimator(subject).log_z + 14.7479318) < 1e-6


def test_what_a_mixture_predicts_has_modes_quantiles_and_two_kinds_of_uncertainty(fitted_to_forty):
    at = torch.tensor([[0.6], [-0.6], [0.0]], dtype=DOUBLE)
    prediction = pb.predict(fitted_to_forty, at)
    peaks = modes(prediction.distribution)
    assert len(peaks[0]) == 2
    low, high = quantiles(prediction.distribution, [0.05, 0.95])
    grid = torch.linspace(-4, 4, 4001, dtype=DOUBLE)
    density = prediction.distribution.log_prob(grid[:, None]).exp() * (grid[1] - grid[0])
    inside = ((grid[:, None] > low) & (grid[:, None] < high)).double()
    assert torch.allclose((density * inside).sum(0), torch.full((3,), 0.9, dtype=DOUBLE), atol=5e-3)
    total = prediction.aleatoric + prediction.epistemic
    assert torch.allclose(total, prediction.distribution.variance, atol=1e-9)
    # No other row identifies the function of a row.
    noises = [float(each.likelihood.noise.detach()) for each in fitted_to_forty.model.experts]
    assert float(prediction.aleatoric[0]) > max(noises) + 0.1


def test_two_equal_experts_halve_what_more_rows_would_remove():
    """Far from all rows both functions are at their priors of variance v: the mean of y given them has variance v / 2."""
    data, _, _ = crossing(10)
    r = torch.full((1, 10, 2), 0.5, dtype=DOUBLE)
    mixture = GPMixture([expert(0.5, 1.4), expert(0.5, 1.4)], DirichletGate(2), responsibilities=r)
    found = pb.predict(pb.Posterior(mixture, data, {}, {}), torch.tensor([[90.0]], dtype=DOUBLE))
    assert float(found.epistemic[0]) == pytest.approx(0.7, abs=1e-6)
    assert float(found.aleatoric[0]) == pytest.approx(0.7 + 0.01, abs=1e-6)


def test_a_plateau_of_two_merging_normals_is_one_mode():
    middle = NormalMixture(
        torch.zeros(1, 2, dtype=DOUBLE), torch.tensor([[-1.0, 1.0]]).double(), torch.ones(1, 2).double()
    )
    (found,) = modes(middle)
    assert len(found) == 1
    assert abs(float(found[0])) < 0.1
    (apart,) = modes(NormalMixture(middle.logits, 1.2 * middle.loc, middle.scale))
    assert len(apart) == 2


def test_of_one_expert_the_noise_is_what_stays():
    data, _, _ = crossing(20)
    fit = VariationalEM(num_restarts=1)(GPMixture([smooth()], DirichletGate(1)), data, seed=0)
    noise = fit.model.experts[0].likelihood.noise.detach()
    found = pb.predict(fit, torch.tensor([[0.2], [5.0]], dtype=DOUBLE))
    assert torch.allclose(found.aleatoric, noise.expand(2), atol=1e-9)
    assert found.epistemic[1] > found.epistemic[0] > 0


# ---------------------------------------------------------------------------------------------- hard inputs


def test_jitter_of_equal_rows_is_reported_by_every_estimate():
    x, y = (torch.cat([each[:4], each[:4]]) for each in alternating())
    tiny = expert()
    tiny.likelihood.noise_covar.raw_noise_constraint = gpytorch.constraints.GreaterThan(1e-20)
    tiny.likelihood.noise = torch.tensor(1e-18, dtype=DOUBLE)
    subject = pb.Posterior(GPMixture([tiny, expert()], DirichletGate(2)), pb.Dataset((x,), {"y": y}), {}, {})
    with pytest.warns(NumericalWarning, match=r"jitter of 1e-\d+ × the mean variance added"):
        exact = assignments(subject)
    with pytest.warns(NumericalWarning):
        smc = assignments_smc(subject)
    assert abs(exact.log_z - smc.log_z) < 4 * max(smc.stderr, 1e-4)


def test_float32_rows_are_assigned_in_float64():
    data, c, apart = crossing(60)
    mixture = GPMixture([smooth(), smooth()], DirichletGate(2)).float()
    single = pb.Dataset(data.args, data.kwargs).to(torch.float32)
    fit = CollapsedGibbs(num_samples=10, num_warmup=5)(mixture, single, seed=0)
    draws = fit.draws["assignments"].flatten(0, 1)[:, apart]
    agree = (draws == c[apart]).double().mean(1)
    assert float(torch.maximum(agree, 1 - agree).mean()) > 0.95


@pytest.mark.parametrize("gate", [SoftmaxGate(2, 2), DensityGate(2, 2)])
def test_a_gate_of_another_width_is_refused(gate):
    x, y = alternating()
    with pytest.raises(ValueError, match="expected 2 columns for the gate, got 1"):
        GPMixture([expert(), expert()], gate).assigned(x, y)


@pytest.mark.parametrize("r", [torch.full((1, 12, 2), 0.7), torch.full((1, 12, 2), math.nan), torch.ones(1, 12, 1)])
def test_responsibilities_that_are_none_are_refused(r):
    with pytest.raises(ValueError, match="expected responsibilities"):
        GPMixture([expert(), expert()], DirichletGate(2), responsibilities=r.double())


def test_one_expert_twice_is_refused():
    expert = pb.GaussianProcess(RBFKernel())
    for experts in ([expert] * 2, [expert, pb.GaussianProcess(expert.kernel)]):
        with pytest.raises(ValueError, match="a kernel each"):
            pb.gp.GPMixture(experts, pb.gp.DirichletGate(2))
