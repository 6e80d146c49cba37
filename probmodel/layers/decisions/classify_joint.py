"""Classification by Bayes' rule, p(y | h) ∝ p(h, y), for a representation that is their joint density."""

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from probmodel.layers.decisions.classify import check_labels, check_several_classes, class_numbers, least_expected_loss
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.integers import integer


class ClassifyJoint(nn.Module):
    """Classification by Bayes' rule: y ~ Categorical(softmax z) with z_k = log p(h, y = k) from a `ClassNetwork`.

    With any other representation z holds the logits themselves, as in `Classify` without its linear map.

    Args:
        num_classes: number of classes, which are numbered from 0, one for each column of z.
        loss: loss of each action in each class, (actions, classes); None for the 0–1 loss, whose action is
            argmax_y p(y, h).

    Raises:
        ValueError: if `num_classes` is not an integer of 1 or more, or `loss` does not have one column per class.
    """

    @checks_arguments
    def __init__(self, num_classes: int, *, loss: Float[Tensor, "actions classes"] | None = None) -> None:
        super().__init__()
        if loss is not None and (loss.dim() != 2 or loss.shape[1] != num_classes):
            raise ValueError(
                f"expected a loss of shape (actions, {num_classes}), got {tuple(loss.shape)}; give one column per class"
            )
        self.num_classes, self.loss = integer("num_classes", num_classes), loss

    def likelihood(self, z: Float[Tensor, "*S N K"]) -> TorchDistributionMixin:
        """Categorical distribution of y with the logits z, one per row.

        Raises:
            ValueError: if z does not have one column per class.
        """
        if z.shape[-1] != self.num_classes:
            raise ValueError(
                f"expected one column of z for each of {self.num_classes} classes, got {z.shape[-1]}; set "
                f"num_classes={z.shape[-1]}, or the representation's out_features={self.num_classes}"
            )
        return dist.Categorical(logits=z)

    def act(self, predictive: torch.distributions.Distribution) -> Tensor:
        """Action of least expected loss for each row, (N,), under a Categorical predictive distribution."""
        return least_expected_loss(predictive, self.loss)

    def observed(self, y: Tensor) -> Tensor:
        """Class numbers of labels given as class numbers or as one-hot rows."""
        return class_numbers(y)

    def check(self, y: Tensor) -> None:
        """Raise ValueError for labels of a wrong shape, dtype or range; held-out rows may all be of one class."""
        check_labels(y, self.num_classes)

    def check_training(self, y: Tensor) -> None:
        """Raise ValueError if all labels are of one class."""
        check_several_classes(y, self.num_classes)

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"num_classes": self.num_classes, "loss": self.loss}
