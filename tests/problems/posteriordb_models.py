"""Every posterior of `posteriordb/` below PROBMODEL_DATA as a plain Pyro model, in the names of its reference draws.

Written after the Stan programs of posteriordb (Magnusson et al., 2025); coordinates are chosen for the sampler, and
`Case.named` turns draws of them into the parameters that the reference reports.  None had to be left out.
"""

import gzip
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to

from probmodel.data.locate import locate
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model

Values = Mapping[str, Tensor]
"""Name → draws, (..., *shape)."""


class Reference(NamedTuple):
    """Summary of the reference draws, by parameter: `mean`, `sd`, `q05`, `q50`, `q95` …; `ess` is the smallest of all."""

    summary: Mapping[str, Mapping[str, float]]
    ess: float


class Case(NamedTuple):
    """A posterior as a model, and how its sites and the parameters of the reference are made from each other."""

    model: Model
    data: Dataset
    named: Callable[[Values], dict[str, Tensor]]
    """Draws by site (..., *shape) → draws by parameter (...), such as "beta[1]"."""
    sites: Callable[[Values], dict[str, Tensor]]
    """The inverse."""
    reference: Reference


def posterior(name: str) -> Case:
    """One of `NAMES`.

    Raises:
        FileNotFoundError: PROBMODEL_DATA names no folder with its file.
    """
    file, build = BUILDERS[name]
    path = locate(f"posteriordb/{file}")
    content = json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    data = {key: torch.tensor(value, dtype=torch.float64) for key, value in content["data"].items()}
    return Case(*build(data), Reference(content["reference_summary"], content["ess_bulk_min"]))


def posteriors() -> dict[str, Case]:
    """All of them."""
    return {name: posterior(name) for name in NAMES}


Built = tuple[Model, Dataset, Callable[[Values], dict[str, Tensor]], Callable[[Values], dict[str, Tensor]]]
Given = Mapping[str, Tensor]


class Flat(dist.ImproperUniform):
    """A flat density on the support of `starts`, which gives what a flat density cannot: draws for chains to start from."""

    def __init__(self, starts: Any, support: Any = None) -> None:
        super().__init__(support or starts.support, starts.batch_shape, starts.event_shape)
        self.starts = starts

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        return self.starts.sample(sample_shape)


def sample_from(name: str, prior: Any, starts: Any, support: Any = None) -> Tensor:
    """A latent of that prior, up to a constant, where chains would get lost from most draws of it; they get `starts`."""
    value = pyro.sample(name, Flat(starts, support))
    pyro.factor(f"{name}_prior", prior.log_prob(value).sum())
    return value


def indexed(name: str, value: Tensor) -> dict[str, Tensor]:
    """Entries of the last axis as "name[1]", "name[2]" …"""
    return {f"{name}[{i + 1}]": each for i, each in enumerate(value.unbind(-1))}


def stacked(name: str, values: Values) -> Tensor:
    """The inverse of `indexed`."""
    size = sum(key.startswith(f"{name}[") for key in values)
    return torch.stack([values[f"{name}[{i + 1}]"] for i in range(size)], -1)


# ---------------------------------------------------------------------------------------------- linear regressions


def _regression(coefficients: Callable[..., Any], noise: Callable[[Tensor], Any]) -> Model:
    """y ~ N(Q theta, sigma²) with Q of orthogonal columns of length √N, so that theta are nearly independent."""

    def model(q: Tensor, *prior: Tensor, y: Tensor | None = None) -> None:
        theta = pyro.sample("theta", coefficients(q, *prior))
        sigma = pyro.sample("sigma", noise(q))
        with pyro.plate("rows", len(q)):
            pyro.sample("y", dist.Normal(q @ theta, sigma), obs=y)

    return model


def _normal_coefficients(q: Tensor, mean: Tensor, scale_tril: Tensor) -> Any:
    return dist.MultivariateNormal(mean, scale_tril=scale_tril)


def _flat_coefficients(scale: float) -> Callable[[Tensor], Any]:
    return lambda q: Flat(dist.Normal(torch.zeros_like(q[0]), scale).to_event(1))


def _half_cauchy(scale: float) -> Callable[[Tensor], Any]:
    return lambda q: dist.HalfCauchy(q.new_tensor(scale))


def _flat_noise(q: Tensor) -> Any:
    return Flat(dist.LogNormal(q.new_tensor(0.0), 0.5))


