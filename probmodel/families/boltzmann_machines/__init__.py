"""Boltzmann machines as numbers: energies, Gibbs steps, sums over states and paths to machines whose sum is known."""
