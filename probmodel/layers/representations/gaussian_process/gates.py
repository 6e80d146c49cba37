"""Gates of mixtures of Gaussian processes as Pyro models: the prior probability of each expert for each row."""

import math
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import SigmoidTransform

from probmodel.families.gaussian_processes.mixtures.gates import CountPrior, later_counts
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.integers import integer


class StickBreaking(NamedTuple):
    """Mixing proportions by stick breaking, v_k ~ Beta(first_k, rest_k) for all experts but the last."""

    first: Float[Tensor, " K-1"]
    rest: Float[Tensor, " K-1"]

    def log_split(self, expert: int, size: Tensor, later: Tensor) -> Tensor:
        a, b = self.first[expert], self.rest[expert]
        return _log_beta(a + size, b + later) - _log_beta(a, b)

    def log_next_assignment(self, counts: Float[Tensor, "*S K"]) -> Float[Tensor, "*S K"]:
        a, b = self._updated(counts)
        return _log_proportions(a.log() - (a + b).log(), b.log() - (a + b).log())

    def expected_log(self, counts: Float[Tensor, "*S K"]) -> Float[Tensor, "*S K"]:
        a, b = self._updated(counts)
        both = torch.digamma(a + b)
        return _log_proportions(torch.digamma(a) - both, torch.digamma(b) - both)

    def log_weights_of_experts(self, like: Tensor) -> Float[Tensor, " #K"]:
        if not len(self.first):
            return like.new_zeros(1)
        v = pyro.sample("sticks", dist.Beta(self.first.to(like), self.rest.to(like)).to_event(1))
        return _log_proportions(v.log(), torch.log1p(-v))

    def sample_weights_from_guide(self, like: Tensor) -> None:
        if len(self.first):
            start = (self.first / self.rest).log().to(like)
            loc, log_scale = pyro.param("sticks.loc", start), pyro.param("sticks.log_scale", torch.zeros_like(start))
            normal = dist.Normal(loc, log_scale.exp())
            pyro.sample("sticks", dist.TransformedDistribution(normal, [SigmoidTransform()]).to_event(1))

    def _updated(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        first, rest = self.first.to(counts), self.rest.to(counts)
        return first + counts[..., :-1], rest + later_counts(counts)[..., :-1]


class IndependentAssignments(NamedTuple):
    """Independent assignments of the rows, which depend on `log_input_factors` alone."""

    def log_split(self, expert: int, size: Tensor, later: Tensor) -> Tensor:
        return torch.zeros_like(size)

    def log_next_assignment(self, counts: Float[Tensor, "*S K"]) -> Float[Tensor, "*S K"]:
        return torch.zeros_like(counts)

    def expected_log(self, counts: Float[Tensor, "*S K"]) -> Float[Tensor, "*S K"]:
        return torch.zeros_like(counts)

    def log_weights_of_experts(self, like: Tensor) -> Float[Tensor, " #K"]:
        return like.new_zeros(1)

    def sample_weights_from_guide(self, like: Tensor) -> None:
        pass


class DirichletGate(nn.Module):
    """Gate with mixing proportions ~ Dirichlet(α, …, α) at any input; the order of the experts does not matter.

    With α = a / K it approaches a Dirichlet process of concentration a, and leaves experts that are not needed empty.

    Args:
        num_experts: number of experts, K.
        concentration: α, positive.

    Reference:
        Ishwaran & Zarepour (2002), "Exact and approximate sum representations for the Dirichlet process".
    """

    @checks_arguments
    def __init__(self, num_experts: int, *, concentration: float = 1.0) -> None:
        super().__init__()
        self.num_experts = integer("num_experts", num_experts)
        self.concentration = _positive(concentration)

    @property
    def count_prior(self) -> CountPrior:
        left = torch.arange(self.num_experts - 1, 0, -1, dtype=torch.float64)
        return StickBreaking(torch.full_like(left, self.concentration), self.concentration * left)

    def log_input_factors(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n K"]:
        return x.new_zeros(len(x), self.num_experts)

    def log_prior(self) -> Float[Tensor, ""]:
        return torch.zeros(())

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"num_experts": self.num_experts, "concentration": self.concentration}


class StickBreakingGate(nn.Module):
    """Gate with the mixing proportions of a Dirichlet process truncated at `num_experts` experts.

    The number of experts with rows is inferred, up to `num_experts`.  Earlier experts are larger a priori, so that the
    order of experts that differ matters.

    Args:
        num_experts: largest number of experts, K.
        concentration: concentration of the Dirichlet process, positive.

    Reference:
        Rasmussen & Ghahramani (2002), "Infinite mixtures of Gaussian process experts"; Ishwaran & James (2001), "Gibbs
        sampling methods for stick-breaking priors".
    """

    @checks_arguments
    def __init__(self, num_experts: int, *, concentration: float = 1.0) -> None:
        super().__init__()
        self.num_experts = integer("num_experts", num_experts)
        self.concentration = _positive(concentration)

    @property
    def count_prior(self) -> CountPrior:
        ones = torch.ones(self.num_experts - 1, dtype=torch.float64)
        return StickBreaking(ones, self.concentration * ones)

    def log_input_factors(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n K"]:
        return x.new_zeros(len(x), self.num_experts)

    def log_prior(self) -> Float[Tensor, ""]:
        return torch.zeros(())

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"num_experts": self.num_experts, "concentration": self.concentration}


class SoftmaxGate(nn.Module):
    """Softmax gate p(c = k | x) = softmax_k(w_k φ(x) + b_k), φ any module; its weights are point estimates.

    The likelihood is maximal where transitions between experts are infinitely steep: a few rows identify where they
    are, none how gradual they are.  Weights and biases are therefore estimated at the maximum of the posterior under
    N(0, prior_scale²), which `VariationalEM` adds to its bound; `SVI` and `MaximumLikelihood` do not.

    Args:
        num_features: width of φ(x).
        num_experts: number of experts, K.
        features: module φ; the identity by default.
        prior_scale: standard deviation of the prior of weights and biases, positive.

    Reference:
        Tresp (2001), "Mixtures of Gaussian processes"; Jacobs, Jordan, Nowlan & Hinton (1991).
    """

    @checks_arguments
    def __init__(
        self, num_features: int, num_experts: int, *, features: nn.Module | None = None, prior_scale: float = 10.0
    ) -> None:
        super().__init__()
        self.prior_scale = _positive(prior_scale)
        self.num_experts = integer("num_experts", num_experts)
        self.features = nn.Identity() if features is None else features
        self.weight = nn.Parameter(torch.zeros(num_experts, integer("num_features", num_features), dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(num_experts, dtype=torch.float64))

    @property
    def count_prior(self) -> CountPrior:
        return IndependentAssignments()

    def log_input_factors(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n K"]:
        x = self.features(x)
        _check_width(x, self.weight.shape[1])
        return (x @ self.weight.to(x).mT + self.bias.to(x)).log_softmax(-1)

    def log_prior(self) -> Float[Tensor, ""]:
        return _log_normal(torch.cat([self.weight.flatten(), self.bias]) / self.prior_scale)

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {
            "num_features": self.weight.shape[1],
            "num_experts": self.num_experts,
            "features": self.features,
            "prior_scale": self.prior_scale,
        }


class DensityGate(nn.Module):
    """Density gate p(c = k | x) ∝ w_k N(x; μ_k, diag σ_k²): each expert has its region; all are point estimates.

    Inputs need to be standardized: log w, μ and log σ start at 0 and are estimated at the maximum of the posterior
    under N(0, 1), which `VariationalEM` adds to its bound; `SVI` and `MaximumLikelihood` do not.

    Args:
        num_features: number of columns of x.
        num_experts: number of experts, K.

    Reference:
        Meeds & Osindero (2006), "An alternative infinite mixture of Gaussian process experts".
    """

    @checks_arguments
    def __init__(self, num_features: int, num_experts: int) -> None:
        super().__init__()
        self.num_experts = integer("num_experts", num_experts)
        shape = (num_experts, integer("num_features", num_features))
        self.log_weight = nn.Parameter(torch.zeros(num_experts, dtype=torch.float64))
        self.center = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.zeros(shape, dtype=torch.float64))

    @property
    def count_prior(self) -> CountPrior:
        return IndependentAssignments()

    def log_input_factors(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n K"]:
        _check_width(x, self.center.shape[1])
        log_scale = self.log_scale.to(x)
        white = (x[:, None] - self.center.to(x)) * (-log_scale).exp()
        return (self.log_weight.to(x) - 0.5 * white.square().sum(-1) - log_scale.sum(-1)).log_softmax(-1)

    def log_prior(self) -> Float[Tensor, ""]:
        every = (self.log_weight, self.center.flatten(), self.log_scale.flatten())
        return _log_normal(torch.cat(every))

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"num_features": self.center.shape[1], "num_experts": self.num_experts}


def _log_proportions(log_taken: Tensor, log_left: Tensor) -> Tensor:
    """Log mixing proportions log π of K experts from log v and log(1 − v) of the first K − 1."""
    none = torch.zeros_like(log_left[..., :1]) if log_left.shape[-1] else log_left.new_zeros(*log_left.shape[:-1], 1)
    return torch.cat([log_taken, none], -1) + torch.cat([none, log_left.cumsum(-1)], -1)


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def _log_normal(white: Tensor) -> Tensor:
    """Log density of standard normals up to the constant."""
    return -0.5 * white.square().sum()


def _check_width(x: Tensor, num_features: int) -> None:
    if x.shape[-1] != num_features:
        raise ValueError(
            f"expected {num_features} columns for the gate, got {x.shape[-1]}; set num_features={x.shape[-1]}"
        )


def _positive(concentration: float) -> float:
    if not 0 < concentration < math.inf:
        raise ValueError(f"expected a positive finite number, got {concentration}; pass a number such as 1.0")
    return float(concentration)
