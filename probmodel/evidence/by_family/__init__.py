"""Evidences that one family of models has beyond those of every model."""
