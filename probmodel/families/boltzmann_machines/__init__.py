"""Boltzmann machines as parameter tensors: energies, Gibbs steps, sums over states and annealing paths."""
