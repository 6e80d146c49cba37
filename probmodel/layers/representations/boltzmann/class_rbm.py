"""Restricted Boltzmann machine of features and their class, as a classifier (Larochelle & Bengio, 2008)."""

import pyro
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus

from probmodel.families.boltzmann_machines.discrete_units import BernoulliUnits, CategoricalUnits
from probmodel.families.boltzmann_machines.harmonium import check_width
from probmodel.families.boltzmann_machines.joined_units import JoinedUnits
from probmodel.families.boltzmann_machines.states import SOFTPLUS_THRESHOLD
from probmodel.families.boltzmann_machines.units import Units
from probmodel.layers.representations.boltzmann.rbm import RBM
from probmodel.protocols.arguments.checks import checks_arguments


class ClassRBM(nn.Module):
    """Classification RBM P(v, y, h) ∝ m(v) exp(T(v) W h + U_y h + b T(v) + d_y + c h).

    The posterior of the class has the closed form

        log p(y | v) = d_y + Σ_j log(1 + exp(c_j + U_yj + T(v) W_j)) + constant.

    As a representation it gives these K scores, for a decision that takes them as logits:
    `Pipeline(Identity(), ClassRBM(64, 100, 10), ClassifyJoint(10))` is the normalized p(y | x), fitted by
    `MaximumLikelihood` or `SVI` (discriminative training).  `joint` is the machine of (v, y) with the same parameters,
    for contrastive divergence on `rows(v, y)` (generative training) and for `evidence.log_partition`; training by one
    and then by the other is a hybrid of both.

    Args:
        in_features: number of visible units, V.
        num_hidden: number of hidden units, H.
        out_features: number of classes, K.
        units: family of the visible units; {0, 1} by default.

    Reference:
        Larochelle & Bengio (2008), "Classification using discriminative restricted Boltzmann machines".
    """

    @checks_arguments
    def __init__(self, in_features: int, num_hidden: int, out_features: int, *, units: Units | None = None) -> None:
        super().__init__()
        self.in_features, self.num_hidden, self.out_features = in_features, num_hidden, out_features
        self.units = BernoulliUnits() if units is None else units
        together = JoinedUnits([self.units, CategoricalUnits([out_features])], [in_features, out_features])
        self.joint = RBM(in_features + out_features, num_hidden, units=together)

    def scores(self, v: Float[Tensor, "N V"]) -> Float[Tensor, "N K"]:
        """Log probability log p(y | v) of each class up to a constant, in nats."""
        weight, of_class = self.joint.weight.split([self.in_features, self.out_features])
        check_width(v, self.in_features)
        inputs = self.joint.hidden_bias + self.units.statistic(v) @ weight
        hidden = softplus(inputs[:, None] + of_class, threshold=SOFTPLUS_THRESHOLD).sum(-1)
        return self.joint.visible_bias[self.in_features :] + hidden

    def rows(self, v: Float[Tensor, "N V"], y: Tensor) -> Float[Tensor, "N W"]:
        """Rows of the joint machine: the features, then the one-hot code of the class.

        Raises:
            ValueError: for features of a wrong width or values, or classes of a wrong shape, dtype or range.
        """
        check_width(v, self.in_features)
        self.units.check(v)
        if y.shape != v.shape[:1] or y.is_floating_point() or not bool(((y >= 0) & (y < self.out_features)).all()):
            raise ValueError(
                f"expected {len(v)} class numbers in 0 … {self.out_features - 1}, got {y.dtype} of shape {tuple(y.shape)}; "
                "renumber them, or set out_features"
            )
        return torch.cat([v, one_hot(y, self.out_features).to(v)], 1)

    def model(self, h: Float[Tensor, "N V"], rows: pyro.plate) -> Float[Tensor, "N K"]:
        """Scores of the classes given the features, as `scores` gives them."""
        return self.scores(h)

    def guide(self, h: Float[Tensor, "N V"], rows: pyro.plate) -> None:
        """Do nothing: the hidden units are summed out, and there are no latents."""

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {
            "in_features": self.in_features,
            "num_hidden": self.num_hidden,
            "out_features": self.out_features,
            "units": self.units,
        }
