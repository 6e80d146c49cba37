"""The target equals Pyro's potential, value and gradient, for many draws at once; its parts add up."""

import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.pyro_models import CASES, ONE, ZERO, Case, latent_under_discrete, mixture, noise, regression, tensor
from pyro import poutine
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor, nn
from torch.func import grad, vmap

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import TracingWarning
from probmodel.protocols.memory import memory_budget
from probmodel.protocols.posterior import Target
from probmodel.tracing.curvature import hessian_blocks
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target

DRAWS = 4


@pytest.fixture(scope="module")
def targets() -> dict[str, Target]:
    return {name: target(*case) for name, case in CASES.items()}


def points(density: Target) -> Tensor:
    """Not prior draws: anywhere in R^D the density must be right."""
    return 0.7 * noise(DRAWS, density.dim, seed=3)


def pyro_potential(case: Case, theta: Tensor) -> Tensor:
    """Pyro's own potential energy at one theta."""
    nesting = 2 if case.model.__name__ == "nested_plates" else 1
    with isolated(seed=0):
        start, potential, _, _ = initialize_model(
            case.model, case.data.args, dict(case.data.kwargs), max_plate_nesting=nesting
        )
        if case.model is latent_under_discrete:  # Pyro starts one code for each value of k.
            return potential({"z": theta})
        pieces = theta.split([value.numel() for value in start.values()])
        return potential({name: piece.reshape(start[name].shape) for name, piece in zip(start, pieces, strict=True)})


MASKED_STATES = {"hidden_markov": 3 * math.log(2.0)}
"""Pyro counts a masked state once for each of its two values; with its prior it sums to one. Three states are masked."""


def _at_angles(density: Target, case: Case, theta: Tensor) -> Tensor:
    """Pyro's log joint at the values of the latents, whose map to once around the circle has its Jacobian added."""
    values = {name: value[0] for name, value in density.constrain(theta[None]).items()}
    run = poutine.trace(poutine.condition(case.model, values)).get_trace(*case.data.args, **case.data.kwargs)
    return run.log_prob_sum() + density.log_jacobian(theta[None])[0]


