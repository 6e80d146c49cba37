"""Checks that fit anew or compare conditional evidences: each answers one question about a fit."""
