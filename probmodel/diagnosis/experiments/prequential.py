"""Prequential decomposition of the evidence into successive predictions (Dawid, 1984)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from probmodel.diagnosis.experiments.conditional import difference, evidence_of, first_rows
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.methods import Estimator, Inference
from probmodel.protocols.model import Model


class Block(NamedTuple):
    """Rows predicted together, given all rows before them."""

    num_rows: int
    """Number of rows up to the end of the block: its own and all before."""
    log_evidence: float
    """Log p(block | earlier blocks), nats over the block."""
    stderr: float


@dataclass(frozen=True)
class Prequential:
    """Blocks in their order, whose log evidences sum to log Z.

    Args:
        blocks: successive predictions.
        evidence: evidence of all rows.
    """

    blocks: tuple[Block, ...]
    evidence: Evidence

    @property
    def log_z(self) -> float:
        """Σ_j log p(block_j | earlier blocks), nats; its error is that of `evidence`, since all others cancel."""
        return math.fsum(block.log_evidence for block in self.blocks)

    def __str__(self) -> str:
        lines = [f"{'rows':>8}{'log evidence':>14}{'± stderr':>11}{'per row':>10}"]
        seen = 0
        for block in self.blocks:
            per_row = block.log_evidence / (block.num_rows - seen)
            lines.append(f"{block.num_rows:>8}{block.log_evidence:>14.4f}{block.stderr:>11.2g}{per_row:>10.4f}")
            seen = block.num_rows
        return "\n".join([*lines, f"{'log Z':>8}{self.log_z:>14.4f}{self.evidence.stderr:>11.2g}"])


@checks_arguments
def prequential(
    model: Model,
    data: Dataset,
    ends: Sequence[int],
    *,
    estimator: Estimator,
    inference: Inference | None = None,
    seed: int = 0,
) -> Prequential:
    """Decompose log Z = Σ_j log p(block_j | blocks before j), each term a difference of two evidences, in nats.

    The terms show where a model loses evidence: one with a wide prior in the first block, one that is too simple in every
    later block.

    Args:
        model: any model of the rows.
        data: all rows, with `size` their number.
        ends: number of rows up to the end of each block, increasing; the last is the number of all rows.
        estimator: estimator of the evidence.
        inference: inference that fits each part for the estimator; None passes the targets to an estimator that needs no
            fit.
        seed: random seed of fit and estimate for the first part; each later part uses the next integer.

    Returns:
        Prequential: the blocks and the evidence of all rows.

    Raises:
        ValueError: for ends that do not increase to the number of rows, data without rows, or a minibatch.

    Reference:
        Dawid (1984), "Statistical theory: the prequential approach".
    """
    ends = [int(end) for end in ends]
    num_rows = data.size or len(data.tensors()[0])
    if not ends or ends[-1] != num_rows or ends != sorted(set(ends)):
        raise ValueError(
            f"expected ends that increase to {num_rows}, the number of rows, got {ends}; sort them and add {num_rows}"
        )
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
