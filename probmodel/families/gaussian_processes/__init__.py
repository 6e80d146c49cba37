"""Numbers of Gaussian processes on GPyTorch's kernels, means and likelihoods: marginals, predictions, priors."""
