"""Problems whose log evidence is known: a model, its data, and the value that an estimator has to return."""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.data.problems.boltzmann import (
        BoltzmannProblem,
        CoupledProblem,
        binary_digits,
        boltzmann_12,
        boltzmann_16x10,
        boltzmann_64x16,
        boltzmann_digits,
        ising_torus,
    )
    from probmodel.data.problems.hierarchical import eight_schools, hierarchical_normal_h0, hierarchical_normal_h1
    from probmodel.data.problems.linear import diabetes_regression, linear_cnn, radiata_pine_m1, radiata_pine_m2
    from probmodel.data.problems.logistic import pima_m1, pima_m2, sonar
    from probmodel.data.problems.mixtures import galaxy
    from probmodel.data.problems.problem import Problem
    from probmodel.data.problems.toys import eggbox, gaussian_shells, rastrigin, rosenbrock

on_first_use(__name__)

__all__ = [
    "BoltzmannProblem",
    "CoupledProblem",
    "Problem",
    "binary_digits",
    "boltzmann_12",
    "boltzmann_16x10",
    "boltzmann_64x16",
    "boltzmann_digits",
    "diabetes_regression",
    "eggbox",
    "eight_schools",
    "galaxy",
    "gaussian_shells",
    "hierarchical_normal_h0",
    "hierarchical_normal_h1",
    "ising_torus",
    "linear_cnn",
    "pima_m1",
    "pima_m2",
    "radiata_pine_m1",
    "radiata_pine_m2",
    "rastrigin",
    "rosenbrock",
    "sonar",
]
