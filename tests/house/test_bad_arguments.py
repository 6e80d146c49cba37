"""Every public function and class refuses bad arguments by the package's own errors, with expected, got and remedy.

Each argument of each of them takes the same bad values, the others being good ones made from their annotations.
"""

import collections.abc
import inspect
import re
import types
import typing
import warnings
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gpytorch
import jaxtyping
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from beartype.door import is_bearable

import probmodel as pb
from probmodel.families.bayesian_networks.scores.categorical_scores import bic
from probmodel.families.boltzmann_machines.machine import SuppliesMachine
from probmodel.families.boltzmann_machines.units import Units
from probmodel.protocols.layers import Decision, Representation

bn = pb.bn
SPACES = {"pb": pb} | {
    name: getattr(pb, name)
    for name in (
        "gp",
        "bn",
        "boltzmann",
        "features",
        "objectives",
        "scores",
        "evidence",
        "diagnosis",
        "data",
        "studies",
    )
}
FORM = re.compile(r"(expected .* got .*; )|(.* is called with .*, got .*; )", re.DOTALL)


def line(x, y=None):
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(x @ b, 1.0), obs=y)


@lru_cache
def data() -> pb.Dataset:
    x = torch.linspace(-1, 1, 12).reshape(6, 2)
    return pb.Dataset((x,), {"y": x.sum(-1)}, 6)


@lru_cache
def fit() -> pb.Posterior:
    return pb.Exact(8)(line, data(), seed=0)


@lru_cache
def rows() -> bn.CategoricalData:
    return bn.CategoricalData({"a": ("0", "1"), "b": ("0", "1")}, np.arange(24).reshape(12, 2) // 3 % 2)


def network() -> bn.DiscreteNetwork:
    return bn.posterior_mean(graph(), rows())


def graph() -> bn.DAG:
    return bn.DAG.from_string("[a][b|a]")


def machine() -> pb.RBM:
    with pb.isolated(0):
        return pb.RBM(3, 2)


GOOD: dict[Any, Callable[[], Any]] = {
    pb.Posterior: fit,
    pb.Target: lambda: pb.target(line, data()),
    pb.Dataset: data,
    pb.Evidence: lambda: pb.Evidence(-1.0, 0.1, method="exact"),
    bn.DAG: graph,
    bn.CategoricalData: rows,
    bn.DiscreteNetwork: network,
    bn.FamilyCache: lambda: bn.categorical_families(rows(), bic),
    bn.Candidates: lambda: bn.all_candidates(bn.family_scores(rows(), bic)),
    bn.Moments: lambda: bn.moments(np.arange(20.0).reshape(10, 2) ** 2),
    SuppliesMachine: machine,
    Units: lambda: pb.boltzmann.BernoulliUnits(),
    Representation: lambda: pb.DNN(2, 2),
    Decision: lambda: pb.Regress(2),
    gpytorch.kernels.Kernel: gpytorch.kernels.RBFKernel,
    gpytorch.means.Mean: gpytorch.means.ConstantMean,
    torch.nn.Module: lambda: torch.nn.Linear(2, 2),
    torch.Generator: torch.Generator,
    torch.distributions.Distribution: lambda: dist.Normal(torch.zeros(3), 1.0),
    Path: lambda: Path("nowhere"),
    int: lambda: 2,
    float: lambda: 0.5,
    bool: lambda: False,
    str: lambda: "a",
    collections.abc.Hashable: lambda: "a",
}
BAD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "text": lambda: "text",
    "minus one": lambda: -1,
    "zero": lambda: 0,
    "a half": lambda: 0.5,
    "nan": lambda: float("nan"),
    "true": lambda: True,
    "empty list": list,
    "empty dict": dict,
    "object": object,
    "array of text": lambda: np.array(["a", "b"]),
    "empty array": lambda: np.zeros(0),
    "tensor of no rows": lambda: torch.zeros(0, 2),
    "complex tensor": lambda: torch.zeros(4, 2, dtype=torch.complex64),
    "fit without draws": lambda: pb.Posterior(line, data(), {}, {}),
    "fit of another model": lambda: pb.Posterior(line, data(), {"c": torch.zeros(1, 4)}, {"method": "none"}),
    "list of lists": lambda: [[0, 1], [1]],
}


