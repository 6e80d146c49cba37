"""Scores of a node's parents: log marginal likelihoods and penalized likelihoods of tables and linear regressions."""
