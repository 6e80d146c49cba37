"""Resumable grids of runs over problems, estimators and seeds (`pb.studies`).

Estimators of the evidence on problems whose answer is known: benchmark, Benchmark.
"""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.studies.benchmark import Benchmark, benchmark

on_first_use(__name__)

__all__ = ["Benchmark", "benchmark"]
