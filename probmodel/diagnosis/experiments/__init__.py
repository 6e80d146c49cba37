"""Diagnostic experiments that fit again or compare evidences; each answers one question about a model."""
