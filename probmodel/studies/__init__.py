"""Grids of fits and estimates: runs over problems, estimators and seeds, resumable."""

from probmodel.studies.benchmark import Benchmark, benchmark

__all__ = ["Benchmark", "benchmark"]
