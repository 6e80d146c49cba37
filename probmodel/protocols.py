"""The architecture of `probmodel`: every protocol and every value that passes between its rooms.

Layers compose into one Pyro model; the model is traced once into a pure tensor program; inference, evidence and
diagnosis are functions of values.  Nothing here computes; read this file first.
"""

import hashlib
import html
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

import pyro
import torch
from jaxtyping import Float, Int
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Distribution

from probmodel.structural import Structural

Draws = Mapping[str, Tensor]
"""Site name → draws of shape (chain, draw, *event), in the model's own (constrained) space."""


class Dataset(NamedTuple):
    """How a model is called: `model(*args, **kwargs)`.

    Tensors that share the first tensor's first axis are aligned by row when `size` is given.

    Args:
        args: positional arguments of the model.
        kwargs: keyword arguments of the model; observations usually go here.
        size: rows of the full data set; a minibatch keeps the full size, which is what scales it. None where the data
            have no rows that could be taken out.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    size: int | None = None

    @property
    def num_rows(self) -> int | None:
        """Rows held here (the batch), or None when `size` is None."""
        return None if self.size is None else len(self.tensors()[0])

    def named(self, *names: str) -> dict[str, Any]:
        """Arguments by name, where the positional ones have these names in the model's signature."""
        return dict(zip(names, self.args, strict=False)) | dict(self.kwargs)

    def tensors(self) -> list[Tensor]:
        """All tensors, positional ones first."""
        values = [*self.args, *self.kwargs.values()]
        return [value for value in values if isinstance(value, Tensor)]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Dataset":
        """Apply `function` to each tensor; everything else passes through."""

        def apply(value: Any) -> Any:
            return function(value) if isinstance(value, Tensor) else value

        return Dataset(
            tuple(apply(value) for value in self.args),
            {name: apply(value) for name, value in self.kwargs.items()},
            self.size,
        )

    def rows(self, index: Int[Tensor, " B"] | slice) -> "Dataset":
        """The minibatch of the rows in `index`; `size` stays that of the full set."""
        count = self.num_rows
        if count is None:
            raise ValueError("expected data with rows, got size=None; give Dataset(args, kwargs, size=number of rows)")
        return self.map(lambda t: t[index] if t.dim() and len(t) == count else t)

    def to(self, target: torch.device | torch.dtype | str) -> "Dataset":
        """The same data on another device, or its floating-point tensors in another dtype."""
        if isinstance(target, torch.dtype):
            return self.map(lambda t: t.to(target) if t.is_floating_point() else t)
        return self.map(lambda t: t.to(target))


def digest(values: list[Tensor]) -> str:
    """Fingerprint of observed values: equal for the same numbers in any dtype, device or order of sites."""
    parts = sorted(value.detach().cpu().double().contiguous().numpy().tobytes() for value in values)
    return hashlib.sha256(b"|".join(parts)).hexdigest()[:16]


def counted(value: Tensor, kept: Tensor) -> Tensor:
    """What a digest takes of a value of which a mask leaves some out: with the mask, since an evidence depends on it."""
    # By NumPy, since a number taken out of a tensor would end a recording in which sites are looked at.
    if kept.detach().cpu().numpy().all():
        return value
    return torch.cat([value.double().reshape(-1), kept.to(value.device).double().reshape(-1)])


@runtime_checkable
class Model(Protocol, metaclass=Structural):
    """A stochastic function in Pyro: latents are `pyro.sample`, observations carry `obs=`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


@runtime_checkable
class Guided(Protocol, metaclass=Structural):
    """A model that brings its own guide, called as the model is."""

    def guide(self, *args: Any, **kwargs: Any) -> Any: ...


@runtime_checkable
class Checked(Protocol, metaclass=Structural):
    """A model that can tell bad data before anything runs; `check` raises ValueError saying expected, got, remedy."""

    def check(self, data: Dataset) -> None: ...


@runtime_checkable
class Learner(Protocol, metaclass=Structural):
    """A model that can tell data it could score but learn nothing from; `check_training` raises ValueError as `check` does."""

    def check_training(self, data: Dataset) -> None: ...


@runtime_checkable
class Representation(Protocol, metaclass=Structural):
    """Latent code of the features; `rows` is the plate over data, passed in as an object."""

    out_features: int

    def model(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> Float[Tensor, "N K"]: ...

    def guide(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> None: ...


def brings_guide(model: Model) -> TypeGuard[Guided]:
    """Whether a model has a guide that is called as the model is; a representation's is for its codes."""
    return isinstance(model, Guided) and not isinstance(model, Representation)


@runtime_checkable
class Decision(Protocol, metaclass=Structural):
    """Likelihood of y given the code, and the action of least expected loss."""

    def likelihood(self, z: Float[Tensor, "*S N K"]) -> TorchDistributionMixin: ...

    def act(self, predictive: Distribution) -> Tensor: ...

    def observed(self, y: Tensor) -> Tensor:
        """Y in the form the likelihood scores (class numbers for one-hot rows)."""
        ...

    def check(self, y: Tensor) -> None:
        """Raise ValueError for y that cannot be scored."""
        ...

    def check_training(self, y: Tensor) -> None:
        """Raise ValueError for y that could be scored but nothing can be learnt from."""
        ...