@pytest.mark.parametrize("name", CASES)
def test_log_joint_equals_pyros_potential(name, targets):
    density, case = targets[name], CASES[name]
    assert density.fallback is None
    theta = points(density)
    values = density.log_joint(theta)
    gradients = vmap(grad(density.log_joint_at))(theta)
    for s in range(DRAWS):
        at = theta[s].clone().requires_grad_()
        expected = -pyro_potential(case, at) - MASKED_STATES.get(name, 0.0)
        if name == "directions":  # Pyro takes the angle itself as the coordinate.
            expected = _at_angles(density, case, at)
        (slope,) = torch.autograd.grad(expected, at)
        torch.testing.assert_close(values[s], expected.detach(), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(gradients[s], slope, rtol=1e-8, atol=1e-8 * float(slope.abs().max()))


def test_a_float32_target_equals_pyros_potential():
    case = Case(regression, Dataset((noise(9, 4).float(), noise(9, seed=1).float()), {}, 9))
    density = target(*case)
    theta = points(density).float()
    expected = torch.stack([-pyro_potential(case, draw) for draw in theta])
    assert density.log_joint(theta).dtype == torch.float32
    torch.testing.assert_close(density.log_joint(theta), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_prior_and_likelihood_add_up_to_the_joint(name, targets):
    density = targets[name]
    theta = points(density)
    total = density.log_prior(theta) + density.log_likelihood(theta)
    torch.testing.assert_close(total, density.log_joint(theta), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_the_likelihood_is_the_sum_over_rows(name, targets):
    density, data = targets[name], CASES[name].data
    theta = points(density)
    by_row = density.log_likelihood_by_row(theta)
    torch.testing.assert_close(by_row.sum(-1), density.log_likelihood(theta), rtol=1e-9, atol=1e-9)
    if data.size is not None:
        assert by_row.shape == (DRAWS, data.size)


def test_the_likelihood_by_row_of_a_mixture_is_that_of_each_row_alone(targets):
    model, data = CASES["mixture"]
    theta = points(targets["mixture"])
    for row in range(3):
        alone = target(model, Dataset((data.args[0][row : row + 1],), {}, 1))
        expected = targets["mixture"].log_likelihood_by_row(theta)[:, row]
        torch.testing.assert_close(alone.log_likelihood(theta), expected, rtol=1e-10, atol=1e-10)


def test_the_prior_of_a_code_under_a_discrete_latent_is_a_mixture(targets):
    density = targets["latent_under_discrete"]
    theta = points(density)
    components = dist.Normal(tensor(-1.0, 2.0), 1.0).log_prob(theta[..., None]) + tensor(0.3, 0.7).log()
    torch.testing.assert_close(density.log_prior(theta), components.logsumexp(-1).sum(-1))


ROW_LOCAL = ("latent_under_discrete", "row_codes")


@pytest.mark.parametrize("name", CASES)
def test_by_row_says_which_coordinates_a_row_owns(name, targets):
    density = targets[name]
    assert (density.by_row is not None) == (name in ROW_LOCAL)
    theta = points(density)
    if density.by_row is None:
        with pytest.raises(ValueError, match="local to a row"):
            density.log_joint_by_row(theta)
        return
    by_row = density.log_joint_by_row(theta)
    torch.testing.assert_close(by_row.sum(-1), density.log_joint(theta), rtol=1e-10, atol=1e-10)
    # Moving one row's coordinates moves that row's term alone.
    moved = theta.clone()
    moved[:, density.by_row[1]] += 0.5
    changed = (density.log_joint_by_row(moved) - by_row).abs() > 1e-12
    assert changed.nonzero()[:, 1].unique().tolist() == [1]
    assert hessian_blocks(density, theta[0]).shape == (*density.by_row.shape, density.by_row.shape[1])


@pytest.mark.parametrize("name", CASES)
def test_unconstrain_undoes_constrain(name, targets):
    density = targets[name]
    theta = points(density)
    values = density.constrain(theta)
    torch.testing.assert_close(density.unconstrain(values), theta, rtol=1e-7, atol=1e-7)
    again = density.constrain(density.unconstrain(values))
    for site, value in values.items():
        torch.testing.assert_close(again[site], value, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_float64_stays_float64(name, targets):
    density = targets[name]
    theta = points(density)
    assert density.dtype == torch.float64
    results = [density.log_joint(theta), density.log_prior(theta), density.log_likelihood_by_row(theta)]
    results += [density.sample_prior(2, 0), density.log_joint_at(theta[0]), *density.constrain(theta).values()]
    assert {result.dtype for result in results} == {torch.float64}


def test_without_observations_the_joint_is_the_prior_and_the_likelihood_is_empty():
    density = target(lambda: pyro.sample("z", dist.Normal(ZERO, ONE)), Dataset())
    theta = points(density)
    assert density.log_likelihood_by_row(theta).shape == (DRAWS, 0)
    assert density.log_likelihood_by_row(theta).dtype == torch.float64
    assert density.log_likelihood(theta).abs().max() == 0


def test_the_log_jacobian_makes_the_prior_a_density_on_the_real_line():
    density = target(lambda: pyro.sample("p", dist.Beta(2 * ONE, 5 * ONE)), Dataset())
    theta = torch.linspace(-30, 30, 20_001, dtype=torch.float64)
    mass = torch.trapezoid(density.log_prior(theta[:, None]).exp(), theta)
    assert abs(float(mass) - 1) < 1e-10


def test_prior_draws_have_the_moments_of_the_prior():
    def model():
        pyro.sample("p", dist.Beta(2 * ONE, 5 * ONE))
        pyro.sample("x", dist.Normal(3 * ONE, 2 * ONE).expand([2]).to_event(1))

    density, count = target(model, Dataset()), 2_000
    draws = density.constrain(density.sample_prior(count, 0))
    p, x = draws["p"], draws["x"]
    assert abs(p.mean() - 2 / 7) < 4 * p.std() / math.sqrt(count)
    assert abs(p.var() - 10 / (49 * 8)) < 4 * p.var() * math.sqrt(2 / count)
    assert ((x.mean(0) - 3).abs() < 4 * 2 / math.sqrt(count)).all()
    assert ((x.var(0) - 4).abs() < 4 * 4 * math.sqrt(2 / count)).all()
    assert torch.equal(density.sample_prior(5, 1), density.sample_prior(5, 1))
    assert not torch.equal(density.sample_prior(5, 1), density.sample_prior(5, 2))


@pytest.mark.parametrize(
    ("model", "args"),
    [(regression, (noise(6, 2), noise(6, seed=1))), (mixture, (noise(6),))],
    ids=["linear", "mixture"],
)
def test_the_mean_over_minibatches_is_the_full_log_joint(model, args):
    data = Dataset(args, {}, 6)
    full = target(model, data)
    theta = points(full)
    batches = [target(model, data.rows(torch.tensor(index))) for index in ([0, 1], [2, 3], [4, 5])]
    mean = sum(batch.log_joint(theta) for batch in batches) / 3
    torch.testing.assert_close(mean, full.log_joint(theta), rtol=1e-10, atol=1e-10)


def features_in_a_plate(x, y):
    with pyro.plate("features", x.shape[1]):
        w = pyro.sample("w", dist.Normal(ZERO, ONE))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def test_a_plate_as_long_as_the_data_by_chance_is_not_a_plate_over_rows():
    square = target(features_in_a_plate, Dataset((noise(3, 3), noise(3, seed=1)), {}, 3))
    assert square.by_row is None
    data = Dataset((noise(6, 3), noise(6, seed=1)), {}, 6)
    full = target(features_in_a_plate, data)
    theta = points(full)
    halves = [target(features_in_a_plate, data.rows(torch.tensor(index))) for index in ([0, 1, 2], [3, 4, 5])]
    mean = sum(half.log_joint(theta) for half in halves) / 2
    torch.testing.assert_close(mean, full.log_joint(theta), rtol=1e-10, atol=1e-10)


def test_a_minibatch_of_everything_is_the_full_set_bit_for_bit():
    data = Dataset((noise(6, 2), noise(6, seed=1)), {}, 6)
    theta = noise(DRAWS, 2, seed=3)
    everything = target(regression, data.rows(torch.arange(6)))
    assert torch.equal(everything.log_joint(theta), target(regression, data).log_joint(theta))


def test_a_minibatch_for_a_model_without_a_plate_over_rows_is_refused():
    def model(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x @ w, 0.5).to_event(1), obs=y)

    data = Dataset((noise(6, 2), noise(6, seed=1)), {}, 6)
    with pytest.raises(ValueError, match=r"expected a plate over the 2 rows.*got none; write"):
        target(model, data.rows(torch.tensor([0, 1])))


def test_nothing_depends_on_the_order_of_sites_or_labels():
    def forwards(y):
        a = pyro.sample("a", dist.Normal(ZERO, ONE))
        b = pyro.sample("b", dist.Gamma(2 * ONE, ONE))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(a, b), obs=y)

    def backwards(y):
        b = pyro.sample("b", dist.Gamma(2 * ONE, ONE))
        a = pyro.sample("a", dist.Normal(ZERO, ONE))
        with pyro.plate("r", len(y)):
            pyro.sample("outcome", dist.Normal(a, b), obs=y)

    data = Dataset((noise(5),), {}, 5)
    one, other = target(forwards, data), target(backwards, data.rows(torch.tensor([4, 2, 0, 1, 3])))
    values = one.constrain(points(one))
    for function in ("log_joint", "log_prior"):
        first = getattr(one, function)(one.unconstrain(values))
        torch.testing.assert_close(first, getattr(other, function)(other.unconstrain(values)), rtol=1e-12, atol=1e-12)
    assert one.digest == target(backwards, data).digest


def test_chunks_of_draws_change_nothing(targets):
    density = targets["eight_schools"]
    theta = points(density)
    whole = density.log_joint(theta)
    with memory_budget(8 * len(theta)):  # The result and no more: one draw at a time.
        torch.testing.assert_close(density.log_joint(theta), whole, rtol=1e-14, atol=0)


def branches(y):
    """Which density applies depends on the latent: no graph holds both."""
    z = pyro.sample("z", dist.Normal(ZERO, ONE))
    scale = 1.0 if z > 0 else 2.0
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(z, scale), obs=y)


def test_control_flow_on_data_falls_back_with_one_warning_and_right_numbers():
    y = noise(3)
    with pytest.warns(TracingWarning, match="data-dependent control flow") as caught:
        density = target(branches, Dataset((y,), {}, 3))
        theta = tensor(-1.0, 0.5)[:, None]
        joint, prior = density.log_joint(theta), density.log_prior(theta)
        by_row = density.log_likelihood_by_row(theta)
    assert len(caught) == 1
    assert density.fallback is not None
    expected = torch.stack([dist.Normal(z, s).log_prob(y) for z, s in ((-1.0, 2.0), (0.5, 1.0))])
    torch.testing.assert_close(by_row, expected)
    torch.testing.assert_close(prior, dist.Normal(ZERO, ONE).log_prob(theta[:, 0]))
    torch.testing.assert_close(joint, prior + expected.sum(-1))
    slope = torch.autograd.functional.jacobian(density.log_joint_at, theta[1])
    torch.testing.assert_close(slope, -theta[1] + (y - theta[1]).sum())


def test_a_traceable_model_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        density = target(*CASES["eight_schools"])
        density.log_joint(points(density))
    assert density.fallback is None


def test_a_discrete_latent_without_finite_support_is_named():
    def model():
        n = pyro.sample("n", dist.Poisson(3 * ONE))
        pyro.sample("y", dist.Normal(n, 1.0), obs=ONE)

    with pytest.raises(ValueError, match=r"'n' \(Poisson\), which cannot be summed out"):
        target(model, Dataset())


def test_a_model_that_subsamples_itself_is_named():
    def model(y):
        z = pyro.sample("z", dist.Normal(ZERO, ONE))
        with pyro.plate("rows", len(y), subsample_size=2) as index:
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[index])

    with pytest.raises(ValueError, match=r"'rows' that draws 2 of 5 rows"):
        target(model, Dataset((noise(5),), {}, 5))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_data_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="expected finite numbers, got 1 NaN or infinite"):
        target(mixture, Dataset((tensor(0.0, bad),), {}, 2))


