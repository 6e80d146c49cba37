"""Serializable components: what a saved fit may name, and how each is built again."""
