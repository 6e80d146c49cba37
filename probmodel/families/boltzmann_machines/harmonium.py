"""Restricted Boltzmann machine with {0, 1} hidden units and exponential-family visible units (Welling et al., 2005).

With T the visible units' sufficient statistic and m their base measure, p(v, h) ∝ m(v) exp(T(v) W h + b T(v) + c h),
and with the hidden units summed out f(v) = m(v) exp(b T(v)) ∏_j (1 + exp(c_j + T(v) W_j)).
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from probmodel.families.boltzmann_machines.machine import BoltzmannPath
from probmodel.families.boltzmann_machines.states import SOFTPLUS_THRESHOLD, bernoulli, logit_of_mean
from probmodel.families.boltzmann_machines.units import Units
from probmodel.protocols.dataset import digest


class Harmonium(NamedTuple):
    """Parameters W (V, H), b (V,) and c (H,) of the machine, and the family of its visible units."""

    weight: Float[Tensor, "V H"]
    visible_bias: Float[Tensor, " V"]
    hidden_bias: Float[Tensor, " H"]
    units: Units

    @property
    def machine(self) -> "Harmonium":
        """The machine itself, as the evidence functions read a model's `machine`."""
        return self

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters by name."""
        own = {"weight": self.weight, "visible_bias": self.visible_bias, "hidden_bias": self.hidden_bias}
        return own | self.units.tensors

    @property
    def digest(self) -> str:
        """Fingerprint of the parameters, by which a partition function is matched to its machine."""
        return f"{digest(list(self.tensors.values()))} {self.units}"

    @property
    def double(self) -> "Harmonium":
        """The same machine in float64, detached."""
        weight, visible, hidden = (
            each.detach().double() for each in (self.weight, self.visible_bias, self.hidden_bias)
        )
        return Harmonium(weight, visible, hidden, self.units.detached)

    def check(self) -> None:
        """Raise ValueError for parameters that are not finite."""
        check_finite(self.tensors)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of visible and hidden units."""
        return tuple(self.weight.shape)

    @property
    def num_enumerated(self) -> int:
        """Number of units that an exact sum runs over: the smaller layer, or the hidden one if only that is {0, 1}."""
        return min(self.sizes) if self.units.binary else self.sizes[1]

    def log_unnormalized_of_enumerated(self, states: Float[Tensor, "M K"]) -> Float[Tensor, " M"]:
        """Log f of states of the enumerated layer with the other one summed out, in nats."""
        return self.log_unnormalized(states) if self._over_visible else self.log_unnormalized_hidden(states)

    def states_given(self, states: Float[Tensor, "S K"]) -> Float[Tensor, "S V"]:
        """Draw of the visible states given those of the enumerated layer."""
        return states if self._over_visible else self.units.sample(self.visible_inputs(states))

    def path(self, base_bias: Float[Tensor, " V"] | None) -> "HarmoniumPath":
        """Path from visible units with these natural parameters and hidden fair coins; None takes parameters 0."""
        visible = torch.zeros_like(self.visible_bias) if base_bias is None else base_bias
        return HarmoniumPath(self, visible, torch.zeros_like(self.hidden_bias))

    def natural_parameters(self, visible: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        """Natural parameters of independent visible units with the rows' means."""
        self.units.check(visible)
        return self.units.natural_parameters(visible.to(self.visible_bias))

    def bounds(self, visible: Float[Tensor, "N V"]) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Lower and upper bound of log f of each row in nats, which are equal since log f is exact."""
        check_width(visible, len(self.visible_bias))
        self.units.check(visible)
        log_f = self.log_unnormalized(visible.to(self.visible_bias))
        return log_f, log_f

    @property
    def _over_visible(self) -> bool:
        return self.units.binary and self.sizes[0] <= self.sizes[1]

    def hidden_inputs(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S H"]:
        """Log odds of the hidden units given v."""
        return self.hidden_bias + self.units.statistic(v) @ self.weight

    def visible_inputs(self, h: Float[Tensor, "*S H"]) -> Float[Tensor, "*S V"]:
        """Natural parameters of the visible units given h."""
        return self.visible_bias + h @ self.weight.T

    def log_unnormalized(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        """Log f(v) = −free energy, in nats."""
        statistic = self.units.statistic(v)
        inputs = softplus(self.hidden_bias + statistic @ self.weight, threshold=SOFTPLUS_THRESHOLD).sum(-1)
        return self.units.log_base(v) + statistic @ self.visible_bias + inputs

    def log_unnormalized_hidden(self, h: Float[Tensor, "*S H"]) -> Float[Tensor, "*S"]:
        """Log Σ_v f(v, h) = c h + log partition function of the visible units at b + W h, in nats."""
        return h @ self.hidden_bias + self.units.log_partition(self.visible_inputs(h))

    def gibbs(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        """Gibbs step from v, reversible with respect to f: hidden units given v, then visible units given those."""
        return self.units.sample(self.visible_inputs(bernoulli(self.hidden_inputs(v))))


class HarmoniumPath(NamedTuple):
    """Path f_β(v) from independent units with biases a and d at β = 0 to the machine at β = 1.

    f_β(v) = m(v) exp(((1 − β) a + β b) T(v)) ∏_j (1 + exp((1 − β) d_j + β (c_j + T(v) W_j))).  Draws use the global
    random state.
    """

    machine: Harmonium
    visible_base: Float[Tensor, " V"]
    hidden_base: Float[Tensor, " H"]

    @property
    def log_z0(self) -> float:
        """Log Σ_v f_0(v), in nats."""
        hidden = softplus(self.hidden_base, threshold=SOFTPLUS_THRESHOLD).sum()
        return float(self.machine.units.log_partition(self.visible_base) + hidden)

    @property
    def reversed(self) -> "HarmoniumPath":
        """Path whose steps are the time reversals of these: itself, since each step is reversible."""
        return self

    def base(self, *size: int) -> Tensor:
        """Draws of independent visible units at β = 0."""
        return self.machine.units.sample(self.visible_base.expand(*size, -1))

    def log_base(self, v: Tensor) -> Tensor:
        """Log base measure log m(v), which is the same for every f_β."""
        return self.machine.units.log_base(v)

    def products(self, v: Tensor) -> Tensor:
        """Products of T(v) with W, a and b along the last axis, which every f_β uses."""
        columns = torch.stack([self.visible_base, self.machine.visible_bias], 1)
        return self.machine.units.statistic(v) @ torch.cat([self.machine.weight, columns], 1)

    def hidden_inputs(self, beta: Tensor, products: Tensor) -> Tensor:
        """Log odds (1 − β) d + β (c + T(v) W) of the hidden units given v."""
        beta = beta[..., None]
        return (1 - beta) * self.hidden_base + beta * (self.machine.hidden_bias + products[..., :-2])

    def log_f(self, beta: Tensor, products: Tensor) -> Tensor:
        """Log f_β − log m, in nats; log m is the same at every β."""
        inputs = softplus(self.hidden_inputs(beta, products), threshold=SOFTPLUS_THRESHOLD).sum(-1)
        return (1 - beta) * products[..., -2] + beta * products[..., -1] + inputs

    def gibbs(self, beta: Tensor, products: Tensor) -> Tensor:
        """Gibbs step that is reversible with respect to f_β: hidden units given v, then visible units given those."""
        h = bernoulli(self.hidden_inputs(beta, products))
        beta = beta[..., None]
        return self.machine.units.sample((1 - beta) * self.visible_base + beta * self.machine.visible_inputs(h))

    def fitted_base(self, v: Float[Tensor, "N V"]) -> "HarmoniumPath":
        """Path from independent units with the means of v and of the hidden units given v."""
        hidden = torch.sigmoid(self.machine.hidden_inputs(v))
        return HarmoniumPath(self.machine, self.machine.units.natural_parameters(v), logit_of_mean(hidden))


class TemperedMachines(NamedTuple):
    """Machines at several temperatures in parallel: v has one more axis, with one entry per temperature."""

    path: BoltzmannPath
    betas: Float[Tensor, " T"]

    def free_energy(self, v: Float[Tensor, "*S T V"]) -> Float[Tensor, "*S T"]:
        """Free energy −log f_β(v) in nats, differentiable in the machine's parameters."""
        return -self.path.log_base(v) - self.path.log_f(self.betas, self.path.products(v))

    def gibbs(self, v: Float[Tensor, "*S T V"]) -> Float[Tensor, "*S T V"]:
        """One block Gibbs step at each temperature, without gradients; draws from the global random state."""
        with torch.no_grad():
            return self.path.gibbs(self.betas, self.path.products(v))

    def base(self, *size: int) -> Float[Tensor, "*S V"]:
        """Independent draws at β = 0."""
        with torch.no_grad():
            return self.path.base(*size)


def check_width(visible: Tensor, num_units: int) -> None:
    """Raise ValueError unless visible is (N, num_units)."""
    if visible.dim() != 2 or visible.shape[1] != num_units:
        got = visible.shape[1] if visible.dim() == 2 else f"shape {tuple(visible.shape)}"
        raise ValueError(f"expected rows of {num_units} visible units, got {got}; pass x of shape (N, V)")


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError for parameters that are not finite floating-point numbers."""
    for name, value in tensors.items():
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"expected finite floating-point numbers in {name}, got {value.dtype} with "
                f"{int((~torch.isfinite(value)).sum())} not finite; train with a smaller step, or convert by .double()"
            )
