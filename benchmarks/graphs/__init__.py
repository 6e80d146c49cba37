"""Bayesian networks and Boltzmann machines against published and exact values and beside another package."""
