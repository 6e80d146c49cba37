"""Serializable components: the classes and functions that a saved fit may name, and their constructor arguments."""
