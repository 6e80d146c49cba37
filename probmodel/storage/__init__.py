"""Posterior ↔ folder on disk; posterior → ArviZ."""
