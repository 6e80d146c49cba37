"""Learning of Boltzmann machines: positive and negative phase, gradients, monitors of convergence."""
