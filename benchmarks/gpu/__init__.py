"""Speed on a CUDA device beside Pyro and hand-written PyTorch, and agreement of the results with those of the CPU."""
