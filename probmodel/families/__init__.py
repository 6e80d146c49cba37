"""Mathematics of Gaussian processes, Bayesian networks and Boltzmann machines, without Pyro."""
