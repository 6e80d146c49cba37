"""Directed acyclic graphs from scores: the best one, and the posterior over all of them."""
