"""Draws from a guide: all at once by `vmap` over its traced graph, or one by one for latents of many rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyro
import torch
from torch import Tensor

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model
from probmodel.protocols.session.progress import progress_bar
from probmodel.protocols.sites import Latent
from probmodel.tracing.density import Density, evaluates_one_by_one
from probmodel.tracing.devices import traced_run
from probmodel.tracing.internals import number_of_changes
from probmodel.tracing.randomness import isolated


class DrawsOnRequest(Mapping[str, Tensor]):
    """Draws that are made when one of them is first asked for, and kept: site → (1, num_samples, *event).

    The sites, their number and their shapes are known without draws.

    Args:
        latents: continuous latents of the model.
        num_samples: number of draws per latent.
        make: function that makes the draws of all sites, the same ones whenever it is called.
        sources: data and parameters that the draws are made from.
    """

    def __init__(
        self,
        latents: tuple[Latent, ...],
        num_samples: int,
        make: Callable[[], Mapping[str, Tensor]],
        sources: Sequence[Tensor] = (),
    ) -> None:
        self.shapes = {latent.name: torch.Size((1, num_samples, *latent.shape)) for latent in latents}
        self._make, self._sources = make, tuple(sources)
        self._versions = [number_of_changes(source) for source in self._sources]

    @cached_property
    def made(self) -> Mapping[str, Tensor]:
        """Draws of all sites.

        Raises:
            ValueError: where data or parameters have been changed in place since the fit.
        """
        if self._versions != [number_of_changes(source) for source in self._sources]:
            raise ValueError(
                "expected the data and parameters as they were fitted, got some changed in place since, so that the draws "
                "would be of another posterior; ask for the draws before, or fit again"
            )
        return self._make()

    def __getstate__(self) -> dict[str, Any]:
        # A copy has tensors of its own, whose changes are counted anew.
        return {"shapes": self.shapes, "made": self.made}

    def __repr__(self) -> str:
        return f"draws { ({name: tuple(shape) for name, shape in self.shapes.items()}) }"

    def __getitem__(self, site: str) -> Tensor:
        if site not in self.shapes:
            raise KeyError(site)
        return self.made[site]

    def __contains__(self, site: object) -> bool:
        return site in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def guide_draws(
    guide: Model,
    data: Dataset,
    latents: tuple[Latent, ...],
    num_samples: int,
    seed: int,
    *,
    progress: bool = False,
) -> dict[str, Tensor]:
    """Draws of the model's continuous latents from its guide: site → (1, num_samples, *event).

    Args:
        guide: guide that draws the latents.
        data: data set that the guide is called with.
        latents: continuous latents of the model.
        num_samples: number of draws per latent.
        seed: seed of the draws, which are the same for every memory budget.
        progress: whether to show a progress bar where each draw passes over all rows and they take over a second.
    """
    with isolated(seed), torch.no_grad(), pyro.validation_enabled(False):
        if not latents:
            return {}

        def draw(_: Tensor) -> Tensor:
            run = traced_run(guide, data)
            values: list[Any] = [run.nodes[latent.name]["value"] for latent in latents]
            return torch.cat([value.reshape(-1) for value in values])

        start = latents[0].value.new_zeros(())
        size = sum(tensor.numel() * tensor.element_size() for tensor in data.tensors())
        # A guide of row-local latents reads all rows: one call keeps the processor busy, and a graph saves nothing.  A
        # guide of shared latents is cheap however many rows there are, and Pyro's handlers would dominate its cost.
        if any(latent.row_dim is not None for latent in latents) and evaluates_one_by_one(size, start.device):
            drawn = list[Tensor]()
            with progress_bar("draws of the guide", num_samples, shown=progress) as bar:
                while len(drawn) < num_samples:
                    drawn.append(draw(start))
                    bar.update()
            flat = torch.stack(drawn)
        else:
            flat = Density(draw, start)(start.new_zeros(num_samples))
    pieces = flat.split([latent.shape.numel() for latent in latents], -1)
    return {
        latent.name: piece.reshape(1, num_samples, *latent.shape) for latent, piece in zip(latents, pieces, strict=True)
    }
