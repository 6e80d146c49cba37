"""Fits and posteriors side by side, and the HTML report."""
