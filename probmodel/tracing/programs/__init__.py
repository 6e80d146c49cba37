"""Tensor programs: graphs recorded, made pure, differentiated, compiled, and held to their rounding errors."""