def _orthogonal(x: Tensor) -> tuple[Tensor, Tensor]:
    """x = Q R, the columns of Q of length √N."""
    q, r = torch.linalg.qr(x)
    return q * math.sqrt(len(x)), r / math.sqrt(len(x))


def _rotated(r: Tensor, names: Callable[[Tensor], dict[str, Tensor]], values: Callable[[Values], Tensor]) -> Any:
    """Maps between theta = R beta and the coefficients beta under the reference's names."""

    def named(draws: Values) -> dict[str, Tensor]:
        beta = torch.linalg.solve_triangular(r, draws["theta"][..., None], upper=True)[..., 0]
        return {**names(beta), "sigma": draws["sigma"]}

    def sites(parameters: Values) -> dict[str, Tensor]:
        return {"theta": values(parameters) @ r.T, "sigma": parameters["sigma"]}

    return named, sites


def _beta(beta: Tensor) -> dict[str, Tensor]:
    return indexed("beta", beta)


def _flat_regression(x: Tensor, y: Tensor, scale: float, noise: Callable[[Tensor], Any]) -> Built:
    q, r = _orthogonal(x)
    maps = _rotated(r, _beta, lambda values: stacked("beta", values))
    return _regression(_flat_coefficients(scale), noise), Dataset((q,), {"y": y}, size=len(y)), *maps


def _normal_regression(
    x: Tensor, y: Tensor, mean: Tensor, sd: Tensor, noise: Callable[[Tensor], Any], maps: Any
) -> Built:
    """The same with beta ~ N(mean, diag(sd²)), that is theta ~ N(R mean, R diag(sd²) Rᵀ)."""
    q, r = _orthogonal(x)
    scale_tril = torch.linalg.cholesky((r * sd**2) @ r.T)
    data = Dataset((q, r @ mean, scale_tril), {"y": y}, size=len(y))
    return _regression(_normal_coefficients, noise), data, *_rotated(r, *maps)


