"""Names of the package are imported when they are first used."""

import subprocess
import sys
import types

import pytest

import probmodel as pb
from probmodel.protocols.session.namespaces import Namespace

HEAVY = (
    "arviz",
    "gpytorch",
    "linear_operator",
    "matplotlib",
    "networkx",
    "pandas",
    "scipy",
    "sklearn",
    "sympy",
    "torch._dynamo",
    "torch._inductor",
    "tqdm",
    "xarray",
)
"""Packages that `import probmodel` must not import, unless PyTorch and Pyro do."""


def printed(code: str) -> list[str]:
    """Words that a new process prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_imports_no_heavy_package():
    before, after = (
        set(printed(f"import sys, torch, pyro{more}; print(*sys.modules)")) for more in ("", ", probmodel")
    )
    assert set(HEAVY) - before >= {"gpytorch", "matplotlib", "pandas", "scipy", "sklearn", "torch._inductor"}
    assert not (after - before) & set(HEAVY)
    rooms = {name.split(".")[1] for name in after if name.startswith("probmodel.")}
    assert rooms == {"protocols"}


def test_what_fits_a_network_with_labels_imports_no_plots():
    names = "pb.Pipeline, pb.CNN, pb.MLP, pb.VAE, pb.Classify, pb.Regress, pb.Dataset, pb.predict, pb.target, pb.SVI"
    assert not {"matplotlib", "arviz", "sklearn", "gpytorch"} & set(
        printed(f"import sys, probmodel as pb; {names}; print(*sys.modules)")
    )


def test_every_name_is_listed_and_documented_before_its_first_use():
    code = """
import probmodel as pb
listed = dir(pb)
for name in pb.__all__:
    value = getattr(pb, name)
    print(name in listed and bool(value.__doc__), vars(pb)[name] is value, name)
    for inner in getattr(value, "__all__", ()):
        print(inner in dir(value) and getattr(value, inner) is getattr(value, inner), True, f"{name}.{inner}")
"""
    rows = list(zip(*[iter(printed(code))] * 3, strict=True))
    assert len(rows) > 200
    assert [name for listed, kept, name in rows if (listed, kept) != ("True", "True")] == []


def test_a_submodule_does_not_hide_the_function_of_its_name():
    code = """
import probmodel.evidence.laplace, probmodel.evidence.exact, probmodel.evidence.elbo, probmodel.layers.lift
import probmodel as pb
from probmodel.evidence import laplace
print(laplace is pb.evidence.laplace)
print(*[type(each).__name__ for each in (laplace, pb.evidence.exact, pb.evidence.elbo, pb.lift)])
"""
    assert printed(code) == ["True", *["function"] * 4]


def test_the_first_use_of_a_name_leaves_random_states_alone():
    code = """
import random, numpy, torch, probmodel as pb
def states():
    return random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
random.seed(1), numpy.random.seed(2), torch.manual_seed(3)
before = states()
pb.NUTS, pb.GaussianProcess, pb.bn.DAG, pb.compare, pb.evidence.sandwich, pb.save, pb.data.digits
print(states() == before)
"""
    assert printed(code) == ["True"]


def test_a_name_that_does_not_exist_is_refused_as_by_any_module():
    assert type(pb) is Namespace and isinstance(pb, types.ModuleType)
    with pytest.raises(AttributeError, match="module 'probmodel' has no attribute 'NUTZ'"):
        _ = pb.NUTZ
    with pytest.raises(ImportError, match="cannot import name 'sandwitch'"):
        from probmodel.evidence import sandwitch  # noqa: F401, PLC0415


def test_a_function_can_be_replaced_and_put_back(monkeypatch):
    original = pb.evidence.laplace
    with monkeypatch.context() as patch:
        patch.setattr(pb.evidence, "laplace", len)
        assert pb.evidence.laplace is len
    assert pb.evidence.laplace is original
