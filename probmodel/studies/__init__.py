"""Resumable grids of runs over problems, estimators and seeds (`pb.studies`).

Estimators of the evidence on problems whose answer is known: benchmark, Benchmark.
"""

from probmodel.protocols.namespaces import on_first_use

with on_first_use(__name__):
    from probmodel.studies.benchmark import Benchmark, benchmark

__all__ = ["Benchmark", "benchmark"]