@runtime_checkable
class Deciding(Protocol, metaclass=Structural):
    """A model that ends in a decision layer."""

    decision: Decision


NOISE_VARIANCE = "variance of the noise"
"""Deterministic Pyro site at which a model that has integrated a function out says how much of y's variance is noise, (m,)."""


@runtime_checkable
class Marginal(Protocol, metaclass=Structural):
    """A model that has integrated out what links its rows, so that new ones depend on the observed ones."""

    def given(self, data: Dataset) -> Model:
        """The model of new rows, called with the same arguments; its latents are the same."""
        ...


@runtime_checkable
class Linked(Protocol, metaclass=Structural):
    """A representation whose rows depend on each other: codes of new rows follow from those of the known ones."""

    def continued(
        self, known: Float[Tensor, "n D"], new: Float[Tensor, "m D"], rows: pyro.plate
    ) -> Float[Tensor, "m K"]: ...


@runtime_checkable
class LeavesOneOut(Protocol, metaclass=Structural):
    """A model that has each row's density given all others in closed form."""

    def log_leave_one_out(self, data: Dataset) -> Float[Tensor, " n"]:
        """Log p(y_i | all other y), nats, at the latents drawn in the call."""
        ...


@runtime_checkable
class ExactGuide(Protocol, metaclass=Structural):
    """A guide that is the posterior itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def draws(self, num_draws: int) -> dict[str, Tensor]:
        """Independent draws by site, (num_draws, *event), in the model's own (constrained) space."""
        ...


class ExactPosterior(NamedTuple):
    """A posterior in closed form.

    Args:
        log_evidence: of the data, in nats.
        guide: draws from the posterior.
    """

    log_evidence: float
    guide: ExactGuide


@runtime_checkable
class ClosedForm(Protocol, metaclass=Structural):
    """A model that may know its evidence and posterior in closed form, and is asked before anything is computed."""

    def exact_posterior(self, data: Dataset) -> ExactPosterior | None:
        """None where these data, or the pieces that the model is made of, leave no closed form."""
        ...


@runtime_checkable
class Generative(Protocol, metaclass=Structural):
    """A representation that is a density of its features and the class together: the features have to be fixed."""

    def exact_codes(self, h: Float[Tensor, "N D"], y: Int[Tensor, " N"]) -> ExactPosterior: ...

    def check_codes(self, h: Float[Tensor, "N D"]) -> None:
        """Raise ValueError for features that the density is not for."""
        ...


@runtime_checkable
class CodesByProcess(Protocol, metaclass=Structural):
    """A representation by a Gaussian process that an affine decision with normal noise leaves one."""

    def process(self, h: Float[Tensor, "N D"], y: Tensor, decision: Any) -> Any: ...


@runtime_checkable
class Objective(Protocol, metaclass=Structural):
    """Differentiable loss in nats over the whole data set, never per datum."""

    def __call__(self, model: Model, guide: Model, data: Dataset) -> Float[Tensor, ""]: ...


@runtime_checkable
class Inference(Protocol, metaclass=Structural):
    """Frozen settings, called once; leaves no global behind."""

    def __call__(self, model: Model, data: Dataset, *, seed: int) -> "Posterior": ...


@runtime_checkable
class Estimator(Protocol, metaclass=Structural):
    """Of the evidence of a model and its data: from a fit, or straight from a target where no fit is needed."""

    def __call__(self, subject: "Posterior | Target", *, seed: int = 0) -> "Evidence": ...


