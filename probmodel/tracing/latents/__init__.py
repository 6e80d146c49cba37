"""Latents: their priors under masks, their supports, and the maps from R^D to them."""
