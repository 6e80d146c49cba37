"""Pipeline decision ∘ representation ∘ features as one Pyro model, with its guide."""

from collections.abc import Callable
from typing import Any, cast

import pyro
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.layers.decisions import ClassifyJoint, Regress
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.dataset_checks import check_tensors
from probmodel.protocols.layers import Decision, DependentRows, GaussianProcessCodes, Generative, Representation
from probmodel.protocols.model import ExactPosterior


class Pipeline(nn.Module):
    """Pipeline p(y | x) = ∫ p(y | z) p(z | features(x)) dz, a Pyro model called as `pipeline(x, y)`.

    Args:
        features: module x → h.
        representation: model h → z, with its guide.
        decision: likelihood z → p(y | z), with its action.

    >>> from probmodel.layers.decisions import Classify
    >>> from probmodel.layers.features import CNN
    >>> from probmodel.layers.representations import VAE
    >>> Pipeline(CNN(1, 32), VAE(32, 8), Classify(8, 10)).num_parameters
    21834
    """

    @checks_arguments
    def __init__(
        self,
        features: Callable[[Tensor], Tensor],
        representation: Representation,
        decision: Decision,
    ) -> None:
        super().__init__()
        self.features = features
        self.representation = representation
        self.decision = decision

    def forward(self, x: Float[Tensor, "N *features"], y: Tensor | None = None) -> Tensor:
        rows = pyro.plate("rows", len(x), dim=-1)
        z = self.representation.model(self.features(x), rows)
        with rows:
            observed = None if y is None else self.decision.observed(y)
            return pyro.sample("y", self.decision.likelihood(z), obs=observed)

    def guide(self, x: Float[Tensor, "N *features"], y: Tensor | None = None) -> None:
        """Draw the latents from the representation's guide, given the features of x."""
        self.representation.guide(self.features(x), pyro.plate("rows", len(x), dim=-1))

    def given(self, data: Dataset) -> "Pipeline | ConditionedPipeline":
        """Model of new rows: this pipeline, or one conditioned on the rows of data where rows are dependent."""
        if not isinstance(self.representation, DependentRows):
            return self
        return ConditionedPipeline(self, _named(data)["x"])

    def check(self, data: Dataset) -> None:
        """Raise ValueError unless data is `Dataset((x,), {"y": y}, size)` with one label per row.

        The size has to be None where the representation makes the rows dependent.
        """
        check_tensors(data, "x", "y")
        values = _named(data)
        if set(values) - {"y"} != {"x"}:
            raise ValueError(
                f"expected a Pipeline to be called with x and y, got {sorted(values)}; pass Dataset((x,), {{'y': y}}, N)"
            )
        x, y = values["x"], values.get("y")
        if len(x) < 2:
            raise ValueError(f"expected at least 2 rows, got {len(x)}; add data")
        if isinstance(self.representation, DependentRows):
            if data.size is not None:
                raise ValueError(
                    f"expected size=None, since {type(self.representation).__name__} makes the rows dependent, got "
                    f"size={data.size}; pass data._replace(size=None), which holds the same rows, or use a SparseGP for "
                    "minibatches"
                )
        elif data.size is None:
            raise ValueError(f"expected size, the number of rows, got None; pass Dataset((x,), {{'y': y}}, {len(x)})")
        if y is None:
            return
        if len(y) != len(x):
            raise ValueError(f"expected y of {len(x)} rows, as many as x, got {len(y)}; pass one label per row")
        self.decision.check(y)

    def check_training(self, data: Dataset) -> None:
        """Raise ValueError for labels that identify no fit, and for features that training would make all equal."""
        values = _named(data)
        if values.get("y") is not None:
            self.decision.check_training(values["y"])
        if isinstance(self.representation, Generative):
            trainable = self._trainable_features()
            if trainable:
                raise ValueError(
                    f"expected fixed features, since {type(self.representation).__name__} is a density of its codes, which "
                    f"training would make all equal, got trainable {trainable}; use Standardize.fitted(network, x) or "
                    "Discretize.fitted(network, x, bins) with a pretrained network"
                )
            with torch.no_grad():
                self.representation.check_codes(self.features(values["x"]))

    def process(self, data: Dataset) -> Any:
        """Gaussian process of the observations, where representation and decision imply one.

        Raises:
            ValueError: if the representation is not a `SparseGP`, or the decision not a `Regress`.
        """
        if not isinstance(self.representation, GaussianProcessCodes) or not isinstance(self.decision, Regress):
            kinds = f"{type(self.representation).__name__} and {type(self.decision).__name__}"
            raise ValueError(f"expected a SparseGP and a Regress, got {kinds}; use evidence.sandwich or evidence.elbo")
        values = _named(data)
        return self.representation.process(self.features(values["x"]), values["y"], self.decision)

    def exact_posterior(self, data: Dataset) -> ExactPosterior | None:
        """Posterior in closed form, or None.

        It exists where the representation is a joint density of fixed features and class, but not for a minibatch.
        """
        values = _named(data)
        y, whole = values.get("y"), data.size in (None, data.num_rows)
        if not isinstance(self.representation, Generative) or not isinstance(self.decision, ClassifyJoint):
            return None
        if y is None or not whole or self._trainable_features():
            return None
        with torch.no_grad():
            return self.representation.exact_codes(self.features(values["x"]), self.decision.observed(y))

    def _trainable_features(self) -> list[str]:
        return [name for name, p in self.named_parameters() if name.startswith("features.") and p.requires_grad]

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters, the guide's included."""
        return sum(p.numel() for p in self.parameters())

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"features": self.features, "representation": self.representation, "decision": self.decision}


class ConditionedPipeline(nn.Module):
    """Model of new rows given known ones, for a pipeline with dependent rows; made by `Pipeline.given`."""

    def __init__(self, pipeline: Pipeline, x: Float[Tensor, "n *features"]) -> None:
        super().__init__()
        self.pipeline, self.x = pipeline, x

    def forward(self, x: Float[Tensor, "m *features"], y: Tensor | None = None) -> Tensor:
        parts, rows = self.pipeline, pyro.plate("rows", len(x), dim=-1)
        representation = cast(DependentRows, parts.representation)
        z = representation.codes_of_new_rows(parts.features(self.x), parts.features(x), rows)
        with rows:
            observed = None if y is None else parts.decision.observed(y)
            return pyro.sample("y", parts.decision.likelihood(z), obs=observed)


def _named(data: Dataset) -> dict[str, Any]:
    """Arguments of the model's call, by name."""
    if len(data.args) > 2:
        raise ValueError(
            f"expected a Pipeline to be called with x and y, got {len(data.args)} positional arguments; pass "
            "Dataset((x,), {'y': y}, N)"
        )
    return data.named("x", "y")
