"""Rounding errors inside a graph: what they explain, and what they do not."""

import torch

from probmodel.tracing.programs.graphs import recorded
from probmodel.tracing.programs.rounding_errors import perturbed, relative_error
from probmodel.tracing.programs.stochastic_arithmetic import with_rounding_errors

X = torch.linspace(3.03, 4.97, 40)


def tail(x):
    """Log of a normal tail with a clamp, as in a probit model: 1 − Φ keeps few digits."""
    return (torch.log1p(-torch.special.ndtr(x).clamp(1e-6, 1 - 1e-6)),)


def smooth(x):
    return x.square().sum(), x.exp()


def error(function, got):
    """Difference from the function in units of what rounding inside its graph explains."""
    graph = recorded(function, X)
    return relative_error(function(X), got, lambda seed: with_rounding_errors(graph, seed)(*perturbed([X], seed)))


def test_digits_lost_inside_a_graph_explain_what_perturbed_inputs_do_not():
    exact = tuple(each.float() for each in tail(X.double()))
    assert relative_error(tail(X), exact, lambda seed: tail(*perturbed([X], seed))) > 1
    assert error(tail, exact) < 1


def test_rounding_explains_neither_a_wrong_sign_nor_a_percent_of_smooth_arithmetic():
    assert error(tail, tuple(-each for each in tail(X))) > 1
    assert error(smooth, tuple(1.01 * each for each in smooth(X))) > 5


def test_rounding_errors_are_seeded_and_small_and_leave_integers():
    graph = recorded(lambda x: (x.exp(), x.round() * 2), X)
    first, again, other = (with_rounding_errors(graph, seed)(X) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert torch.allclose(first[0], X.exp(), rtol=1e-6)
    assert torch.equal(first[1], X.round() * 2)
