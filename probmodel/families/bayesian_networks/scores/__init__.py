"""Scores of a node's parents: log marginal likelihoods and penalised likelihoods of tables and linear regressions."""
