"""Supports that other latents move: densities, maps and evidences by quadrature; what refuses them."""

import math
import re
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, special, stats

import probmodel as pb
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import TracingWarning

Y = torch.tensor([0.4, 0.55, 0.5, 0.45, 0.6], dtype=torch.float64)
ZERO, ONE = torch.tensor(0.0).double(), torch.tensor(1.0).double()


def observe(mean, y):
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, 0.1), obs=y)


def above(y):
    a = pyro.sample("a", dist.Uniform(ZERO, ONE))
    observe(pyro.sample("b", dist.Uniform(a, ONE)), y)


def below(y):
    a = pyro.sample("a", dist.Uniform(ZERO, ONE))
    observe(pyro.sample("b", dist.Uniform(ZERO, a)), y)


def window(y):
    a = pyro.sample("a", dist.Normal(ZERO, ONE))
    observe(pyro.sample("b", dist.Uniform(a, a + 1)), y)


def heavy_tail(y):
    a = pyro.sample("a", dist.LogNormal(ZERO - 2, ONE))
    observe(pyro.sample("b", dist.Pareto(a, ONE + 1)), y)


def likelihood(b):
    return np.prod(stats.norm.pdf(Y.numpy()[:, None], np.atleast_1d(b), 0.1), 0)


PRIORS = {
    above: lambda b: -np.log1p(-b) * (b > 0) * (b < 1),
    below: lambda b: -np.log(b) * (b > 0) * (b < 1),
    window: lambda b: stats.norm.cdf(b) - stats.norm.cdf(b - 1),
    heavy_tail: lambda b: integrate.quad(lambda a: stats.lognorm.pdf(a, 1, scale=math.exp(-2)) * 2 * a**2 / b**3, 0, b)[
        0
    ],
}
"""Marginal prior density of b, with a integrated out."""


def grid(density):
    """Log of the integral of exp(log joint) over R², by the trapezoidal rule."""
    axis = torch.linspace(-14, 14, 281, dtype=torch.float64)
    theta = torch.cartesian_prod(axis, axis)
    return float(density.log_joint(theta).logsumexp(0)) + 2 * math.log(float(axis[1] - axis[0]))


@pytest.mark.parametrize("model", PRIORS)
def test_the_density_integrates_to_the_evidence(model):
    prior = np.vectorize(PRIORS[model])
    z, _ = integrate.quad(lambda b: float(likelihood(b)[0] * prior(b)), 0.01, 0.99, limit=200)
    density = pb.target(model, Dataset((Y,), {}, 5))
    assert density.sites.moving == {"b"} and density.fallback is None
    assert grid(density) == pytest.approx(math.log(z), abs=1e-3)


def test_maps_to_a_moving_support_are_inverse_and_stay_inside():
    density = pb.target(above, Dataset((Y,), {}, 5))
    theta = 3 * torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = density.constrain(theta)
    assert (values["b"] > values["a"]).all() and (values["b"] < 1).all()
    torch.testing.assert_close(density.unconstrain(values), theta, rtol=1e-6, atol=1e-6)
    prior = density.constrain(density.sample_prior(20_000, 0))
    assert float(prior["b"].mean()) == pytest.approx(0.75, abs=4 * 0.22 / math.sqrt(20_000))
    # log |det| is that of the pair: log a(1 − a) + log (b − a)(1 − b) / (1 − a).
    a, b = values["a"], values["b"]
    exact = (a * (1 - a)).log() + ((b - a) * (1 - b) / (1 - a)).log()
    torch.testing.assert_close(density.log_jacobian(theta), exact)


def test_nuts_finds_the_mean_below_a_moving_bound():
    fit = pb.NUTS(num_samples=400, num_warmup=300, num_chains=2, progress=False, compile=False)(
        above, Dataset((Y,), {}, 5), seed=0
    )
    b = fit.draws["b"].flatten()
    assert float(b.mean()) == pytest.approx(0.5058, abs=4 * 0.045 / math.sqrt(150))


@pytest.mark.parametrize(
    "fit", [pb.SVI(num_steps=2, progress=False), pb.Laplace(), pb.Exact()], ids=lambda f: type(f).__name__
)
def test_a_map_fixed_beforehand_is_refused_by_the_name_of_the_site(fit):
    with pytest.raises(ValueError, match=r"\['b'\].*use NUTS"):
        fit(above, Dataset((Y,), {}, 5), seed=0)


def discrete_bound(y):
    z = pyro.sample("z", dist.Bernoulli(ONE / 2))
    observe(pyro.sample("b", dist.Uniform(ZERO, 1 + z)), y)


def branching(y):
    a = pyro.sample("a", dist.Normal(ZERO, ONE))
    observe(pyro.sample("b", dist.Normal(ZERO, ONE)) if a > 0.8 else a, y)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (discrete_bound, r"no discrete latent moves, got site 'b'"),
        (branching, r"the same sites in every run, got \['b'\]"),
    ],
)
@pytest.mark.filterwarnings("ignore::probmodel.protocols.errors.TracingWarning")
def test_what_has_no_one_space_is_refused(model, says):
    with pytest.raises(ValueError, match=says):
        density = pb.target(model, Dataset((Y,), {}, 5))
        density.log_joint(torch.full((1, density.dim), -2.0, dtype=torch.float64))


def z_below(bound):
    """Evidence of three observations near 3 of a uniform b in (0, bound)."""
    return integrate.quad(lambda b: np.prod(stats.norm.pdf([3.0, 3.2, 2.8], b, 0.3)) / bound, 0, bound)[0]