def test_an_error_of_the_model_reaches_its_author():
    def model(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        target(model, Dataset((noise(2),)))


class Scaled(nn.Module):
    """A network inside a model: its parameters are read, another's are not."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(2, 1).double()
        self.ignored = nn.Linear(2, 1).double()

    def forward(self, x, y):
        z = pyro.sample("z", dist.Normal(ZERO, ONE))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(self.read(x)[:, 0] + z, 1.0), obs=y)


def test_given_names_the_parameters_the_density_reads():
    with isolated(seed=0):
        model = Scaled()
    density = target(model, Dataset((noise(4, 2), noise(4, seed=1)), {}, 4))
    assert set(density.given) == {"model.read.weight", "model.read.bias"}
    # A changed parameter is read anew: the graph holds it as an input, not as a constant.
    theta = points(density)
    before = density.log_joint(theta)
    with torch.no_grad():
        model.read.bias += 1.0
    after = target(model, Dataset((noise(4, 2), noise(4, seed=1)), {}, 4)).log_joint(theta)
    torch.testing.assert_close(density.log_joint(theta), after)
    assert (before - after).abs().min() > 1e-3


def test_parameters_of_a_function_that_is_not_fitted_are_given():
    with isolated(seed=0):
        net = nn.Linear(1, 1)

    def model(x, y=None):
        pyro.module("net", net)
        scale = pyro.param("scale", x.new_tensor(1.0), constraint=dist.constraints.positive)
        w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(w * net(x[:, None])[:, 0], scale), obs=y)

    x = torch.linspace(-1, 1, 6)
    assert target(model, Dataset.of_rows(x, y=x)).given == ("net$$$weight", "net$$$bias", "scale")


def two(x, y):
    a = pyro.sample("a", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a[0] + a[1] * x, 1.0), obs=y)


@pytest.mark.parametrize(
    "wrong", [None, "a", 0.5, np.zeros((3, 2)), torch.zeros(2), torch.zeros(0, 2), torch.zeros(3, 5)]
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_every_function_of_theta_refuses_another_kind_or_shape(wrong):
    density = target(two, Dataset((torch.ones(4),), {"y": torch.zeros(4)}, 4))
    for name in ("log_joint", "log_prior", "log_likelihood", "log_likelihood_by_row", "log_jacobian", "constrain"):
        with pytest.raises(ValueError, match=r"expected draws theta as a tensor of shape \(S, 2\)"):
            getattr(density, name)(wrong)


@pytest.mark.usefixtures("annotations_unchecked")
def test_values_points_and_counts_of_another_shape_are_refused():
    density = target(two, Dataset((torch.ones(4),), {"y": torch.zeros(4)}, 4))
    for wrong in (None, "a", 0.5, np.zeros(2), torch.zeros(0, 2), torch.zeros(3, 5), torch.zeros(1, 2)):
        with pytest.raises(ValueError, match=r"expected theta as a tensor of shape \(2,\)"):
            density.log_joint_at(wrong)
    with pytest.raises(TypeError, match="expected draws by the names of the latents, got None"):
        density.unconstrain(None)
    with pytest.raises(ValueError, match=r"expected draws of 'a' as a tensor of shape \(S, 2\)"):
        density.unconstrain({"a": torch.zeros(4, 1)})
    with pytest.raises(ValueError, match="expected num_samples to be an integer, 1 or more, got 0"):
        density.sample_prior(0, 0)
