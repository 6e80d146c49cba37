"""Benchmarks: one package per subject, each of which prints a table and writes JSON.

    python -m benchmarks.evidence             log evidence of problems whose value is known, coverage over seeds, other packages
    python -m benchmarks.gaussian_processes   Gaussian processes and their mixtures: evidence, predictions, hard inputs
    python -m benchmarks.speed                seconds of steps, draws and first fits beside hand-written code and other packages
    python -m benchmarks.graphs               Bayesian networks and Boltzmann machines against published and exact values
    python -m benchmarks.bionets              structure of biological networks: protein signaling and gene regulation
    python -m benchmarks.gpu                  speed on a CUDA device, and agreement with the CPU
    python -m benchmarks.mutations            whether the tests notice faults put into a copy of the package

Run them from the root of the repository.  All take `--quick` for a smoke size and `--out FILE.json`; `--help` lists the other
options.  Some need the folder of data sets in the environment variable PROBMODEL_DATA and say so.
"""