BY_NAME: dict[str, Callable[[], Any]] = {
    "estimator": lambda: pb.evidence.exact,
    "inference": lambda: pb.Exact(8),
    "reference": lambda: "a",
    "term": lambda: bic,
    "gaussian_term": lambda: bn.gaussian_bic,
    "prior": lambda: bn.posterior_over_dags,
    "names": lambda: ("a", "b"),
    "given": lambda: GOOD[bn.Moments](),
}
"""Good values of arguments whose annotation says little."""


def good(annotation: Any, name: str = "") -> Any:
    """A value that the annotation admits."""
    if name in BY_NAME and is_bearable(BY_NAME[name](), annotation):
        return BY_NAME[name]()
    if annotation in GOOD:
        return GOOD[annotation]()
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return good(inner[0])
    if origin in (collections.abc.Mapping, dict):
        key, value = inner
        return {name: good(value) for name in (("a", "b") if key in (str, collections.abc.Hashable) else (good(key),))}
    if origin in (collections.abc.Sequence, collections.abc.Iterable, tuple, list):
        return tuple(good(each) for each in inner if each is not ...) * (2 if len(inner) == 1 or ... in inner else 1)
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        shape = tuple(2 for _ in annotation.dims) if annotation.index_variadic is None else (4, 2)
        make = torch.ones if annotation.array_type is torch.Tensor else np.ones
        kind = {"Int": "int64", "Bool": "bool"}.get(annotation.__name__.split("[")[0], "float64")
        return make(shape, dtype=getattr(torch if make is torch.ones else np, kind))
    return {torch.Tensor: lambda: torch.ones(4, 2), pd.DataFrame: lambda: pd.DataFrame({"a": [0, 1]})}.get(
        annotation, lambda: line
    )()


class Door(NamedTuple):
    """A public callable, and how it is called with its arguments by name."""

    name: str
    call: Callable[..., Any]
    parameters: dict[str, inspect.Parameter]


def door(name: str, call: Callable[..., Any]) -> Door:
    found = inspect.signature(call).parameters
    return Door(name, call, {key: each for key, each in found.items() if key != "self"})


def doors() -> Iterator[Door]:
    seen = set()
    for space, module in SPACES.items():
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.ismodule(found) or id(found) in seen or not callable(found) or name in VALUES:
                continue
            seen.add(id(found))
            if not (inspect.isclass(found) and found.__init__ is torch.nn.Module.__init__):
                yield door(f"{space}.{name}", found)
            if inspect.isclass(found) and hasattr(found, "__dataclass_fields__") and "__call__" in vars(found):
                yield door(f"{space}.{name}.__call__", settings_of(found))
    for cls, name in METHODS:
        yield door(f"{cls.__name__}.{name}", getattr(cls, name))


def settings_of(cls: type) -> Any:
    """A value of settings, whose arguments without defaults are good ones."""
    if cls in GOOD:
        return GOOD[cls]()
    needed = inspect.signature(cls).parameters.items()
    given = {name: good(each.annotation, name) for name, each in needed if each.default is inspect.Parameter.empty}
    return cls(**given)


VALUES = frozenset({"Verdict", "NormalMixture", "EMWarning", "MixingWarning"})
"""An enumeration, a distribution of PyTorch's kind, and warnings, whose constructors are not the package's."""

METHODS = [
    (pb.Dataset, "of_rows"),
    (bn.DAG, "from_edges"),
    (bn.DAG, "from_string"),
    (bn.CategoricalData, "of"),
    (bn.CategoricalData, "with_missing"),
]


def with_argument(parameters: dict[str, inspect.Parameter], name: str, value: Any) -> inspect.BoundArguments:
    """Good arguments, except the one of a name."""
    positional, named = [], {}
    for key, each in parameters.items():
        needed = each.default is inspect.Parameter.empty and each.kind is not inspect.Parameter.VAR_KEYWORD
        if key != name and not needed:
            continue
        found = value if key == name else good(each.annotation, key)
        if each.kind is inspect.Parameter.VAR_KEYWORD:
            named["y"] = found
        elif each.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL):
            positional.append(found)
        else:
            named[key] = found
    return positional, named


def is_refused_or_accepted(call: Callable[..., Any], positional: list[Any], named: dict[str, Any]) -> str | None:
    """What is wrong with how the arguments were met; None for a good refusal, or for a result."""
    try:
        found = call(*positional, **named)
        if isinstance(found, collections.abc.Iterator):
            next(found)
        elif hasattr(found, "__enter__"):
            with found:
                pass
    except (ValueError, TypeError, pb.errors.ProbmodelError) as error:
        return None if FORM.match(str(error)) else f"{type(error).__name__}: {str(error)[:160]}"
    except FileNotFoundError as error:
        return None if "; " in str(error) else str(error)
    except Exception as error:  # noqa: BLE001 - any other error is what the test looks for
        return f"{type(error).__name__}: {str(error)[:160]}"
    return None


