"""features ∘ representation ∘ decision: itself a Pyro model, with its guide."""

from collections.abc import Callable
from typing import Any, cast

import pyro
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.layers.decisions import ClassifyJoint, Regress
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.layers import CodesByProcess, Decision, DependentRows, Generative, Representation
from probmodel.protocols.model import ExactPosterior


class Pipeline(nn.Module):
    """p(y | x) = ∫ p(y | z) p(z | features(x)) dz, a Pyro model called as `pipeline(x, y)`.

    Args:
        features: module x → h.
        representation: h → z, with its guide.
        decision: z → p(y | z) → action.

    >>> from probmodel.decisions import Classify
    >>> from probmodel.features import CNN
    >>> from probmodel.representations import VAE
    >>> Pipeline(CNN(1, 32), VAE(32, 8), Classify(8, 10)).num_parameters
    21834
    """

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
        """The representation's guide on the features of x."""
        self.representation.guide(self.features(x), pyro.plate("rows", len(x), dim=-1))

    def given(self, data: Dataset) -> "Pipeline | ConditionedPipeline":
        """The model of new rows: itself where rows are independent given the latents, else one that continues these."""
        if not isinstance(self.representation, DependentRows):
            return self
        return ConditionedPipeline(self, _named(data)["x"])

    def check(self, data: Dataset) -> None:
        """Raise ValueError unless data is `Dataset((x,), {"y": y}, size)` with as many labels as rows; without a size where
        the representation links the rows.
        """
        values = _named(data)
        if set(values) - {"y"} != {"x"}:
            raise ValueError(
                f"a Pipeline is called with x and y, got {sorted(values)}; pass Dataset((x,), {{'y': y}}, N)"
            )
        x, y = values["x"], values.get("y")
        if len(x) < 2:
            raise ValueError(f"expected at least 2 rows, got {len(x)}; add data")
        if isinstance(self.representation, DependentRows):
            if data.size is not None:
                raise ValueError(
                    f"expected size=None, since {type(self.representation).__name__} links the rows, got size={data.size}; pass "
                    "Dataset((x,), {'y': y}), or take a SparseGP for minibatches"
                )
        elif data.size is None:
            raise ValueError(f"expected size, the number of rows, got None; pass Dataset((x,), {{'y': y}}, {len(x)})")
        if y is None:
            return
        if len(y) != len(x):
            raise ValueError(f"y needs {len(x)} rows as x has, got {len(y)}; pass one label a row")
        self.decision.check(y)

    def check_training(self, data: Dataset) -> None:
        """Raise ValueError for labels that nothing can be learnt from, and for features that would be trained to be alike."""
        values = _named(data)
        if values.get("y") is not None:
            self.decision.check_training(values["y"])
        if isinstance(self.representation, Generative):
            trainable = self._trainable_features()
            if trainable:
                raise ValueError(
                    f"expected fixed features, since {type(self.representation).__name__} is a density of its codes, which "
                    f"trained features would make all alike, got trainable {trainable}; take Standardize.fitted(network, x) "
                    "or Discretize.fitted(network, x, bins) of a network trained before"
                )
            with torch.no_grad():
                self.representation.check_codes(self.features(values["x"]))

    def process(self, data: Dataset) -> Any:
        """The Gaussian process that the observations are of, where representation and decision leave one.

        Raises:
            ValueError: where they do not.
        """
        if not isinstance(self.representation, CodesByProcess) or not isinstance(self.decision, Regress):
            kinds = f"{type(self.representation).__name__} and {type(self.decision).__name__}"
            raise ValueError(f"expected a SparseGP and a Regress, got {kinds}; take evidence.sandwich or evidence.elbo")
        values = _named(data)
        return self.representation.process(self.features(values["x"]), values["y"], self.decision)

    def exact_posterior(self, data: Dataset) -> ExactPosterior | None:
        """Of a representation that is a density of fixed features and the class; None for others, and for a minibatch."""
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
        """Numbers that fitting sets, the guide's included."""
        return sum(p.numel() for p in self.parameters())

    def settings(self) -> dict[str, object]:
        """Arguments that build the same piece again."""
        return {"features": self.features, "representation": self.representation, "decision": self.decision}


class ConditionedPipeline(nn.Module):
    """A pipeline whose representation links rows, as a model of new rows beside known ones; made by `Pipeline.given`."""

    def __init__(self, pipeline: Pipeline, x: Float[Tensor, "n *features"]) -> None:
        super().__init__()
        self.pipeline, self.x = pipeline, x

    def forward(self, x: Float[Tensor, "m *features"], y: Tensor | None = None) -> Tensor:
        parts, rows = self.pipeline, pyro.plate("rows", len(x), dim=-1)
        representation = cast(DependentRows, parts.representation)
        z = representation.continued(parts.features(self.x), parts.features(x), rows)
        with rows:
            observed = None if y is None else parts.decision.observed(y)
            return pyro.sample("y", parts.decision.likelihood(z), obs=observed)


def _named(data: Dataset) -> dict[str, Any]:
    """Arguments of the call by name."""
    if len(data.args) > 2:
        raise ValueError(
            f"a Pipeline is called with x and y, got {len(data.args)} arguments; pass Dataset((x,), {{'y': y}}, N)"
        )
    return data.named("x", "y")
