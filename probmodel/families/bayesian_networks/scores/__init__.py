"""Scores of a node given its parents: log marginal and penalized likelihoods of tables and linear regressions."""
