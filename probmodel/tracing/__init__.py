"""A Pyro function → a pure graph → machine code → one density; all uses of the internals of Pyro and PyTorch."""
