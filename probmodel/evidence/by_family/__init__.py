"""Estimators of the evidence for single families of models."""
