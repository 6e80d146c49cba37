"""Numbers of Bayesian networks: graphs, scores of families, exact search, exact posteriors of edges."""
