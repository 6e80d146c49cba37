"""Representations by Gaussian processes: exact, sparse, products and mixtures of experts."""