@cache
def is_in_doubt(annotation: Any, name: str) -> bool:
    """Whether a value could be meant: it is of the kind that the annotation states, and nothing else is wrong with it."""
    return name in ("None", "text", "a half", "true", "object") and is_bearable(BAD[name](), annotation)


def pipeline(representation: Any, decision: Any) -> pb.Pipeline:
    return pb.Pipeline(pb.Identity(), representation, decision)


MODELS: dict[str, Callable[[], Any]] = {
    "a function": lambda: line,
    "regression": lambda: pipeline(pb.DNN(2, 2), pb.Regress(2)),
    "classification": lambda: pipeline(pb.VAE(2, 2), pb.Classify(2, 2)),
    "lifted": lambda: pb.lift(pipeline(pb.DNN(2, 2), pb.Regress(2))),
    "sparse GP": lambda: pipeline(pb.SparseGP(2, 2, inducing=3), pb.Regress(2)),
    "RBM as features": lambda: pipeline(pb.RBM(2, 2), pb.Classify(2, 2)),
    "GP": lambda: pb.GaussianProcess(gpytorch.kernels.RBFKernel()),
    "product of GPs": lambda: pb.gp.GPProduct(gpytorch.kernels.RBFKernel(), shards=2),
    "RBM": lambda: pb.RBM(2, 2),
    "categorical network": lambda: bn.CategoricalNetwork(graph(), {"a": 2, "b": 2}),
    "linear network": lambda: bn.LinearGaussianNetwork(graph(), torch.zeros(2)),
    "nonlinear network": lambda: bn.NonlinearNetwork(graph(), {}),
}
UNUSUAL: dict[str, Callable[[], Any]] = {
    "frame of text": lambda: pd.DataFrame({"a": list("abcdef")}),
    "sparse": lambda: torch.eye(6)[:, :2].to_sparse(),
    "half": lambda: torch.ones(6, 2).half(),
    "meta": lambda: torch.ones(6, 2, device="meta"),
    "complex": lambda: torch.ones(6, 2) * 1j,
    "list of text": lambda: ["a"] * 6,
    "list of numbers": lambda: [0.5] * 6,
}


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("place", ["x", "y", "args[0]"])
@pytest.mark.parametrize("name", MODELS)
def test_bad_data_of_a_model_are_refused_in_words_of_the_package(name, place):
    wrong = []
    with warnings.catch_warnings(), pb.isolated(0):
        warnings.simplefilter("ignore")
        model = MODELS[name]()
        for bad, make in (BAD | UNUSUAL).items():
            x, y = torch.linspace(0, 1, 12).reshape(6, 2), torch.linspace(0, 1, 6)
            call = {
                "x": lambda y=y, make=make: pb.target(model, pb.Dataset((), {"x": make(), "y": y}, 6)),
                "y": lambda x=x, make=make: pb.target(model, pb.Dataset((x,), {"y": make()}, 6)),
                "args[0]": lambda make=make: pb.target(model, pb.Dataset((make(),), {}, 6)),
            }[place]

            said = is_refused_or_accepted(call, [], {})
            if said is not None:
                wrong.append(f"{place} = {bad}: {said}")
    assert not wrong, "\n".join([name, *wrong])


DOORS = list(doors())


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("found", DOORS, ids=[each.name for each in DOORS])
def test_bad_arguments_are_refused_in_words_of_the_package(found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = []
    with warnings.catch_warnings(), pb.isolated(0):
        warnings.simplefilter("ignore")
        for name, parameter in found.parameters.items():
            annotation = object if parameter.annotation is inspect.Parameter.empty else parameter.annotation
            for bad, make in BAD.items():
                if is_in_doubt(annotation, bad) or (bad == "zero" and not name.startswith("num_")):
                    continue
                positional, named = with_argument(found.parameters, name, make())
                said = is_refused_or_accepted(found.call, positional, named)
                if said is not None:
                    wrong.append(f"{name} = {bad}: {said}")
    assert not wrong, "\n".join([found.name, *wrong])
