"""Learning of Boltzmann machines: positive and negative phase, gradients, gradient ascent, monitor of convergence."""
