"""A Pyro function → a pure graph → machine code → one density: all that touches the internals of Pyro and PyTorch."""
