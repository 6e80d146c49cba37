"""Information criteria: Schwarz's, and the widely applicable Bayesian one."""
