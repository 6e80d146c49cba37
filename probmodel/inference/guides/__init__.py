"""Guides that are exact or normal posteriors, and draws from any guide."""
