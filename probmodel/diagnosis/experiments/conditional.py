"""Conditional log marginal likelihood: what a model, having seen the first rows, says of the rest (Lotfi et al., 2022)."""

import math
import warnings

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import EvidenceWarning
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.methods import Estimator, Inference
from probmodel.protocols.model import Marginal, Model
from probmodel.tracing.target import target


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

    The evidence also scores how well the prior alone predicts the first rows; this leaves them out, so that a prior which
    is merely wide costs nothing.  Rows count in the order they stand in: shuffle data whose order means something.

    Args:
        model: any model of the rows.
        data: all rows, and `size` as many; no size for a model that links rows, as a Gaussian process does.
        num_rows: m, the rows to condition on.
        estimator: of the evidence.
        inference: fits both parts for the estimator; None gives it the two targets, for estimators that need no fit.
        seed: of the fit and the estimate of all rows; the first rows take the next one, so that errors add in squares.

    Returns:
        Evidence of the rest.  The bounds subtract the opposite bounds and hold at a level by Bonferroni's inequality;
        `info` holds m and both evidences; `digest` is that of all rows.

    Raises:
        ValueError: for data without rows, a minibatch, or m that leaves no rows on one side.

    Reference:
        Lotfi, Izmailov, Benton, Goldblum & Wilson (2022), "Bayesian model selection, the marginal likelihood, and
        generalization".
    """
    first = first_rows(model, data, num_rows)
    whole = evidence_of(model, data, estimator=estimator, inference=inference, seed=seed)
    part = evidence_of(model, first, estimator=estimator, inference=inference, seed=seed + 1)
    return difference(whole, part, num_rows)


def first_rows(model: Model, data: Dataset, num_rows: int) -> Dataset:
    """The first rows as a data set of their own: its `size` shrinks with it, or they would be scaled up to all rows.

    Data of a model that links rows have no size, and are divided all the same: it has the marginal of any of its rows.
    """
    if data.size is None and isinstance(model, Marginal):
        return first_rows(model, data._replace(size=len(data.tensors()[0])), num_rows)._replace(size=None)
    if data.num_rows != data.size:
        raise ValueError(f"expected all {data.size} rows, got a minibatch of {data.num_rows}; pass the full data set")
    if data.size is not None and not 1 <= num_rows < data.size:
        raise ValueError(
            f"num_rows needs 1 to {data.size - 1} of {data.size} rows, got {num_rows}; leave rows to score"
        )
    return data.rows(slice(num_rows))._replace(size=num_rows)


def evidence_of(
    model: Model, data: Dataset, *, estimator: Estimator, inference: Inference | None, seed: int
) -> Evidence:
    """The evidence of a model and data, through a fit where `inference` is given.

    Warns where the fit sets point estimates: each part then has its own, and the difference of two such evidences
    conditions on the later rows as well.
    """
    subject = target(model, data) if inference is None else inference(model, data, seed=seed)
    evidence = estimator(subject, seed=seed)
    if inference is not None and evidence.given:
        warnings.warn(
            f"the evidence is conditional on the point estimates {list(evidence.given)}, fitted anew to each part of the "
            "data, so that the conditional evidence is too high or too low; lift() integrates them",
            EvidenceWarning,
            stacklevel=3,
        )
    return evidence


def difference(whole: Evidence, part: Evidence, num_rows: int) -> Evidence:
    """Evidence of the rows beyond the first `num_rows`, given those: log Z(D) − log Z(D_≤m)."""
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
