"""Gradient descent on a loss: optimizers, minibatches, loops of whole steps, and the trend of the loss."""