def _interaction(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack([torch.ones_like(first), first, second, first * second], -1)


def _logearn_interaction(data: Given) -> Built:
    x = _interaction(data["height"], data["male"])
    return _flat_regression(x, data["earn"].log(), 10.0, _flat_noise)


def _kidscore_interaction(data: Given) -> Built:
    x = _interaction(data["mom_hs"], data["mom_iq"])
    return _flat_regression(x, data["kid_score"], 100.0, _half_cauchy(2.5))


def _kilpisjarvi(data: Given) -> Built:
    x = torch.stack([torch.ones_like(data["x"]), data["x"]], -1)
    mean, sd = torch.stack([data["pmualpha"], data["pmubeta"]]), torch.stack([data["psalpha"], data["psbeta"]])

    def names(beta: Tensor) -> dict[str, Tensor]:
        return {"alpha": beta[..., 0], "beta": beta[..., 1]}

    maps = names, lambda values: torch.stack([values["alpha"], values["beta"]], -1)
    return _normal_regression(x, data["y"], mean, sd, _flat_noise, maps)


def _blr(data: Given) -> Built:
    x = data["X"]
    mean, sd = x.new_zeros(x.shape[1]), x.new_full((x.shape[1],), 10.0)
    maps = _beta, lambda values: stacked("beta", values)
    return _normal_regression(x, data["y"], mean, sd, lambda q: dist.HalfNormal(q.new_tensor(10.0)), maps)


def _ar_k(data: Given) -> Built:
    """Given its first K values, an autoregression of order K is a regression on its own past."""
    y, order = data["y"], int(data["K"])
    past = y.unfold(0, order, 1)[:-1].flip(-1)
    x = torch.cat([torch.ones_like(past[:, :1]), past], -1)
    mean, sd = x.new_zeros(order + 1), x.new_full((order + 1,), 10.0)

    def names(beta: Tensor) -> dict[str, Tensor]:
        return {"alpha": beta[..., 0], **indexed("beta", beta[..., 1:])}

    maps = names, lambda values: torch.cat([values["alpha"][..., None], stacked("beta", values)], -1)
    return _normal_regression(x, y[order:], mean, sd, _half_cauchy(2.5), maps)


def _diamonds(data: Given) -> Built:
    """The regression of the R package brms: columns centered, their coefficients N(0, 1), heavy-tailed scale and intercept."""
    q, r = _orthogonal(data["X"][:, 1:] - data["X"][:, 1:].mean(0))

    def model(q: Tensor, scale_tril: Tensor, y: Tensor | None = None) -> None:
        theta = pyro.sample("theta", dist.MultivariateNormal(torch.zeros_like(q[0]), scale_tril=scale_tril))
        intercept = pyro.sample("intercept", dist.StudentT(q.new_tensor(3.0), 8.0, 10.0))
        sigma = pyro.sample("sigma", dist.FoldedDistribution(dist.StudentT(q.new_tensor(3.0), 0.0, 10.0)))
        with pyro.plate("rows", len(q)):
            pyro.sample("y", dist.Normal(intercept + q @ theta, sigma), obs=y)

    slopes, thetas = _rotated(r, lambda b: indexed("b", b), lambda values: stacked("b", values))
    return (
        model,
        Dataset((q, torch.linalg.cholesky(r @ r.T)), {"y": data["Y"]}, size=len(q)),
        lambda draws: {**slopes(draws), "Intercept": draws["intercept"]},
        lambda values: {**thetas(values), "intercept": values["Intercept"]},
    )


# ---------------------------------------------------------------------------------------------- time series


def _arma11(data: Given) -> Built:
    """y_t = mu + phi y_{t-1} + theta err_{t-1} + err_t, with err_0 = 0 and y_0 = mu."""

    def model(y: Tensor) -> None:
        zero = y.new_tensor(0.0)
        # Far out chains meet a wall at theta = ±1, beyond which errors grow by powers of it.
        mu = sample_from("mu", dist.Normal(zero, 10.0), dist.Normal(zero, 0.3))
        phi = sample_from("phi", dist.Normal(zero, 2.0), dist.Normal(zero, 0.3))
        theta = sample_from("theta", dist.Normal(zero, 2.0), dist.Normal(zero, 0.3))
        sigma = pyro.sample("sigma", dist.HalfCauchy(y.new_tensor(2.5)))
        mean = mu + phi * torch.cat([mu[None], y[:-1]])
        error = moving_average_errors(y - mean, theta)
        pyro.sample("y", dist.Normal(y - error, sigma).to_event(1), obs=y)

    names = ("mu", "phi", "theta", "sigma")
    return model, Dataset((data["y"],)), *_as_they_are(names)


def moving_average_errors(residual: Tensor, theta: Tensor) -> Tensor:
    """err_t = residual_t - theta err_{t-1}, by doubling: sum_k a^k S^k = prod_j (1 + (a S)^(2^j)), S the shift by one."""
    error, factor, shift = residual, -theta, 1
    while shift < len(residual):
        error = error + factor * torch.cat([torch.zeros_like(error[:shift]), error[:-shift]])
        factor, shift = factor * factor, 2 * shift
    return error


def _as_they_are(names: tuple[str, ...]) -> Any:
    """Sites that have the reference's names: scalars."""

    def same(values: Values) -> dict[str, Tensor]:
        return {name: values[name] for name in names}

    return same, same


def _ordered(name: str, prior: Any, center: Tensor) -> Tensor:
    """A latent pair 0 < x_1 < x_2 of that prior, with starts about a center."""
    support = constraints.positive_ordered_vector
    transform = biject_to(support)
    pair = dist.Normal(transform.inv(center), 0.3).to_event(1)
    return sample_from(name, prior, dist.TransformedDistribution(pair, list(transform.parts)), support)


def _chain(transition: Tensor, observation: Any, length: int) -> Any:
    """A hidden Markov chain of two states that starts in either with probability 1/2."""
    first = torch.full_like(transition, math.log(0.5))
    later = transition.log().expand(length - 1, 2, 2)
    return dist.DiscreteHMM(first[0], torch.cat([first[None], later]), observation)


def _markov(name: str, others: tuple[str, ...]) -> Any:
    """Maps for the rows of a transition matrix and pairs of emission parameters."""
    rows = (f"{name}1", f"{name}2")

    def named(draws: Values) -> dict[str, Tensor]:
        parts = [indexed(row, draws[name][..., i, :]) for i, row in enumerate(rows)]
        return {key: value for part in (*parts, *(indexed(o, draws[o]) for o in others)) for key, value in part.items()}

    def sites(values: Values) -> dict[str, Tensor]:
        return {
            name: torch.stack([stacked(row, values) for row in rows], -2),
            **{o: stacked(o, values) for o in others},
        }

    return named, sites


def _hmm_example(data: Given) -> Built:
    def model(y: Tensor) -> None:
        theta = pyro.sample("theta", dist.Dirichlet(y.new_ones(2, 2)).to_event(1))
        center = y.new_tensor([3.0, 10.0])
        mu = _ordered("mu", dist.Normal(center, 1.0), center)
        pyro.sample("y", _chain(theta, dist.Normal(mu, 1.0), len(y)), obs=y)

    return model, Dataset((data["y"],)), *_markov("theta", ("mu",))


def _hmm_drive(data: Given) -> Built:
    """Inverse speed and distance of a basketball player, both exponential given the state."""

    def model(uv: Tensor, alpha: Tensor) -> None:
        theta = pyro.sample("theta", dist.Dirichlet(alpha).to_event(1))
        prior = dist.Normal(uv.new_tensor([0.0, 3.0]), 1.0)
        # Draws of the prior lead some chains to a mode 60 nats lower, where the second state explains a few rows.
        both = uv.new_tensor([0.5, 2.0]) / uv.mean(0)[:, None]
        phi, rate = _ordered("phi", prior, both[0]), _ordered("lambda", prior, both[1])
        emission = dist.Exponential(torch.stack([phi, rate], -1)).to_event(1)
        pyro.sample("uv", _chain(theta, emission, len(uv)), obs=uv)

    uv = torch.stack([data["u"], data["v"]], -1)
    return model, Dataset((uv, data["alpha"])), *_markov("theta", ("phi", "lambda"))


# ---------------------------------------------------------------------------------------------- groups and functions


def _eight_schools(data: Given) -> Built:
    def model(sigma: Tensor, y: Tensor | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(sigma.new_tensor(0.0), 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(sigma.new_tensor(5.0)))
        with pyro.plate("schools", len(sigma)):
            eta = pyro.sample("eta", dist.Normal(torch.zeros_like(sigma), 1.0))
            pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)

    def named(draws: Values) -> dict[str, Tensor]:
        mu, tau = draws["mu"], draws["tau"]
        return {**indexed("theta", mu[..., None] + tau[..., None] * draws["eta"]), "mu": mu, "tau": tau}

    def sites(values: Values) -> dict[str, Tensor]:
        mu, tau = values["mu"], values["tau"]
        return {"mu": mu, "tau": tau, "eta": (stacked("theta", values) - mu[..., None]) / tau[..., None]}

    return model, Dataset((data["sigma"],), {"y": data["y"]}, size=len(data["y"])), named, sites


NUGGET = 1e-10
"""Added to the variances of the latent function, as the Stan program does: part of the model."""


def _kernel(x: Tensor, alpha: Tensor, rho: Tensor) -> Tensor:
    """Exponentiated quadratic: alpha² exp(-(x - x')² / (2 rho²)); alpha and rho may have draws in front."""
    square = (x[:, None] - x) ** 2
    return alpha[..., None, None] ** 2 * torch.exp(-0.5 * square / rho[..., None, None] ** 2)


def _half_square_root(x: Tensor, alpha: Tensor, rho: Tensor) -> Tensor:
    """Cholesky factor; no error is raised in the middle of a batch of draws for one of them."""
    return torch.linalg.cholesky_ex(_kernel(x, alpha, rho) + NUGGET * torch.eye(len(x), dtype=x.dtype))[0]


def _length_and_height(x: Tensor) -> tuple[Tensor, Tensor]:
    rho = pyro.sample("rho", dist.Gamma(x.new_tensor(25.0), x.new_tensor(4.0)))
    return rho, pyro.sample("alpha", dist.HalfNormal(x.new_tensor(2.0)))


def _gp_regr(data: Given) -> Built:
    """Gaussian process regression; `sigma` is the noise's variance, as the Stan program adds it to the diagonal."""

    def model(x: Tensor, y: Tensor | None = None) -> None:
        rho, alpha = _length_and_height(x)
        sigma = pyro.sample("sigma", dist.HalfNormal(x.new_tensor(1.0)))
        covariance = _kernel(x, alpha, rho) + sigma * torch.eye(len(x), dtype=x.dtype)
        scale_tril = torch.linalg.cholesky_ex(covariance)[0]
        pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(x), scale_tril=scale_tril), obs=y)

    return model, Dataset((data["x"],), {"y": data["y"]}), *_as_they_are(("rho", "alpha", "sigma"))


