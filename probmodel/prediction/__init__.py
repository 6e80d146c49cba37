"""Posterior + new rows → predictive distribution; how good it is."""
