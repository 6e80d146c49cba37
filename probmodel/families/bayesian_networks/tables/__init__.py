"""Discrete networks with their tables: queries, interventions, sampling, missing values."""
