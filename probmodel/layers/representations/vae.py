"""Variational autoencoder: a normal code with an amortized guide (Kingma & Welling, 2014; Sohn et al., 2015).

The decision layer is the decoder: `Pipeline(CNN, VAE, Classify)` is a conditional VAE of y given x, and
`Pipeline(MLP, VAE(prior=StandardNormal(k)), Regress)` with y = x is the generative autoencoder, whose linear case is
probabilistic PCA.
"""

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from probmodel.protocols.arguments.checks import checks_arguments

VAE_START_LOG_SCALE = -2.0
"""Initial log standard deviation of a code: wide codes drown out the features, and training stalls at chance level."""


class StandardNormal(nn.Module):
    """Prior z ~ N(0, I) that does not depend on the features, for a generative autoencoder.

    Args:
        out_features: width of z.
    """

    @checks_arguments
    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features

    def forward(self, h: Float[Tensor, "N D"]) -> Float[Tensor, "N twoK"]:
        return h.new_zeros(len(h), 2 * self.out_features)

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"out_features": self.out_features}


class VAE(nn.Module):
    """Variational autoencoder: z ~ N(prior(h)) in the model, z ~ N(encoder(h)) in the guide, one code per row.

    The evidence is log p(y | x) = Σ_rows log ∫ p(z | h) p(y | z) dz, so it can be compared with that of any other model
    of y given x.

    Args:
        in_features: width of h.
        out_features: width of z.
        encoder: module h → (N, 2·out_features), means and log standard deviations of the guide.  None shares the map
            of the default prior: a guide that does not depend on y has no better start (Sohn et al.'s Gaussian
            stochastic network).
        prior: module h → (N, 2·out_features), the same of the model: a trainable linear map by default, which makes z
            conditional on h; `StandardNormal(out_features)` needs a separate encoder, a linear map by default.

    Raises:
        ValueError: in `model` or `guide`, if prior or encoder has a wrong number of outputs.

    Reference:
        Sohn, Lee & Yan (2015), "Learning structured output representation using deep conditional generative models".
    """

    @checks_arguments
    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        encoder: nn.Module | None = None,
        prior: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.has_own_encoder, self.has_own_prior = encoder is not None, prior is not None
        self.prior = _linear(in_features, out_features) if prior is None else prior
        shared = encoder is None and prior is None
        self.encoder = self.prior if shared else _linear(in_features, out_features) if encoder is None else encoder

    def model(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> Float[Tensor, "N K"]:
        """Draw the codes of the rows from the prior given h, at the site "z"."""
        with rows:
            return pyro.sample("z", self._normal(self.prior(h)))

    def guide(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> None:
        """Draw the codes of the rows from the encoder's normal distribution, at the site "z"."""
        with rows:
            pyro.sample("z", self._normal(self.encoder(h)))

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "encoder": self.encoder if self.has_own_encoder else None,
            "prior": self.prior if self.has_own_prior else None,
        }

    def _normal(self, code: Float[Tensor, "N twoK"]) -> TorchDistributionMixin:
        if code.shape[-1] != 2 * self.out_features:
            raise ValueError(
                f"expected encoder and prior with {2 * self.out_features} outputs (means, log scales), got {code.shape[-1]}; "
                "change their last layer, or out_features"
            )
        loc, log_scale = code.chunk(2, -1)
        return dist.Normal(loc, torch.exp(log_scale)).to_event(1)


def _linear(in_features: int, out_features: int) -> nn.Linear:
    """Linear map to means and log scales that starts with narrow codes, so that the decision depends on the features."""
    layer = nn.Linear(in_features, 2 * out_features)
    with torch.no_grad():
        layer.bias[out_features:] = VAE_START_LOG_SCALE
    return layer
