"""Structure learning from scores: the best directed acyclic graph, and the posterior over all of them."""