def _gp_pois_regr(data: Given) -> Built:
    """Counts with a Gaussian process for their log rate f = L f_tilde, f_tilde ~ N(0, 1).

    Sampled is z, f_tilde = center + R⁻ᵀ z, which is standard normal were log k normal about f with variance 1 / k.
    """
    x, k = data["x"], data["k"]
    weight, log_rate = k + 0.5, (k + 0.5).log()

    def whitened(alpha: Tensor, rho: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        root = _half_square_root(x, alpha, rho)
        precision = torch.eye(len(x), dtype=x.dtype) + root.mT @ (weight[:, None] * root)
        r = torch.linalg.cholesky_ex(precision)[0]
        return root, r, torch.cholesky_solve(root.mT @ (weight * log_rate)[:, None], r)

    def f_tilde_of(z: Tensor, r: Tensor, center: Tensor) -> Tensor:
        return (center + torch.linalg.solve_triangular(r.mT, z[..., None], upper=True))[..., 0]

    def model(x: Tensor, k: Tensor | None = None) -> None:
        rho, alpha = _length_and_height(x)
        standard = dist.Normal(torch.zeros_like(x), 1.0).to_event(1)
        z = pyro.sample("z", standard)
        root, r, center = whitened(alpha, rho)
        f_tilde = f_tilde_of(z, r, center)
        log_jacobian = -r.diagonal().log().sum()
        pyro.factor("f_tilde_prior", standard.log_prob(f_tilde) - standard.log_prob(z) + log_jacobian)
        with pyro.plate("rows", len(x)):
            pyro.sample("k", dist.Poisson((root @ f_tilde).exp()), obs=k)

    def named(draws: Values) -> dict[str, Tensor]:
        root, r, center = whitened(draws["alpha"], draws["rho"])
        f = (root @ f_tilde_of(draws["z"], r, center)[..., None])[..., 0]
        return {"rho": draws["rho"], "alpha": draws["alpha"], **indexed("f", f)}

    def sites(values: Values) -> dict[str, Tensor]:
        root, r, center = whitened(values["alpha"], values["rho"])
        f_tilde = torch.linalg.solve_triangular(root, stacked("f", values)[..., None], upper=False)
        return {"rho": values["rho"], "alpha": values["alpha"], "z": (r.mT @ (f_tilde - center))[..., 0]}

    return model, Dataset((x,), {"k": k}), named, sites


# ---------------------------------------------------------------------------------------------- differential equations

STEPS_A_YEAR = 3
"""Runge-Kutta steps of `lotka_volterra`; more of them move no mean by 1/500 of its posterior's standard deviation."""
FIRST_STEPS = 3
"""Runge-Kutta steps of `one_comp_mm_elim_abs` before the first sample of blood; likewise."""


def _lotka_volterra(data: Given) -> Built:
    """Hare and lynx by predator-prey equations, with lognormal errors."""

    def model(y: Tensor) -> None:
        center = y.new_tensor([0.5, 0.025, 0.8, 0.025])
        prior = dist.Normal(y.new_tensor([1.0, 0.05, 1.0, 0.05]), y.new_tensor([0.5, 0.05, 0.5, 0.05]))
        theta = sample_from("theta", prior, dist.LogNormal(center.log(), 0.2).to_event(1))
        z_init = pyro.sample("z_init", dist.LogNormal(y.new_full((2,), math.log(10.0)), 1.0).to_event(1))
        sigma = pyro.sample("sigma", dist.LogNormal(y.new_full((2,), -1.0), 1.0).to_event(1))
        log_z = log_populations(theta, z_init, len(y), STEPS_A_YEAR)
        pyro.sample("y", dist.LogNormal(log_z, sigma).to_event(2), obs=y)

    y = torch.cat([data["y_init"][None], data["y"]])
    names = ("theta", "z_init", "sigma")
    return (
        model,
        Dataset((y,)),
        lambda draws: {key: value for name in names for key, value in indexed(name, draws[name]).items()},
        lambda values: {name: stacked(name, values) for name in names},
    )


def log_populations(theta: Tensor, z_init: Tensor, years: int, steps: int) -> Tensor:
    """Logarithms of prey and predators at the starts of so many years (years, 2), by classical Runge-Kutta steps.

    With w = log z the equations are w' = growth + M exp(w), which keeps both populations positive.
    """
    alpha, beta, gamma, delta = theta.unbind()
    h, zero = 1.0 / steps, torch.zeros_like(alpha)
    growth = h * torch.stack([alpha, -gamma])
    matrix = h * torch.stack([zero, -beta, delta, zero]).reshape(2, 2)

    def slope(w: Tensor) -> Tensor:
        return growth + matrix @ w.exp()

    path = [z_init.log()]
    for _ in range((years - 1) * steps):
        w = path[-1]
        k1 = slope(w)
        k2 = slope(w + 0.5 * k1)
        k3 = slope(w + 0.5 * k2)
        k4 = slope(w + k3)
        path.append(w + (k1 + 2.0 * (k2 + k3) + k4) / 6.0)
    return torch.stack(path[::steps])


def _one_comp_mm_elim_abs(data: Given) -> Built:
    """A drug that is absorbed at first order and eliminated by Michaelis-Menten kinetics; errors are lognormal."""

    def model(times: Tensor, dose: Tensor, c_hat: Tensor | None = None) -> None:
        k_a, k_m, v_m, sigma = (
            pyro.sample(name, dist.HalfCauchy(times.new_tensor(1.0))) for name in ("k_a", "K_m", "V_m", "sigma")
        )
        c = concentrations(times, dose[0], dose[1], k_a, k_m, v_m, FIRST_STEPS)
        pyro.sample("c_hat", dist.LogNormal(c.log(), sigma).to_event(1), obs=c_hat)

    dose = torch.stack([data["D"], data["V"]])
    observed = Dataset((data["times"], dose), {"c_hat": data["C_hat"]})
    return model, observed, *_as_they_are(("k_a", "K_m", "V_m", "sigma"))


LEAST = 1e-10
"""Concentration below which elimination stops: a Runge-Kutta step far from the posterior may overshoot zero."""


def concentrations(
    times: Tensor, dose: Tensor, volume: Tensor, k_a: Tensor, k_m: Tensor, v_m: Tensor, first_steps: int
) -> Tensor:
    """C(t) = absorbed(t) - eliminated(t): the first in closed form, the second by classical Runge-Kutta steps.

    eliminated' = v_m / volume * C / (k_m + C), C(0) = 0.  Elimination saturates within moments of the start where k_m
    is small, so the way to the first time is cut into `first_steps`, the shorter the earlier; then one step a time.
    """
    first = times[0] * (torch.arange(first_steps, dtype=times.dtype) / first_steps) ** 2
    grid = torch.cat([first, times])
    widths = grid.diff()
    stages = torch.cat([torch.stack([grid[:-1], grid[:-1] + 0.5 * widths], -1).flatten(), grid[-1:]])
    absorbed = dose / volume * -torch.expm1(-k_a * stages)
    supply, rates = absorbed.unbind(), (v_m / volume * widths).unbind()

    def slope(rate: Tensor, available: Tensor, eliminated: Tensor) -> Tensor:
        c = (available - eliminated).clamp(min=LEAST)
        return rate * (c / (k_m + c))

    eliminated = [torch.zeros_like(k_a)]
    for i, rate in enumerate(rates):
        start, middle, end = supply[2 * i : 2 * i + 3]
        e = eliminated[-1]
        k1 = slope(rate, start, e)
        k2 = slope(rate, middle, e + 0.5 * k1)
        k3 = slope(rate, middle, e + 0.5 * k2)
        k4 = slope(rate, end, e + k3)
        eliminated.append(e + (k1 + 2.0 * (k2 + k3) + k4) / 6.0)
    left = absorbed[::2] - torch.stack(eliminated)
    return left[-len(times) :].clamp(min=LEAST)


BUILDERS: dict[str, tuple[str, Callable[[Given], Built]]] = {
    "arK": ("arK-arK.json", _ar_k),
    "arma11": ("arma-arma11.json", _arma11),
    "hmm_drive_0": ("bball_drive_event_0-hmm_drive_0.json", _hmm_drive),
    "diamonds": ("diamonds-diamonds.json.gz", _diamonds),
    "logearn_interaction": ("earnings-logearn_interaction.json", _logearn_interaction),
    "eight_schools_noncentered": ("eight_schools-eight_schools_noncentered.json", _eight_schools),
    "gp_pois_regr": ("gp_pois_regr-gp_pois_regr.json", _gp_pois_regr),
    "gp_regr": ("gp_pois_regr-gp_regr.json", _gp_regr),
    "hmm_example": ("hmm_example-hmm_example.json", _hmm_example),
    "lotka_volterra": ("hudson_lynx_hare-lotka_volterra.json", _lotka_volterra),
    "kidscore_interaction": ("kidiq-kidscore_interaction.json", _kidscore_interaction),
    "kilpisjarvi": ("kilpisjarvi_mod-kilpisjarvi.json", _kilpisjarvi),
    "one_comp_mm_elim_abs": ("one_comp_mm_elim_abs-one_comp_mm_elim_abs.json", _one_comp_mm_elim_abs),
    "blr": ("sblri-blr.json", _blr),
}
NAMES = tuple(BUILDERS)
