"""Tensor programs: graphs are recorded, made pure, differentiated, compiled, and compared up to rounding errors."""
