"""Seconds of SVI steps, draws, gradients, first fits and Gaussian processes, each as a ratio to another contender in one run."""
