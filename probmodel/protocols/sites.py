"""The latents and observations of a model called on its data."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Transform
from torch.distributions.constraints import Constraint


class Latent(NamedTuple):
    """A continuous latent: its place in R^D and the map from there to its support."""

    name: str
    shape: torch.Size
    unconstrained_shape: torch.Size
    transform: Transform
    support: Constraint
    """Support of one number or vector of the site, its event dimensions unwrapped."""
    event_dim: int
    row_dim: int | None
    """Axis of `shape` (from the right) that runs over the rows; None for a latent shared by all rows."""
    value: Tensor


class Sites(NamedTuple):
    """Everything a model samples when called on a data set, found by running it once."""

    latents: tuple[Latent, ...]
    discrete: tuple[str, ...]
    observed: tuple[str, ...]
    max_plate_nesting: int
    num_rows: int | None
    other_plates: frozenset[str]
    """Plates that are as long as the data have rows, by chance: over features, groups, components …"""
    digest: str
    observations: tuple[Tensor, ...]
    improper: tuple[str, ...] = ()
    """Sites without a normalized prior, of which no draw can be made."""
    factors: tuple[str, ...] = ()
    """`pyro.factor` statements: terms that nobody has normalized."""

    def is_joint(self, num_terms: int) -> bool:
        """Whether so many terms are one of many observations, so that no row can be left out."""
        return num_terms == 1 < sum(each.numel() for each in self.observations)

    @property
    def row_local(self) -> bool:
        """Every latent belongs to one row, so that the evidence is a sum over rows."""
        return self.num_rows is not None and bool(self.latents) and all(s.row_dim is not None for s in self.latents)
