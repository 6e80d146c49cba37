"""Discrete networks with conditional probability tables: queries, interventions, sampling, missing values."""
