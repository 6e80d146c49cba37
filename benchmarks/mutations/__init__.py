"""Faults put into a copy of the package, one at a time, and whether the tests notice them."""