JUMP = stats.norm.cdf(2.95) * z_below(1) + stats.norm.sf(2.95) * z_below(9)
RAMP = stats.norm.cdf(2.5) * z_below(1) + integrate.quad(lambda a: stats.norm.pdf(a) * z_below(a - 1.5), 2.5, 12)[0]


@pytest.mark.parametrize(
    ("upper", "z"), [(lambda a: 1 + torch.relu(a - 2.5), RAMP), (lambda a: torch.where(a > 2.95, 9.0, 1.0), JUMP)]
)
def test_a_bound_that_most_prior_draws_leave_alone_moves_too(upper, z):
    """The bound differs at one draw in a hundred or a thousand only; the truth is by quadrature."""

    def model(y):
        a = pyro.sample("a", dist.Normal(ZERO, ONE))
        b = pyro.sample("b", dist.Uniform(ZERO, upper(a).to(a)))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(b, 0.3), obs=y)

    density = pb.target(model, Dataset((torch.tensor([3.0, 3.2, 2.8]).double(),), {}, 3))
    assert density.sites.moving == {"b"}
    # The jump lies halfway between two points of the grid.
    assert grid(density) == pytest.approx(math.log(z), abs=0.01)


def test_observations_outside_a_moving_support_have_no_density():
    """y ~ Pareto(s, 3) with s ~ Uniform(0, 5) and y = 1, 2: Z is 9 / 80 of the integral of s⁶ up to 1."""

    def model(y):
        s = pyro.sample("s", dist.Uniform(ZERO, 5 * ONE))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Pareto(s, 3 * ONE), obs=y)

    density = pb.target(model, Dataset((torch.tensor([1.0, 2.0]).double(),), {}, 2))
    axis = torch.linspace(-20, 20, 80_001, dtype=torch.float64)
    z = float(density.log_joint(axis[:, None]).logsumexp(0)) + math.log(float(axis[1] - axis[0]))
    assert z == pytest.approx(math.log(9 / 80 / 7), abs=1e-3)


def test_fixed_bounds_are_no_moving_ones():
    def model(y):
        observe(pyro.sample("b", dist.Uniform(y.min() - 1, y.max() + 1)), y)

    assert pb.target(model, Dataset((Y,), {}, 5)).sites.moving == frozenset()


def shifted(y):
    shift = pyro.sample("shift", dist.Normal(y.new_zeros(()), 1.0))
    with pyro.plate("rows", len(y)):
        waiting = dist.TransformedDistribution(
            dist.Exponential(y.new_ones(())), [dist.transforms.AffineTransform(shift, 1.0)]
        )
        pyro.sample("y", waiting, obs=y)


def beyond(y):
    delayed = dist.TransformedDistribution(
        dist.Exponential(y.new_ones(())), [dist.transforms.AffineTransform(y.new_tensor(2.0), 1.0)]
    )
    z = pyro.sample("z", delayed)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def angle(y):
    z = pyro.sample("z", dist.VonMises(y.new_zeros(()), y.new_ones(())))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(z.cos(), 0.5), obs=y)


def _normals(y, mean, scale):
    return sum(-0.5 * ((each - mean) / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi)) for each in y)


def _joint_of_shift(z, y):
    return math.exp(_normals([z], 0.0, 1.0) - sum(each - z for each in y))


def _joint_of_delay(z, y):
    return math.exp(2.0 - z + _normals(y, z, 1.0))


def _joint_of_angle(z, y):
    return math.exp(math.cos(z) + _normals(y, math.cos(z), 0.5)) / (2 * math.pi * float(special.i0(1.0)))


EDGES = {
    "observations above a shift": (shifted, [0.7, 1.3, 2.3], _joint_of_shift, (-12.0, 0.7)),
    "a latent above an edge": (beyond, [1.5, 0.1, 2.3], _joint_of_delay, (2.0, 12.0)),
    "an angle": (angle, [-0.5, 0.1, -0.3], _joint_of_angle, (-math.pi, math.pi)),
}


@pytest.mark.parametrize("name", EDGES)
def test_a_density_ends_where_the_base_of_a_transform_or_a_turn_ends(name):
    model, y, joint, (low, high) = EDGES[name]
    exact = math.log(integrate.quad(joint, low, high, args=(y,), epsabs=1e-12)[0])
    found = pb.evidence.importance(pb.target(model, Dataset.of_rows(torch.tensor(y).double())), num_samples=20_000)
    assert abs(found.log_z - exact) < 4 * found.stderr
    assert found.lower < exact


@pytest.mark.parametrize(
    ("concentration", "dtype"), [(0.05, torch.float32), (0.1, torch.float32), (0.05, torch.float64)]
)
def test_mass_closer_to_an_edge_than_numbers_tell_apart_is_named(concentration, dtype):
    def model(y):
        p = pyro.sample("p", dist.Beta(y.new_tensor(concentration), concentration))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    y = torch.ones(2, dtype=dtype)
    spacing = torch.finfo(dtype).eps
    share = stats.beta.cdf(spacing, concentration, concentration)
    with pytest.warns(TracingWarning, match="'p' closer to an edge") as caught:
        pb.target(model, pb.Dataset((y,)))
    (said,) = re.findall(r"got (\d+)% of", str(caught[0].message))
    assert abs(int(said) / 100 - share) < 4 * math.sqrt(share * (1 - share) / 1_000) + 0.02


@pytest.mark.parametrize("prior", [dist.Beta(0.5, 0.5), dist.Uniform(0.0, 1.0), dist.Dirichlet(torch.full((5,), 0.5))])
def test_ordinary_priors_between_two_edges_are_taken_without_a_word(prior):
    def model(y):
        p = pyro.sample("p", prior)
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(p.sum(), 1.0), obs=y)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pb.target(model, pb.Dataset((torch.ones(3),)))
