"""The latents and observations of a model called on its data."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Transform
from torch.distributions.constraints import Constraint


class Latent(NamedTuple):
    """A continuous latent: its shape in R^D and the map from R^D to its support."""

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
    """Plates whose size happens to equal the number of rows: over features, groups, components …"""
    digest: str
    observations: tuple[Tensor, ...]
    improper: tuple[str, ...] = ()
    """Sites without a normalized prior, which cannot be drawn."""
    factors: tuple[str, ...] = ()
    """`pyro.factor` statements: terms that need not be normalized."""
    deterministic: tuple[str, ...] = ()
    """Sites that are functions of others: `pyro.deterministic` statements and point masses."""
    axes: Mapping[str, tuple[str | None, ...]] = {}
    """Site → names of the plates over the axes of its value, None for an axis without a plate."""

    row_plates: frozenset[str] = frozenset()
    """Names of the plates over the rows."""
    sequential: frozenset[str] = frozenset()
    """Names of the plates that the model loops over."""
    moving: frozenset[str] = frozenset()
    """Latents whose support depends on other latents."""
    parameters: tuple[str, ...] = ()
    """`pyro.param` statements: values that are optimized, not sampled."""
    coupled_rows: bool = False
    """True where observations of a row depend on latents that other rows have in the plate over rows; none is then local."""

    def is_joint(self, num_terms: int) -> bool:
        """Return whether the likelihood has one term for many observations, so that no row can be left out.

        Args:
            num_terms: number of terms of the log-likelihood by row.
        """
        return num_terms == 1 < sum(each.numel() for each in self.observations)

    @property
    def row_local(self) -> bool:
        """True where every latent belongs to one row, so that the evidence is a sum over rows."""
        return self.num_rows is not None and bool(self.latents) and all(s.row_dim is not None for s in self.latents)
