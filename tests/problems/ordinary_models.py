"""The gallery: ordinary Pyro models as people write them, each with its data and its truth."""

from problems import ordinary_groups, ordinary_mixtures, ordinary_regressions, ordinary_sequences, ordinary_structures

JOBS = {
    **ordinary_groups.JOBS,
    **ordinary_regressions.JOBS,
    **ordinary_sequences.JOBS,
    **ordinary_mixtures.JOBS,
    **ordinary_structures.JOBS,
}
"""Name → job, made in the default dtype of the moment."""
