"""Guides that inference makes itself: exact posteriors, and draws of any guide."""
