"""Maps from R^D to the latents: fixed ones, and those that follow supports which other latents move."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to

from probmodel.protocols.model import Model
from probmodel.protocols.structural import Structural
from probmodel.tracing.density import Density, refuse_other_draws
from probmodel.tracing.latents.coordinates import Coordinates

Run = Callable[[], poutine.Trace]
"""Function that runs the model with its latents placed, called only where the run is needed."""


@runtime_checkable
class Maps(Protocol, metaclass=Structural):
    """The maps from theta to the latents of a model."""

    def placed(self, model: Model, theta: Float[Tensor, " D"]) -> Model:
        """The model with its latents at the image of theta."""
        ...

    def log_jacobian(self, theta: Float[Tensor, " D"], run: Run, *, by_row: bool = False) -> Tensor:
        """Log |det| of the maps at theta, the sum over all coordinates or by row (N,)."""
        ...

    def theta_of(self, run: poutine.Trace) -> Float[Tensor, " D"]:
        """Theta of the latents drawn in a run."""
        ...

    def constrain(self, theta: Float[Tensor, "S D"]) -> dict[str, Tensor]:
        """Latents by site, (S, *shape)."""
        ...

    def unconstrain(self, values: Mapping[str, Tensor]) -> Float[Tensor, "S D"]:
        """Theta of latents by site, (S, *shape)."""
        ...


class FixedMaps:
    """Maps that are the same in every run.

    Args:
        layout: coordinates of the latents.
        start: theta of one run, whose dtype and device theta has.
    """

    def __init__(self, layout: Coordinates, start: Float[Tensor, " D"]) -> None:
        self.layout, self.start = layout, start

    def placed(self, model: Model, theta: Float[Tensor, " D"]) -> Model:
        placed: Model = poutine.condition(
            model, {name: value[0] for name, value in self.layout.split(theta[None]).items()}
        )
        return placed

    def log_jacobian(self, theta: Float[Tensor, " D"], run: Run, *, by_row: bool = False) -> Tensor:
        return self.layout.log_jacobian(theta, by_row=by_row)

    def theta_of(self, run: poutine.Trace) -> Float[Tensor, " D"]:
        nodes: Mapping[str, Any] = run.nodes
        return self.unconstrain({latent.name: nodes[latent.name]["value"][None] for latent in self.layout.latents})[0]

    def constrain(self, theta: Float[Tensor, "S D"]) -> dict[str, Tensor]:
        refuse_other_draws(theta, self.start.shape)
        return self.layout.split(theta)

    def unconstrain(self, values: Mapping[str, Tensor]) -> Float[Tensor, "S D"]:
        return self.layout.join(values, self.start.dtype, self.start.device)


class _Placed(Messenger):
    """Sets latents to the image of their coordinates under the transform to their support in this very run."""

    def __init__(self, coordinates: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.coordinates = coordinates

    def _pyro_sample(self, msg: Any) -> None:
        u = self.coordinates.get(msg["name"])
        if u is not None:
            msg["value"], msg["is_observed"] = biject_to(msg["fn"].support)(u), True


class MovingMaps:
    """Maps taken inside each run, for supports that other latents move; the transforms of a run are those of its draws.

    Args:
        layout: coordinates of the latents.
        start: theta of one run, whose dtype and device theta has.
        run: model → its trace on the data, discrete latents enumerated.
        model: the model.
    """

    def __init__(
        self, layout: Coordinates, start: Float[Tensor, " D"], run: Callable[[Model], poutine.Trace], model: Model
    ) -> None:
        self.layout, self.start, self.run, self.model = layout, start, run, model
        self._constrained = Density(lambda theta: self._values_at(theta), start)
        self._unconstrained = Density(lambda flat: self._theta_at(flat), self._values_at(start))

    def placed(self, model: Model, theta: Float[Tensor, " D"]) -> Model:
        coordinates = self.layout.by_site(theta)

        def run(*args: Any, **kwargs: Any) -> Any:
            with _Placed(coordinates):
                return model(*args, **kwargs)

        return run

    def log_jacobian(self, theta: Float[Tensor, " D"], run: Run, *, by_row: bool = False) -> Tensor:
        coordinates = self.layout.by_site(theta)
        nodes: Mapping[str, Any] = run().nodes
        found = {
            name: biject_to(nodes[name]["fn"].support).log_abs_det_jacobian(u, nodes[name]["value"])
            for name, u in coordinates.items()
        }
        return self.layout.total(found, by_row=by_row)

    def theta_of(self, run: poutine.Trace) -> Float[Tensor, " D"]:
        nodes: Mapping[str, Any] = run.nodes
        inverses = {
            each.name: biject_to(nodes[each.name]["fn"].support).inv(nodes[each.name]["value"])
            for each in self.layout.latents
        }
        return self.layout.joined(inverses).to(self.start)

    def constrain(self, theta: Float[Tensor, "S D"]) -> dict[str, Tensor]:
        return self._split(self._constrained(theta))

    def unconstrain(self, values: Mapping[str, Tensor]) -> Float[Tensor, "S D"]:
        self.layout.check_values(values)
        flat = [v.to(self.start).reshape(len(v), -1) for v in (values[each.name] for each in self.layout.latents)]
        return self._unconstrained(torch.cat(flat, -1))

    def _values_at(self, theta: Float[Tensor, " D"]) -> Float[Tensor, " V"]:
        nodes: Mapping[str, Any] = self.run(self.placed(self.model, theta)).nodes
        return torch.cat([nodes[latent.name]["value"].reshape(-1) for latent in self.layout.latents])

    def _theta_at(self, flat: Float[Tensor, " V"]) -> Float[Tensor, " D"]:
        values = {name: value[0] for name, value in self._split(flat[None]).items()}
        return self.theta_of(self.run(poutine.condition(self.model, values)))

    def _split(self, flat: Float[Tensor, "S V"]) -> dict[str, Tensor]:
        pieces = flat.split([latent.shape.numel() for latent in self.layout.latents], -1)
        return {
            latent.name: piece.reshape(len(flat), *latent.shape)
            for latent, piece in zip(self.layout.latents, pieces, strict=True)
        }
