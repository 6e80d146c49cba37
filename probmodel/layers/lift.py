"""Parameters as latents under a prior: a CNN becomes a Bayesian CNN (MacKay, 1992; Blundell et al., 2015)."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.func import functional_call

from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.dataset_checks import check_by_model, check_training_by_model
from probmodel.protocols.layers import Decision, has_own_guide
from probmodel.protocols.model import Guided

Prior = Callable[[str, Tensor], TorchDistributionMixin]
"""Function of the name and value of a parameter that returns its prior, with the whole parameter as one event."""


def scaled_normal(name: str, parameter: Tensor) -> TorchDistributionMixin:
    """Normal prior: N(0, 2 / fan-in) for weights (He et al., 2015), N(0, 1) for biases.

    The variance of the weights keeps the scale of activations constant through rectifiers.

    Args:
        name: name of the parameter, on which the prior does not depend.
        parameter: value of the parameter.
    """
    fan_in = parameter[0].numel() if parameter.dim() > 1 else 2
    scale = torch.full_like(parameter, math.sqrt(2 / fan_in))
    return dist.Normal(torch.zeros_like(parameter), scale).to_event(parameter.dim())


def generative(name: str) -> bool:
    """Return True for the parameters of the model: all but those of an amortized guide's `encoder`."""
    return "encoder" not in name.split(".")


@checks_arguments
def lift(
    module: nn.Module, *, prior: Prior = scaled_normal, where: Callable[[str], bool] = generative, spread: float = 0.02
) -> "Lifted":
    """Treat parameters as latents: the evidence integrates over them instead of being conditional on their estimates.

    Args:
        module: a model or a part of one; it is copied, and the original does not change.
        prior: function (name, parameter) → prior distribution of the whole parameter.
        where: function name → True for the parameters to lift; by default all but those of an `encoder`.
        spread: initial standard deviation of the mean-field guide, around the parameter's present value.

    Returns:
        Lifted model, called as `module` is, with a `guide`.

    Raises:
        ValueError: if `where` selects no parameter, or spread is not positive.

    Reference:
        Blundell, Cornebise, Kavukcuoglu & Wierstra (2015), "Weight uncertainty in neural networks".
    """
    if not 0 < spread < math.inf:
        raise ValueError(f"expected spread as a positive standard deviation, got {spread}; 0.02 is the default")
    return Lifted(deepcopy(module), prior, where, spread)


class Lifted(nn.Module):
    """Module whose selected parameters are sampled, with a mean-field normal guide that starts at their values.

    Made by `lift`.  The parameters that are not lifted, and those that only the guide reads, stay point estimates.
    """

    def __init__(self, module: nn.Module, prior: Prior, where: Callable[[str], bool], spread: float) -> None:
        super().__init__()
        self.module, self.prior, self.where, self.spread = module, prior, where, spread
        self.names = tuple(name for name, _ in module.named_parameters() if where(name))
        if not self.names:
            raise ValueError(
                f"expected parameters to lift, got none of {[n for n, _ in module.named_parameters()]}; pass a `where` that "
                "selects one or more"
            )
        values = [module.get_parameter(name).detach().clone() for name in self.names]
        self.loc = nn.ParameterList(nn.Parameter(value) for value in values)
        self.log_scale = nn.ParameterList(nn.Parameter(torch.full_like(v, math.log(spread))) for v in values)
        for name in self.names:
            module.get_parameter(name).requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        values = {name: pyro.sample(name, self.prior(name, self.module.get_parameter(name))) for name in self.names}
        return functional_call(self.module, values, args, kwargs)

    def guide(self, *args: Any, **kwargs: Any) -> None:
        """Draw the lifted parameters from a mean-field normal, then run the module's own guide with these values."""
        values = {}
        for name, loc, log_scale in zip(self.names, self.loc, self.log_scale, strict=True):
            values[name] = pyro.sample(name, dist.Normal(loc, log_scale.exp()).to_event(loc.dim()))
        if has_own_guide(self.module):
            functional_call(_Guide(self.module), {f"module.{name}": v for name, v in values.items()}, args, kwargs)

    def check(self, data: Dataset) -> None:
        """Raise ValueError as the module's own `check` does."""
        check_by_model(self.module, data)

    def check_training(self, data: Dataset) -> None:
        """Raise ValueError as the module's own `check_training` does."""
        check_training_by_model(self.module, data)

    @property
    def decision(self) -> Decision:
        """The module's decision layer."""
        return self.module.decision  # type: ignore[return-value]

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"module": self.module, "prior": self.prior, "where": self.where, "spread": self.spread}


class _Guide(nn.Module):
    """Module whose forward is another module's guide, so that `functional_call` can replace its parameters."""

    def __init__(self, module: Guided) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> None:
        self.module.guide(*args, **kwargs)
