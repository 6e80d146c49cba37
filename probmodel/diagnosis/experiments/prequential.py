"""Prequential decomposition of the evidence: one prediction after the other (Dawid, 1984)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from probmodel.diagnosis.experiments.conditional import difference, evidence_of, first_rows
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.methods import Estimator, Inference
from probmodel.protocols.model import Model


class Block(NamedTuple):
    """Rows predicted together, given all rows before them."""

    num_rows: int
    """Rows seen once the block is: its own and all before."""
    log_evidence: float
    """Log p(block | earlier blocks), nats over the block."""
    stderr: float


@dataclass(frozen=True)
class Prequential:
    """Blocks in their order; their log evidences sum to log Z.

    Args:
        blocks: one a prediction.
        evidence: of all rows.
    """

    blocks: tuple[Block, ...]
    evidence: Evidence

    @property
    def log_z(self) -> float:
        """Σ_j log p(block_j | earlier blocks), nats; its error is that of `evidence`, since all others cancel."""
        return math.fsum(block.log_evidence for block in self.blocks)

    def __str__(self) -> str:
        lines = [f"{'rows':>8}{'log evidence':>14}{'± stderr':>11}{'a row':>10}"]
        seen = 0
        for block in self.blocks:
            a_row = block.log_evidence / (block.num_rows - seen)
            lines.append(f"{block.num_rows:>8}{block.log_evidence:>14.4f}{block.stderr:>11.2g}{a_row:>10.4f}")
            seen = block.num_rows
        return "\n".join([*lines, f"{'log Z':>8}{self.log_z:>14.4f}{self.evidence.stderr:>11.2g}"])


def prequential(
    model: Model,
    data: Dataset,
    ends: Sequence[int],
    *,
    estimator: Estimator,
    inference: Inference | None = None,
    seed: int = 0,
) -> Prequential:
    """Log Z = Σ_j log p(block_j | blocks before j), each term a difference of two evidences, in nats.

    The curve shows where a model earns its evidence: a wide prior loses it in the first block, a model that is too simple
    in every later one.

    Args:
        model: any model of the rows.
        data: all rows, and `size` as many.
        ends: rows seen after each block, rising; the last is all of them.
        estimator: of the evidence.
        inference: fits each part for the estimator; None gives it targets, for estimators that need no fit.
        seed: of the first part's fit and estimate; each later part takes the next.

    Raises:
        ValueError: for ends that do not rise to the number of rows, data without rows, or a minibatch.

    Reference:
        Dawid (1984), "Statistical theory: the prequential approach".
    """
    ends = [int(end) for end in ends]
    num_rows = data.size or len(data.tensors()[0])
    if not ends or ends[-1] != num_rows or ends != sorted(set(ends)):
        raise ValueError(f"ends needs to rise to {num_rows}, the number of rows, got {ends}; add or sort them")
    parts = [*(first_rows(model, data, end) for end in ends[:-1]), data]
    evidences = [
        evidence_of(model, part, estimator=estimator, inference=inference, seed=seed + j)
        for j, part in enumerate(parts)
    ]
    blocks = [Block(ends[0], evidences[0].log_z, evidences[0].stderr)]
    for end, seen, whole, part in zip(ends[1:], ends, evidences[1:], evidences, strict=False):
        step = difference(whole, part, seen)
        blocks.append(Block(end, step.log_z, step.stderr))
    return Prequential(tuple(blocks), evidences[-1])
