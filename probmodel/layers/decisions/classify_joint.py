"""Class of a row by Bayes' rule: p(y | h) ∝ p(h, y), of a representation that is a density of both."""

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from probmodel.layers.decisions.classify import check_labels, check_several_classes, class_numbers, least_expected_loss
from probmodel.protocols.integers import integer


class ClassifyJoint(nn.Module):
    """y ~ Categorical(softmax z), z_k = log p(h, y = k) from a `ClassNetwork`; without a loss, acts by argmax_y p(y, h).

    Of any other representation z are the logits as they are: `Classify` without its linear map.

    Args:
        num_classes: classes, numbered from 0, one for each column of z.
        loss: (actions, classes), what an action costs in each class; 0–1 by default.
    """

    def __init__(self, num_classes: int, *, loss: Float[Tensor, "actions classes"] | None = None) -> None:
        super().__init__()
        if loss is not None and (loss.dim() != 2 or loss.shape[1] != num_classes):
            raise ValueError(f"loss needs shape (actions, {num_classes}), got {tuple(loss.shape)}; one column a class")
        self.num_classes, self.loss = integer("num_classes", num_classes), loss

    def likelihood(self, z: Float[Tensor, "*S N K"]) -> TorchDistributionMixin:
        if z.shape[-1] != self.num_classes:
            raise ValueError(f"expected one column of z for each of {self.num_classes} classes, got {z.shape[-1]}")
        return dist.Categorical(logits=z)

    def act(self, predictive: torch.distributions.Distribution) -> Tensor:
        """Action of least expected loss, (N,), from a Categorical predictive."""
        return least_expected_loss(predictive, self.loss)

    def observed(self, y: Tensor) -> Tensor:
        """Class numbers, from numbers or one-hot rows."""
        return class_numbers(y)

    def check(self, y: Tensor) -> None:
        """Raise ValueError for labels of a wrong shape, or out of range; held-out rows may be of one class."""
        check_labels(y, self.num_classes)

    def check_training(self, y: Tensor) -> None:
        """Raise ValueError for labels of one class only."""
        check_several_classes(y, self.num_classes)

    def settings(self) -> dict[str, object]:
        """Arguments that build the same piece again."""
        return {"num_classes": self.num_classes, "loss": self.loss}
