"""Assignment of the coordinates of R^D to latents, and the maps to their supports."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probmodel.protocols.arguments.checks import shown
from probmodel.protocols.arguments.kinds import is_mapping
from probmodel.protocols.sites import Latent


class Coordinates:
    """Assignment of the coordinates of theta to latents.

    Args:
        latents: continuous latents, in the order of their coordinates.
    """

    def __init__(self, latents: tuple[Latent, ...]) -> None:
        self.latents = latents
        self.sizes = [latent.unconstrained_shape.numel() for latent in latents]
        self.dim = sum(self.sizes)

    def split(self, theta: Float[Tensor, "S D"]) -> dict[str, Tensor]:
        """Constrained values by site, each (S, *shape)."""
        return {latent.name: latent.transform(u) for latent, u in self._unconstrained(theta)}

    def join(self, values: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device) -> Float[Tensor, "S D"]:
        """Unconstrained coordinates of constrained values (S, *shape) by site."""
        self.check_values(values)
        parts = [latent.transform.inv(values[latent.name].to(device)) for latent in self.latents]
        if not parts:
            return torch.zeros(1, 0, dtype=dtype, device=device)
        return torch.cat([part.reshape(len(part), -1) for part in parts], -1).to(dtype)

    def check_values(self, values: Any) -> None:
        """Raise TypeError for what is no mapping, ValueError unless every latent has values (S, *shape)."""
        if not is_mapping(values):
            raise TypeError(f"expected draws by the names of the latents, got {shown(values)}; pass {{name: draws}}")
        missing = [latent.name for latent in self.latents if latent.name not in values]
        if missing:
            raise ValueError(
                f"expected values for every latent, got none for {missing} among {list(values)}; pass draws of these sites"
            )
        for latent in self.latents:
            value = values[latent.name]
            if not torch.is_tensor(value) or not value.dim() or value.shape[1:] != latent.shape:
                axes = ", ".join(("S", *map(str, latent.shape))) if latent.shape else "S,"
                raise ValueError(
                    f"expected draws of {latent.name!r} as a tensor of shape ({axes}), got {shown(value)}; pass draws of the "
                    "same model, their axis first"
                )

    def log_jacobian(self, theta: Float[Tensor, " D"], *, by_row: bool = False) -> Tensor:
        """Log |det T'(theta)|, the sum over all coordinates or by row (N,)."""
        total = theta.new_zeros(())
        for latent, u in self._unconstrained(theta[None]):
            value = latent.transform(u)
            part = latent.transform.log_abs_det_jacobian(u, value)[0]
            total = total + (self._of_rows(latent, part) if by_row else part.sum())
        return total

    def by_row(self, rows: int) -> Int[Tensor, "N d"]:
        """Indices of the coordinates of each row."""
        parts = []
        for latent, index in self._unconstrained(torch.arange(self.dim)[None]):
            parts.append(index[0].movedim(len(latent.shape) + (latent.row_dim or 0), 0).reshape(rows, -1))
        return torch.cat(parts, -1)

    def by_site(self, theta: Float[Tensor, " D"]) -> dict[str, Tensor]:
        """Unconstrained coordinates by site, each of its unconstrained shape."""
        return {latent.name: u[0] for latent, u in self._unconstrained(theta[None])}

    def joined(self, coordinates: Mapping[str, Tensor]) -> Float[Tensor, " D"]:
        """Theta of unconstrained coordinates by site."""
        return torch.cat([coordinates[latent.name].reshape(-1) for latent in self.latents])

    def total(self, log_jacobians: Mapping[str, Tensor], *, by_row: bool = False) -> Tensor:
        """Sum of log |det| of the latents' maps, over all coordinates or by row (N,)."""
        parts = [
            self._of_rows(latent, log_jacobians[latent.name]) if by_row else log_jacobians[latent.name].sum()
            for latent in self.latents
        ]
        return torch.stack(parts).sum(0)

    @staticmethod
    def _of_rows(latent: Latent, log_jacobian: Tensor) -> Float[Tensor, " N"]:
        by_row = log_jacobian.movedim(len(latent.shape) + (latent.row_dim or 0), 0)
        return by_row.reshape(len(by_row), -1).sum(-1)

    def _unconstrained(self, theta: Tensor) -> list[tuple[Latent, Tensor]]:
        pieces = theta.split(self.sizes, -1)
        return [
            (latent, piece.reshape(len(theta), *latent.unconstrained_shape))
            for latent, piece in zip(self.latents, pieces, strict=True)
        ]
