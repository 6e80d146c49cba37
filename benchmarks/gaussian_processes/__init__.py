"""Gaussian processes and their mixtures against exact values, published scores and inputs that break naive code."""
