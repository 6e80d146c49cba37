"""Small data sets, in the form in which their evidence or likelihood is known exactly."""

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_iris

from probmodel.data.locate import locate
from probmodel.data.prepare import standardize
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset


@checks_arguments
def diabetes(dtype: torch.dtype = torch.float64) -> Dataset:
    """Progression of diabetes in 442 patients from ten measurements (Efron et al., 2004).

    Design [1, X], with X and y standardized (ddof 0). Under b ~ N(0, I), y ~ N([1, X] b, 0.5 I), 0.5 the variance,
    the log evidence is -499.9919838 nats.

    >>> diabetes().args[0].shape
    torch.Size([442, 11])

    Args:
        dtype: dtype of x and y.

    Returns:
        Dataset((x,), {"y": y}) with x of shape (442, 11) and y (442,).

    Reference:
        Efron, Hastie, Johnstone & Tibshirani (2004), Least angle regression, Annals of Statistics 32.
    """
    raw = load_diabetes()
    (x,) = standardize(torch.from_numpy(raw.data).to(dtype))
    (y,) = standardize(torch.from_numpy(raw.target).to(dtype))
    return Dataset((torch.cat([torch.ones_like(x[:, :1]), x], dim=1),), {"y": y}, len(x))


@checks_arguments
def iris(dtype: torch.dtype = torch.float64) -> Dataset:
    """Four measurements of 150 iris flowers of three species (Fisher, 1936).

    In centimeters, as measured: the log-likelihood of probabilistic PCA with two components is -404.9627802 nats.

    >>> iris().kwargs["y"].bincount()
    tensor([50, 50, 50])

    Args:
        dtype: dtype of x.

    Returns:
        Dataset((x,), {"y": y}) with x of shape (150, 4) and y (150,) int64 in 0 … 2.

    Reference:
        Fisher (1936), The use of multiple measurements in taxonomic problems, Annals of Eugenics 7.
    """
    raw = load_iris()
    x = torch.from_numpy(raw.data).to(dtype)
    return Dataset((x,), {"y": torch.from_numpy(raw.target).long()}, len(x))


MOTORCYCLE = "evidence/mcycle.csv"
"""Path of the motorcycle data below PROBMODEL_DATA, with columns times and accel."""


@checks_arguments
def motorcycle(dtype: torch.dtype = torch.float64) -> Dataset:
    """Head accelerations in a simulated motorcycle accident: 133 rows whose noise changes along the input (Silverman, 1985).

    In milliseconds and g, as measured.  With both standardized (ddof 0), an RBF kernel of lengthscale 0.3 and variance 1
    and noise of variance 0.25 the log evidence is -108.469855 nats.

    Read from evidence/mcycle.csv below PROBMODEL_DATA, with the columns times and accel of `mcycle` in R's package MASS.

    Args:
        dtype: dtype of x and y.

    Returns:
        Dataset((x,), {"y": y}) with x of shape (133, 1) and y (133,).

    Raises:
        FileNotFoundError: where PROBMODEL_DATA names no folder with evidence/mcycle.csv.

    Reference:
        Silverman (1985), Some aspects of the spline smoothing approach to non-parametric regression curve fitting, Journal
        of the Royal Statistical Society B 47.
    """
    table = np.genfromtxt(locate(MOTORCYCLE), delimiter=",", names=True)
    x, y = (torch.as_tensor(table[name], dtype=dtype) for name in ("times", "accel"))
    return Dataset((x[:, None],), {"y": y})
