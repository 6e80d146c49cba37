"""Inputs that break naive code: each has to work, with jitter that is reported, or to be refused with a clear message.

The value of a row is 1 if a fit and its predictions are finite and close to those of the same rows in benign form, or if the
error states what was expected; else 0.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.utils.warnings import NumericalWarning
from torch import Tensor

import probmodel as pb
from benchmarks.rows import Row, row

Fit = Callable[[Tensor, Tensor], pb.Posterior]
NEAR = 0.05
"""Largest root mean square difference allowed from the predictions of the benign fit, in units of y."""


def benign() -> tuple[Tensor, Tensor]:
    """Sixty rows of a smooth function of two inputs with little noise."""
    with pb.isolated(0):
        x = torch.randn(60, 2, dtype=torch.float64)
        y = torch.sin(1.5 * x[:, 0]) + 0.3 * x[:, 1] + 0.1 * torch.randn(60, dtype=torch.float64)
    return x, y


def _kernel(columns: int) -> ScaleKernel:
    kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=columns))
    kernel.base_kernel.lengthscale = columns**0.5
    return kernel


def _exact(x: Tensor, y: Tensor) -> pb.Posterior:
    return pb.MaximumLikelihood()(pb.GaussianProcess(_kernel(x.shape[1])), pb.Dataset((x,), {"y": y}), seed=0)


def _product(x: Tensor, y: Tensor) -> pb.Posterior:
    product = pb.gp.GPProduct(_kernel(x.shape[1]), shards=min(2, len(x)))
    return pb.MaximumLikelihood()(product, pb.Dataset((x,), {"y": y}), seed=0)


def _mixture(x: Tensor, y: Tensor) -> pb.Posterior:
    mixture = pb.gp.GPMixture([pb.GaussianProcess(_kernel(x.shape[1]))], pb.gp.DirichletGate(1))
    return pb.VariationalEM(num_restarts=1)(mixture, pb.Dataset((x,), {"y": y}), seed=0)


def _sparse(x: Tensor, y: Tensor) -> pb.Posterior:
    with pb.isolated(0):
        code = pb.SparseGP(x.shape[1], 1, inducing=x[:30].clone(), kernel=_kernel(x.shape[1]))
        model = pb.Pipeline(pb.Identity(), code, pb.Regress(1, 1, noise=0.3))
    settings = pb.NaturalGradients(300, None, rate=0.5, progress=False)
    return settings(model, pb.Dataset((x,), {"y": y}, len(x)), seed=0)


FITS: dict[str, Fit] = {"exact": _exact, "sparse": _sparse, "product": _product, "mixture": _mixture}
SAME: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": lambda x: x.float(),
    "a constant column": lambda x: torch.cat([x, torch.full_like(x[:, :1], 3.0)], 1),
    "rows twice, 1e-9 apart": lambda x: torch.cat([x, x + 1e-9]),
    "rows twice": lambda x: torch.cat([x, x]),
}
"""Other forms of the same rows, whose predictions have to stay the same."""


def rows(*, quick: bool, only: str) -> Iterator[Row]:
    """Rows of all forms and all processes, if "hard inputs" contains the text."""
    if only not in "hard inputs":
        return
    for name, fit in FITS.items():
        if quick and name != "exact":
            continue
        x, y = benign()
        reference = _mean(fit(x, y), x)
        for form, change in SAME.items():
            yield _as_benign(f"hard inputs, {name}: {form}", fit, change, x, y, reference)
        yield _or_refused(f"hard inputs, {name}: inputs a million times as large", fit, 1e6 * x, y)
        yield _or_refused(f"hard inputs, {name}: one row", fit, x[:1], y[:1])
        yield _or_refused(f"hard inputs, {name}: y constant", fit, x, torch.ones_like(y))
        yield _or_refused(
            f"hard inputs, {name}: a row that is no number",
            fit,
            x,
            y.clone().index_fill_(0, torch.tensor([3]), math.nan),
        )


def _mean(fit: pb.Posterior, x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pb.predict(fit, x).distribution.mean.reshape(-1).double()


def _as_benign(
    title: str, fit: Fit, change: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, reference: Tensor
) -> Row:
    changed = change(x)
    copies = len(changed) // len(x)
    note, found = _with_note(lambda: fit(changed, y.repeat(copies).to(changed)))
    if found is None:
        return row(title, 0.0, note, at_least=1)
    apart = float((_mean(found, changed[: len(x)]) - reference).square().mean().sqrt())
    # A repeated row has half the noise variance, so that predictions move towards the observations.
    allowed = NEAR * (3 if copies > 1 else 1)
    return row(title, float(apart < allowed), f"predictions {apart:.2g} apart{note}", at_least=1)


def _or_refused(title: str, fit: Fit, x: Tensor, y: Tensor) -> Row:
    note, found = _with_note(lambda: fit(x, y))
    if found is None:
        return row(title, float("expected" in note and "got" in note), note, at_least=1)
    finite = bool(_mean(found, x).isfinite().all())
    return row(title, float(finite), f"finite predictions{note}", at_least=1)


def _with_note(run: Callable[[], Any]) -> tuple[str, Any]:
    """Return a note on warnings and the result; or the error and None."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = run()
        except (ValueError, ArithmeticError) as error:
            return f"refused: {str(error)[:90]}", None
    jitters = [each for each in caught if issubclass(each.category, NumericalWarning)]
    return (", jitter reported" if jitters else ""), found
