"""Paths from a distribution one can sample to the target, and populations of chains that follow them."""
