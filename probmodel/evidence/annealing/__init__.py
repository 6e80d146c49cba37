"""Annealing paths from a distribution that can be sampled to the target, and populations of chains along them."""
