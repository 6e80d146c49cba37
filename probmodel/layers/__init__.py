"""x → h → z → p(y | z) → one Pyro model: features, representations, decisions, and the pipeline of the three."""
