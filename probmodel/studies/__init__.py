"""Resumable grids of runs over problems, estimators and seeds (`pb.studies`).

Estimators of the evidence on problems whose answer is known: benchmark, Benchmark.
"""

from probmodel.studies.benchmark import Benchmark, benchmark

__all__ = ["Benchmark", "benchmark"]
