"""Conditional log marginal likelihood of the later rows given the first ones (Lotfi et al., 2022)."""

import math

from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import EvidenceWarning, warn
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.methods import Estimator, Inference
from probmodel.protocols.model import ConditionsOnRows, Model
from probmodel.tracing.target import target


@checks_arguments
def conditional_evidence(
    model: Model,
    data: Dataset,
    num_rows: int,
    *,
    estimator: Estimator,
    inference: Inference | None = None,
    seed: int = 0,
) -> Evidence:
    """Log p(D_>m | D_≤m) = log Z(D) − log Z(D_≤m), in nats over the rows after the first m.

    The evidence also scores how well the prior alone predicts the first rows.  The conditional evidence leaves these out, so
    that a prior which is merely wide costs nothing.  The first rows are those in front: shuffle data whose order is
    meaningful.

    Args:
        model: any model of the rows.
        data: all rows, with `size` their number; no size for a model with dependent rows such as a Gaussian process.
        num_rows: number m of rows to condition on.
        estimator: estimator of the evidence.
        inference: inference that fits both parts for the estimator; None passes the two targets to an estimator that
            needs no fit.
        seed: random seed of fit and estimate for all rows; those for the first rows use seed + 1, so that the errors are
            independent.

    Returns:
        Evidence of the later rows.  Its bounds are differences of opposite bounds, which hold at their level by
        Bonferroni's inequality; `info` holds m and both evidences; `digest` is that of all rows.

    Raises:
        ValueError: for data without rows, a minibatch, or m that leaves one part without rows.

    Reference:
        Lotfi, Izmailov, Benton, Goldblum & Wilson (2022), "Bayesian model selection, the marginal likelihood, and
        generalization".
    """
    first = first_rows(model, data, num_rows)
    whole = evidence_of(model, data, estimator=estimator, inference=inference, seed=seed)
    part = evidence_of(model, first, estimator=estimator, inference=inference, seed=seed + 1)
    return difference(whole, part, num_rows)


def first_rows(model: Model, data: Dataset, num_rows: int) -> Dataset:
    """The first rows as a data set of their own, with their number as `size` so that they are not scaled up to all rows.

    Data of a model with dependent rows have no size, but can be divided too, since the model has the marginal of any rows.

    Raises:
        ValueError: for a minibatch, or a number of rows that leaves one part without rows.
    """
    if data.size is None and isinstance(model, ConditionsOnRows):
        return first_rows(model, data._replace(size=len(data.tensors()[0])), num_rows)._replace(size=None)
    if data.num_rows != data.size:
        raise ValueError(f"expected all {data.size} rows, got a minibatch of {data.num_rows}; pass the full data set")
    if data.size is not None and not 1 <= num_rows < data.size:
        raise ValueError(
            f"expected num_rows to be 1 to {data.size - 1} of {data.size} rows, got {num_rows}; leave rows to score"
        )
    return data.rows(slice(num_rows))._replace(size=num_rows)


def evidence_of(
    model: Model, data: Dataset, *, estimator: Estimator, inference: Inference | None, seed: int
) -> Evidence:
    """Evidence of a model and data, by way of a fit if `inference` is given.

    Warns if the fit has point estimates: each part of the data then has its own, and the difference of two such evidences
    conditions on the later rows as well.
    """
    subject = target(model, data) if inference is None else inference(model, data, seed=seed)
    evidence = estimator(subject, seed=seed)
    if inference is not None and evidence.given:
        warn(
            f"expected a full evidence, got one conditional on the point estimates {list(evidence.given)}, which are fitted "
            "to each part of the data again and bias the conditional evidence; integrate them with lift()",
            EvidenceWarning,
        )
    return evidence


def difference(whole: Evidence, part: Evidence, num_rows: int) -> Evidence:
    """Evidence log Z(D) − log Z(D_≤m) of the later rows given the first `num_rows`."""
    return Evidence(
        whole.log_z - part.log_z,
        math.hypot(whole.stderr, part.stderr),
        lower=whole.lower - part.upper,
        upper=whole.upper - part.lower,
        level=max(0.0, whole.level + part.level - 1),
        method=f"conditional ({whole.method})",
        given=whole.given,
        digest=whole.digest,
        info={"num_rows": num_rows, "log_z": whole.log_z, "log_z_of_first_rows": part.log_z},
    )
