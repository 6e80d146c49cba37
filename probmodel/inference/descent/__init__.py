"""Gradient descent on a loss: optimisers, minibatches, whole steps in one loop, trend of the loss."""