class Target(NamedTuple):
    """A model and its data as one density on R^D; S draws at once, everything in nats.

    `log_prior` includes the log-Jacobian of the map from R^D to the support, so the three add up:
    log_joint = log_prior + log_likelihood.  Discrete latents are summed out.
    """

    dim: int
    log_prior: Callable[[Float[Tensor, "S D"]], Float[Tensor, " S"]]
    log_likelihood: Callable[[Float[Tensor, "S D"]], Float[Tensor, " S"]]
    log_joint: Callable[[Float[Tensor, "S D"]], Float[Tensor, " S"]]
    log_likelihood_by_row: Callable[[Float[Tensor, "S D"]], Float[Tensor, "S N"]]
    log_prior_by_row: Callable[[Float[Tensor, "S D"]], Float[Tensor, "S N"]]
    log_joint_by_row: Callable[[Float[Tensor, "S D"]], Float[Tensor, "S N"]]
    log_joint_at: Callable[[Float[Tensor, " D"]], Float[Tensor, ""]]
    log_jacobian: Callable[[Float[Tensor, "S D"]], Float[Tensor, " S"]]
    """Log |det| of the map from R^D to the support: log density of constrained values = log joint − this."""
    sample_prior: Callable[[int, int], Float[Tensor, "S D"]]
    constrain: Callable[[Float[Tensor, "S D"]], dict[str, Tensor]]
    unconstrain: Callable[[Mapping[str, Tensor]], Float[Tensor, "S D"]]
    by_row: Int[Tensor, "N d"] | None
    """Which coordinates belong to which row, when every latent is local to a row: the evidence is then a sum over rows."""
    bytes_per_draw: int
    """Memory that one evaluation of the log joint needs: what decides how many draws run at once."""
    digest: str
    dtype: torch.dtype
    device: torch.device
    fallback: str | None
    """Why the model could not be traced and runs eagerly; None for a traced model."""
    given: tuple[str, ...]
    """Parameters that the density is conditional on: point estimates that are not integrated."""
    improper: tuple[str, ...] = ()
    """Sites whose prior does not integrate to one: the evidence is defined up to a constant then."""
    factors: tuple[str, ...] = ()
    """`pyro.factor` statements, which count as likelihood whether they are normalised or not."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """What inference found: the fitted model, the data, draws of its latents, how it went, and the guide if any.

    `info` holds plain numbers and lists: method, seconds, seed, losses, diagnostics of the sampler.
    """

    model: Model
    data: Dataset
    draws: Draws
    info: Mapping[str, Any]
    guide: Model | None = None

    def __repr__(self) -> str:
        sites = ", ".join(f"{name} {tuple(draw.shape)}" for name, draw in self.draws.items()) or "no latents"
        seconds = float(self.info.get("seconds", 0.0))
        return f"Posterior by {self.info.get('method', '?')} in {seconds:.1f} s: {sites}"


Subject = Posterior | Target
"""What an estimator of the evidence works on: a fit, or a model and its data without one."""


class Estimate(NamedTuple):
    """One estimator's answer in a table of several, nats."""

    method: str
    log_z: float
    stderr: float
    """Monte Carlo standard error; nan where no draw can show the error."""
    ess_share: float = float("nan")
    """Effective share of the draws (Kong, 1992)."""
    k_hat: float = float("nan")
    """Pareto k-hat of the weights (Vehtari et al., 2024)."""
    seconds: float = float("nan")
    caveat: str = ""
    """Why the estimate is left out of the comparison; empty where it takes part."""


@dataclass(frozen=True)
class Agreement:
    """Several estimates of one number, and whether they agree.

    Args:
        estimates: one a method.
        p_value: of the chi-square test that all estimates without a caveat share one value; nan for fewer than two.
    """

    estimates: tuple[Estimate, ...] = ()
    p_value: float = float("nan")

    def __getitem__(self, method: str) -> Estimate:
        for each in self.estimates:
            if each.method == method:
                return each
        raise KeyError(f"expected one of {[each.method for each in self.estimates]}, got {method!r}")

    def __iter__(self) -> Iterator[Estimate]:
        return iter(self.estimates)

    def __len__(self) -> int:
        return len(self.estimates)

    def __str__(self) -> str:
        lines = [_ROW.format("method", "log Z", "stderr", "ESS", "k-hat", "seconds", "caveat")]
        lines += [_ROW.format(*_cells(each)) for each in self.estimates]
        return "\n".join([*lines, f"agreement: chi-square p = {self.p_value:.3g}"])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in Estimate._fields)
        rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(each)) for each in self.estimates)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><tr>{head}</tr>{body}</table><p>agreement: chi-square p = {self.p_value:.3g}</p>"


_ROW = "{:<22}{:>12}{:>11}{:>9}{:>7}{:>9}  {}"


def _cells(estimate: Estimate) -> list[str]:
    """The numbers of an estimate as text; a dash where there is none."""
    formats = ("{}", "{:.4f}", "{:.4f}", "{:.1%}", "{:.2f}", "{:.2f}", "{}")
    return ["–" if value != value else form.format(value) for form, value in zip(formats, estimate, strict=True)]


@dataclass(frozen=True)
class Evidence:
    """Log marginal likelihood of the data, in nats.

    Args:
        log_z: the estimate.
        stderr: its Monte Carlo standard error; 0 where exact, nan where the method has an error no draw can show.
        lower, upper: bound at `level`; infinite on a side the method does not bound.
        method: name of the estimator.
        given: names of the parameters the evidence is conditional on (point estimates that were not integrated).
        digest: fingerprint of the observed values; evidences of different data cannot be compared.
        agreement: the estimates of the same number by several methods.
        info: diagnostics of the estimate (effective sample size, k-hat …).
        certified: which side of the bound holds at finite sample size, and under what condition; empty for neither.
    """

    log_z: float
    stderr: float
    lower: float = float("-inf")
    upper: float = float("inf")
    level: float = 0.95
    method: str = ""
    given: tuple[str, ...] = ()
    digest: str = ""
    agreement: Agreement = Agreement()
    info: Mapping[str, Any] = field(default_factory=dict)
    certified: str = ""

    def __str__(self) -> str:
        given = f", given {len(self.given)} point-estimated tensor{'s' * (len(self.given) > 1)}" if self.given else ""
        error = "" if math.isnan(self.stderr) else f" ± {self.stderr:.2g}"
        return f"log Z = {self.log_z:.4f}{error} nats ({self.method}{given})"
