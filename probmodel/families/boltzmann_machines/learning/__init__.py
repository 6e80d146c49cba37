"""Learning of Boltzmann machines: positive and negative phase, gradients, the ascent, monitors of convergence."""
