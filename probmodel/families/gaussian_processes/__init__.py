"""Marginals, predictions and priors of Gaussian processes with GPyTorch's kernels, means and likelihoods."""
