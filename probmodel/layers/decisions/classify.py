"""Classification by the least expected loss under the predictive probabilities."""

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from probmodel.protocols.arguments.checks import checks_arguments


class Classify(nn.Module):
    """Classification: y ~ Categorical(softmax(W z + b)), with the action of least expected loss.

    Args:
        in_features: width of z.
        num_classes: number of classes, which are numbered from 0.
        loss: loss of each action in each class, (actions, classes); None for the 0–1 loss, whose action is the most
            probable class.

    Raises:
        ValueError: if `loss` does not have one column per class.
    """

    @checks_arguments
    def __init__(
        self, in_features: int, num_classes: int, *, loss: Float[Tensor, "actions classes"] | None = None
    ) -> None:
        super().__init__()
        if loss is not None and (loss.dim() != 2 or loss.shape[1] != num_classes):
            raise ValueError(
                f"expected a loss of shape (actions, {num_classes}), got {tuple(loss.shape)}; give one column per class"
            )
        self.in_features, self.num_classes, self.loss = in_features, num_classes, loss
        self.logits = nn.Linear(in_features, num_classes)

    def likelihood(self, z: Float[Tensor, "*S N K"]) -> TorchDistributionMixin:
        """Categorical distribution of y given the codes, one per row."""
        return dist.Categorical(logits=self.logits(z))

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
        """Raise ValueError if all labels are of one class: the likelihood then has no maximum."""
        check_several_classes(y, self.num_classes)

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"in_features": self.in_features, "num_classes": self.num_classes, "loss": self.loss}


def least_expected_loss(predictive: torch.distributions.Distribution, loss: Tensor | None) -> Int[Tensor, " N"]:
    """Action of least expected loss for each row, (N,).

    Args:
        predictive: Categorical predictive distribution of the rows.
        loss: loss of each action in each class, (actions, classes); None for the most probable class.
    """
    probs = predictive.probs  # type: ignore[attr-defined]
    return probs.argmax(-1) if loss is None else (probs @ loss.to(probs).T).argmin(-1)


def class_numbers(y: Tensor) -> Tensor:
    """Class numbers of labels given as class numbers or as one-hot rows."""
    return y.argmax(-1) if y.dim() == 2 else y


def check_labels(y: Tensor, num_classes: int) -> None:
    """Raise ValueError for labels of a wrong shape, dtype or range."""
    if y.dim() == 2 and y.shape[1] != num_classes:
        raise ValueError(
            f"expected one-hot y with {num_classes} columns, got {y.shape[1]}; set num_classes={y.shape[1]}"
        )
    if y.dim() not in (1, 2):
        raise ValueError(f"expected y of shape (N,) or (N, {num_classes}), got {tuple(y.shape)}; squeeze or reshape it")
    if (y.dim() == 2 and not ((y == 0) | (y == 1)).all()) or (y.dim() == 2 and not (y.sum(-1) == 1).all()):
        raise ValueError(
            "expected one-hot y with a single 1 in each row and 0 elsewhere, got other rows; use class numbers instead"
        )
    labels = class_numbers(y)
    if labels.is_floating_point():
        raise ValueError(f"expected integer class numbers in y, got {labels.dtype}; convert with y.long()")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"expected labels in 0 … {num_classes - 1}, got {low} … {high}; renumber them or set num_classes"
        )


def check_several_classes(y: Tensor, num_classes: int) -> None:
    """Raise ValueError if all labels are of one class."""
    labels = class_numbers(y)
    if num_classes > 1 and bool((labels == labels[0]).all()):
        raise ValueError(
            f"expected labels of two or more classes to fit, got {int(labels[0])} in all {len(labels)} rows; add rows "
            "of other classes, or split with stratify="
        )
