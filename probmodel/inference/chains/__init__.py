"""Markov chains: warm start, adaptation, trees, recording."""
