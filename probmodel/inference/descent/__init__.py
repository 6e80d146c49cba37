"""Gradient descent on a loss: optimizers, minibatches, whole steps in one loop, trend of the loss."""
