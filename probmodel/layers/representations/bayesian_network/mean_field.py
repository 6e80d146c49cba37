"""Mean-field normal approximations of a family's unconstrained parameters (Kucukelbir et al., 2017)."""

import math
from functools import singledispatch

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions.transforms import StickBreakingTransform

from probmodel.layers.representations.bayesian_network.families import DirichletTable, NormalInverseGamma

MEAN_FIELD_START_LOG_SCALE = math.log(0.1)
"""Initial log standard deviation of every parameter."""


class MeanFieldTable(nn.Module):
    """Guide of a table: θ_j is the image of independent normals under stick breaking."""

    def __init__(self, prior: DirichletTable) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros_like(prior.concentration[:, 1:]))
        self.log_scale = nn.Parameter(torch.full_like(self.loc, MEAN_FIELD_START_LOG_SCALE))

    def forward(self, node: str) -> None:
        normals = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        table = dist.TransformedDistribution(normals, [StickBreakingTransform()])
        pyro.sample(f"{node}.probabilities", table.to_event(1))


class MeanFieldRegressions(nn.Module):
    """Guide of regressions: σ² log-normal, slopes and intercepts normal, all independent."""

    def __init__(self, prior: NormalInverseGamma) -> None:
        super().__init__()
        values = {"variance": prior.shape, "intercept": prior.shape, "slopes": prior.slopes}
        # A regression without parents has no slopes to learn.
        values = {name: value for name, value in values.items() if value.numel()}
        self.loc = nn.ParameterDict({name: nn.Parameter(torch.zeros_like(v)) for name, v in values.items()})
        start = {name: torch.full_like(value, MEAN_FIELD_START_LOG_SCALE) for name, value in values.items()}
        self.log_scale = nn.ParameterDict({name: nn.Parameter(value) for name, value in start.items()})

    def forward(self, node: str) -> None:
        for name in ("variance", "slopes", "intercept"):
            if name in self.loc:
                loc, scale = self.loc[name], self.log_scale[name].exp()
                q = dist.LogNormal(loc, scale) if name == "variance" else dist.Normal(loc, scale)
                pyro.sample(f"{node}.{name}", q.to_event(loc.dim()))


@singledispatch
def mean_field(prior: object) -> nn.Module:
    """Guide of a family's parameters, called with the node's name."""
    raise TypeError(
        f"expected a DirichletTable or a NormalInverseGamma, got {type(prior).__name__}; register its guide by "
        "mean_field.register"
    )


mean_field.register(DirichletTable, MeanFieldTable)
mean_field.register(NormalInverseGamma, MeanFieldRegressions)
