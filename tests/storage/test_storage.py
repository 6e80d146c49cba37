"""A loaded fit is the saved one, bit for bit; a folder that is not as it was written is refused, and never run."""

import errno
import hashlib
import json
import math
import os
import pickle
import resource
import warnings
from functools import lru_cache

import arviz
import numpy as np
import psutil
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from problems import exact_answers as problems
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoNormal
from torch import nn
from torch.distributions import constraints

from probmodel.evidence import iwae
from probmodel.inference import NUTS, SVI, Exact, Laplace
from probmodel.layers.decisions import Classify, Regress
from probmodel.layers.features import CNN, MLP, AveragePool, Identity, UpSample
from probmodel.layers.lift import lift
from probmodel.layers.pipeline import Pipeline
from probmodel.layers.representations import DNN, VAE, StandardNormal
from probmodel.prediction.predictive import predict
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import CorruptFitError, NotSerializableError
from probmodel.protocols.posterior import Posterior
from probmodel.storage import folder as fit_folder
from probmodel.storage.components.gpytorch import GPYTORCH_COMPONENTS
from probmodel.storage.components.own import OWN_COMPONENTS
from probmodel.storage.components.table import COMPONENTS
from probmodel.storage.components.torch import TORCH_COMPONENTS
from probmodel.storage.descriptions import TensorCollection, describe, rebuild, with_strides
from probmodel.storage.fits import load, save
from probmodel.tracing.ownership import parameters
from probmodel.tracing.randomness import isolated

FEW_STEPS = {"num_steps": 6, "num_samples": 5, "compile": False, "progress": False}


def images(rows=12):
    with isolated(1):
        return Dataset((torch.randn(rows, 1, 6, 6),), {"y": torch.arange(rows) % 3}, rows)


def table(rows=10):
    with isolated(2):
        x = torch.randn(rows, 3, dtype=torch.float64)
        return Dataset((x,), {"y": x @ x.new_tensor([1.0, -2.0, 0.5]) + 1}, rows)


def fitted(build, data, method=None):
    with isolated(0):
        model = build()
    return (method or SVI(**FEW_STEPS))(model, data, seed=3)


def dnn():
    cnn = CNN(1, 4, channels=(2,), pool=AveragePool(2), hidden=(3,))
    loss = torch.tensor([[0.0, 1.0, 5.0], [1.0, 0.0, 1.0], [4.0, 1.0, 0.0]]).T
    return Pipeline(cnn, DNN(4, 3, hidden=(5,)), Classify(3, 3, loss=loss))


def vae():
    return Pipeline(CNN(1, 4, channels=(2,)), VAE(4, 2, encoder=MLP(4, 4, hidden=(3,))), Classify(2, 3))


def bayesian_cnn():
    return lift(Pipeline(CNN(1, 3, channels=(2,), pool=UpSample(2)), DNN(3, 3), Classify(3, 3)), spread=0.05)


def regression():
    return Pipeline(
        Identity(), VAE(3, 2, prior=StandardNormal(2), encoder=nn.Linear(3, 4)), Regress(2, noise=0.5)
    ).double()


PACKAGE_FITS = {
    "DNN": lambda: fitted(dnn, images()),
    "VAE": lambda: fitted(vae, images()),
    "Bayesian CNN": lambda: fitted(bayesian_cnn, images()),
    "Regress": lambda: fitted(regression, table()),
}


@lru_cache
def package_fit(name):
    return PACKAGE_FITS[name]()


# ------------------------------------------------------------------------------------- functions of the user's own


def line(x, y=None):
    """A line with a point-estimated noise and an integrated slope and intercept."""
    noise = pyro.param("noise", lambda: x.new_tensor(1.0), constraint=constraints.positive)
    slope = pyro.sample("slope", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    intercept = pyro.sample("intercept", dist.Normal(x.new_zeros(()), 2.0))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(x @ slope + intercept, noise), obs=y)


def line_guide(x, y=None):
    loc = pyro.param("slope_loc", lambda: x.new_zeros(3))
    scale = pyro.param("slope_scale", lambda: x.new_full((3,), 0.1), constraint=constraints.positive)
    pyro.sample("slope", dist.Normal(loc, scale).to_event(1))
    pyro.sample("intercept", dist.Normal(pyro.param("intercept_at", lambda: x.new_zeros(())), 0.1))


def steeper_line(x, y=None):
    """The sites of `line` under another prior."""
    noise = pyro.param("noise", lambda: x.new_tensor(1.0), constraint=constraints.positive)
    slope = pyro.sample("slope", dist.Normal(x.new_full((3,), 3.0), 1.0).to_event(1))
    intercept = pyro.sample("intercept", dist.Normal(x.new_zeros(()), 2.0))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(x @ slope + intercept, noise), obs=y)


def noiseless_line(x, y=None):
    """The sites of `line` without its parameter."""
    slope = pyro.sample("slope", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    intercept = pyro.sample("intercept", dist.Normal(x.new_zeros(()), 2.0))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(x @ slope + intercept, 1.0), obs=y)


class OwnNetwork(nn.Module):
    """A model with a network, a buffer and `pyro.module`."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(3, 1).double()
        self.register_buffer("shift", torch.tensor(0.25, dtype=torch.float64))

    def forward(self, x, y=None):
        pyro.module("network", self.network)
        offset = pyro.sample("offset", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(self.network(x).squeeze(-1) + offset + self.shift, 1.0), obs=y)


def nuts():
    return NUTS(num_samples=6, num_warmup=6, num_chains=2, max_tree_depth=3, progress=False)


def with_network():
    with isolated(7):
        return OwnNetwork()


def another_network():
    with isolated(8):
        return OwnNetwork()


def fit_problem(make, method):
    problem = make()
    return method(problem.model, problem.data, seed=3), problem.model


OWN_FITS = {
    "automatic guide": lambda: (SVI(**FEW_STEPS)(line, table(), seed=3), line, None),
    "own guide": lambda: (SVI(guide=line_guide, **FEW_STEPS)(line, table(), seed=3), line, line_guide),
    "low-rank guide": lambda: (
        SVI(autoguide=AutoLowRankMultivariateNormal, **FEW_STEPS)(line, table(), seed=3),
        line,
        AutoLowRankMultivariateNormal,
    ),
    "own network": lambda: (SVI(**FEW_STEPS)(with_network(), table(), seed=3), another_network(), None),
    "NUTS on own network": lambda: (
        nuts()(with_network().requires_grad_(False).eval(), table(), seed=3),
        another_network().eval(),
        None,
    ),
    "NUTS": lambda: (*fit_problem(problems.conjugate_normal, nuts()), None),
    "Laplace": lambda: (*fit_problem(problems.conjugate_normal, Laplace(num_samples=5)), None),
    "Laplace of eight schools": lambda: (
        Laplace(num_samples=5)(schools, problems.eight_schools().data, seed=3),
        schools,
        None,
    ),
    "exact normal": lambda: (*fit_problem(problems.conjugate_normal, Exact(num_samples=5)), None),
    "exact beta": lambda: (*fit_problem(problems.beta_binomial, Exact(num_samples=5)), None),
    "exact gamma": lambda: (*fit_problem(problems.gamma_poisson, Exact(num_samples=5)), None),
    "exact Dirichlet": lambda: (*fit_problem(problems.dirichlet_multinomial, Exact(num_samples=5)), None),
    "Laplace after SVI": lambda: (laplace_after_svi(), line, None),
}


def schools(sigma, y=None):
    """Eight schools with an interval for tau, so that the mode is finite."""
    mu = pyro.sample("mu", dist.Normal(sigma.new_zeros(()), 5.0))
    tau = pyro.sample("tau", dist.Uniform(sigma.new_tensor(1.0), 20.0))
    with pyro.plate("schools", len(sigma)):
        pyro.sample("y", dist.Normal(mu, (sigma**2 + tau**2).sqrt()), obs=y)


def laplace_after_svi():
    """Empirical Bayes: the noise by SVI, the posterior given it by Laplace."""
    first = SVI(guide=line_guide, **FEW_STEPS)(line, table(), seed=3)
    return Laplace(num_samples=5)(first.model, first.data, seed=3)


@lru_cache
def own_fit(name):
    """Posterior, and what `load` is given: model and guide."""
    return OWN_FITS[name]()


# ---------------------------------------------------------------------------------------------- comparisons


def identical(a, b):
    """Same bits, dtype, shape and place in memory order; nan equals nan."""
    assert a.dtype == b.dtype and a.shape == b.shape
    return a.detach().numpy().tobytes() == b.detach().numpy().tobytes()


def owned(fit):
    return parameters(*(part for part in (fit.model, fit.guide) if part is not None))


def assert_same_values(saved, loaded):
    assert list(saved.draws) == list(loaded.draws)
    assert all(identical(saved.draws[name], loaded.draws[name]) for name in saved.draws)
    assert dict(saved.info) == dict(loaded.info)
    assert saved.data.size == loaded.data.size
    assert list(saved.data.kwargs) == list(loaded.data.kwargs)
    pairs = zip(saved.data.tensors(), loaded.data.tensors(), strict=True)
    assert all(identical(a, b) for a, b in pairs)
    before, after = owned(saved), owned(loaded)
    assert list(before) == list(after)
    assert all(identical(before[name], after[name]) for name in before)


def assert_same_evidence(saved, loaded):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # A handful of steps leaves a poor guide.
        assert iwae(saved, num_samples=20) == iwae(loaded, num_samples=20)


def assert_predicts_alike(saved, loaded):
    old, new = predict(saved, *saved.data.args), predict(loaded, *loaded.data.args)
    assert identical(old.action, new.action)
    assert identical(old.by_draw.mean, new.by_draw.mean)
    assert identical(old.by_draw.variance, new.by_draw.variance)


@pytest.mark.parametrize("name", PACKAGE_FITS)
def test_loaded_fit_of_the_package_predicts_bit_for_bit(name, tmp_path):
    fit = package_fit(name)
    assert save(fit, tmp_path / "fit") == tmp_path / "fit"
    again = load(tmp_path / "fit")
    assert_same_values(fit, again)
    assert_predicts_alike(fit, again)
    assert again.guide.__self__ is again.model


@pytest.mark.parametrize("name", ["VAE", "Bayesian CNN"])
def test_loaded_fit_of_the_package_has_the_same_evidence(name, tmp_path):
    fit = package_fit(name)
    assert_same_evidence(fit, load(save(fit, tmp_path / "fit")))


@pytest.mark.parametrize("name", ["automatic guide", "own guide", "Laplace of eight schools", "exact beta"])
def test_loaded_fit_of_an_own_function_has_the_same_evidence(name, tmp_path):
    fit, model, guide = own_fit(name)
    assert_same_evidence(fit, load(save(fit, tmp_path / "fit"), model, guide))


@pytest.mark.parametrize("name", OWN_FITS)
def test_loaded_fit_of_an_own_function_predicts_bit_for_bit(name, tmp_path):
    fit, model, guide = own_fit(name)
    save(fit, tmp_path / "fit")
    again = load(str(tmp_path / "fit"), model, guide)
    assert_same_values(fit, again)
    if name != "exact Dirichlet":  # Its data are one vector and not new rows.
        assert_predicts_alike(fit, again)
    assert type(again.guide) is type(fit.guide)
    assert type(again.model) is type(fit.model)


def test_loading_leaves_the_model_passed_in_as_it_was(tmp_path):
    save(own_fit("own network")[0], tmp_path / "fit")
    fresh = another_network()
    before = fresh.network.weight.detach().clone()
    again = load(tmp_path / "fit", fresh)
    assert identical(fresh.network.weight, before)
    assert not any(torch.equal(value, before) for value in again.model.parameters())


def test_parameters_shared_by_model_and_guide_stay_shared(tmp_path):
    save(own_fit("own guide")[0], tmp_path / "fit")
    again = load(tmp_path / "fit", line, line_guide)
    (noise,) = again.model.parameters()
    assert any(value is noise for value in again.guide.parameters())


def test_frozen_parameters_stay_frozen(tmp_path):
    with isolated(0):
        model = dnn()
    model.features.requires_grad_(False)
    fit = SVI(**FEW_STEPS)(model, images(), seed=3)
    save(fit, tmp_path / "fit")
    again = load(tmp_path / "fit")
    assert list(parameters(again.model)) == list(parameters(fit.model))
    assert len(parameters(again.model)) < len(list(again.model.parameters()))


def test_saving_a_loaded_fit_again_gives_the_same_fit(tmp_path):
    fit = package_fit("Bayesian CNN")
    save(load(save(fit, tmp_path / "one")), tmp_path / "two")
    for name in ("fit.json", "tensors.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_draws_are_netcdf_that_arviz_reads(tmp_path):
    fit, _, _ = own_fit("NUTS")
    save(fit, tmp_path / "fit")
    read = arviz.from_netcdf(tmp_path / "fit" / "draws.nc")
    assert read.posterior["mu"].to_numpy().tobytes() == fit.draws["mu"].numpy().tobytes()


# ------------------------------------------------------------------------------------- what has to be passed again


def test_own_model_is_asked_for_by_name(tmp_path):
    fit, _, _ = own_fit("NUTS")
    save(fit, tmp_path / "fit")
    with pytest.raises(ValueError, match=r"expected model=.*normal_model.*pass it"):
        load(tmp_path / "fit")


def test_own_guide_is_asked_for_by_name(tmp_path):
    save(own_fit("own guide")[0], tmp_path / "fit")
    with pytest.raises(ValueError, match=r"expected guide=.*line_guide.*pass it"):
        load(tmp_path / "fit", line)


def test_a_guide_too_many_is_refused(tmp_path):
    save(package_fit("VAE"), tmp_path / "fit")
    with pytest.raises(ValueError, match="expected no guide="):
        load(tmp_path / "fit", guide=line_guide)


@pytest.mark.parametrize("other", [steeper_line, noiseless_line])
def test_another_model_than_was_fitted_is_refused(other, tmp_path):
    save(own_fit("automatic guide")[0], tmp_path / "fit")
    with pytest.raises(ValueError, match=r"(were|was) fitted"):
        load(tmp_path / "fit", other, AutoNormal)


def test_a_subclass_or_an_unknown_layer_makes_the_model_the_users(tmp_path):
    class Louder(nn.Module):
        def forward(self, x):
            return 2 * x.flatten(1)

    def build():
        return Pipeline(Louder(), DNN(3, 3), Regress(3)).double()

    fit = fitted(build, table())
    save(fit, tmp_path / "fit")
    with pytest.raises(ValueError, match="expected model="):
        load(tmp_path / "fit")
    with isolated(5):
        again = load(tmp_path / "fit", build())
    assert_same_values(fit, again)
    assert_predicts_alike(fit, again)


def test_a_layer_changed_by_hand_makes_the_model_the_users(tmp_path):
    def build():
        model = vae()
        model.decision.logits = nn.Linear(2, 3, bias=False)
        return model

    fit = fitted(build, images())
    save(fit, tmp_path / "fit")
    with pytest.raises(ValueError, match="expected model="):
        load(tmp_path / "fit")
    with isolated(5):
        again = load(tmp_path / "fit", build())
    assert_same_values(fit, again)
    assert_predicts_alike(fit, again)


# ---------------------------------------------------------------------------------------------- data and info


def store(tmp_path, data=None, info=None):
    with isolated(0):
        model = Pipeline(Identity(), DNN(2, 2), Regress(2))
    fit = Posterior(model, data or Dataset(), {}, info or {})
    return load(save(fit, tmp_path / "fit"))


def test_awkward_tensors_come_back_as_they_were(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    awkward = (
        base,
        base.T,
        base[:, ::2],
        base[1],
        torch.tensor(3),
        base > 4,
        base[:1].expand(3, 6),
        base.half(),
        base[:0],
    )
    data = Dataset(awkward, {"x": base, "mask": base > 7, "bytes": base.to(torch.uint8)}, None)
    again = store(tmp_path, data).data
    for old, new in zip(data.tensors(), again.tensors(), strict=True):
        assert identical(old, new)
    assert again.args[1].stride() == base.T.stride()
    assert again.kwargs["x"] is again.args[0]


def test_plain_arguments_come_back_with_their_types(tmp_path):
    data = Dataset((1, 2.5, None, True, "é\ud800", float("nan")), {"k": 3, "inf": -math.inf, "zero": -0.0}, 7)
    again = store(tmp_path, data).data
    assert repr(again) == repr(data)


class Opaque:
    pass


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (Dataset((1, Opaque())), r"args\[1\]"),
        (Dataset((), {"f": lambda x: x}), r"kwargs\.f"),
        (Dataset(({1, 2},)), r"args\[0\]"),
        (Dataset((torch.ones(2).to_sparse(),)), r"args\[0\]"),
        (Dataset(([torch.ones(1, dtype=torch.complex128)],)), r"args\[0\]\[0\]"),
    ],
)
def test_arguments_that_no_file_can_hold_are_named(data, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        store(tmp_path, data)
    assert not list(tmp_path.iterdir())


def test_info_of_numpy_and_torch_numbers_comes_back(tmp_path):
    info = {
        "loss": np.float32(0.1),
        "count": np.int64(3),
        "flag": np.bool_(True),
        "losses": np.array([1.0, math.nan, -math.inf]),
        "scalar": np.array(2),
        "tensor": torch.tensor([1, 2]),
        "nested": {"$float": [1, (2.0, None)], "deep": [{"a": math.inf}]},
    }
    again = store(tmp_path, info=info).info
    assert again["loss"] == float(np.float32(0.1)) and again["count"] == 3 and again["flag"] is True
    assert again["losses"].tobytes() == info["losses"].tobytes() and again["scalar"].shape == ()
    assert identical(again["tensor"], info["tensor"])
    assert again["nested"] == info["nested"]


def test_info_that_no_file_can_hold_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"info\.sampler"):
        store(tmp_path, info={"sampler": Opaque()})
    with pytest.raises(ValueError, match=r"expected strings as keys of info\.by_step, got 1; convert"):
        store(tmp_path, info={"by_step": {1: 2.0}})


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
arrays = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.int8, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(info=st.dictionaries(st.text(max_size=5), values, max_size=4), args=st.lists(arrays, max_size=3))
def test_any_info_and_any_tensors_round_trip(info, args):
    tensors = [torch.from_numpy(array) for array in args]
    kept = TensorCollection()
    node = json.loads(json.dumps(describe({"info": info, "args": tensors}, "", kept), allow_nan=False))
    stored = {name: with_strides(tensor, kept.strides.get(name)) for name, tensor in kept.tensors.items()}
    again = rebuild(node, stored.__getitem__)
    assert repr(again["info"]) == repr(info)
    assert all(identical(a, b) for a, b in zip(tensors, again["args"], strict=True))


@settings(max_examples=8, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(info=st.dictionaries(st.text(max_size=5), values, max_size=3), x=arrays, site=st.text(min_size=1, max_size=4))
def test_any_fit_round_trips_through_its_folder(info, x, site, tmp_path):
    with isolated(0):
        model = Pipeline(Identity(), DNN(2, 2), Regress(2))
    site = site.encode("utf-8", "replace").decode().replace("\0", "0")
    fit = Posterior(model, Dataset((torch.from_numpy(x),)), {site: torch.ones(1, 2)}, info)
    again = load(save(fit, tmp_path / "fit"))
    assert repr(dict(again.info)) == repr(info)
    assert identical(again.data.args[0], fit.data.args[0])
    assert identical(again.draws[site], fit.draws[site])


# ---------------------------------------------------------------------------------------------- hostile folders

FILES = ("fit.json", "tensors.safetensors", "draws.nc")


@pytest.fixture
def folder(tmp_path):
    fit, _, _ = own_fit("exact beta")
    return save(fit, tmp_path / "fit")


def reseal(folder):
    """Make the manifest agree with the files, as an attacker would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        contents = (folder / name).read_bytes()
        manifest["files"][name] = {"bytes": len(contents), "sha256": hashlib.sha256(contents).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


class Bomb:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def pickled(marker, how):
    if how == "pickle":
        return pickle.dumps(Bomb(marker))
    path = marker.with_name("bomb.pt")
    torch.save(Bomb(marker), path)
    return path.read_bytes()


@pytest.mark.parametrize("how", ["pickle", "torch.save"])
@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_malicious_pickle_is_refused_and_never_run(folder, name, how, tmp_path):
    marker = tmp_path / "marker"
    (folder / name).write_bytes(pickled(marker, how))
    if name != "manifest.json":
        with pytest.raises(CorruptFitError, match=name):
            load(folder, problems.binomial_model)
        reseal(folder)
    with pytest.raises(CorruptFitError, match=name):
        load(folder, problems.binomial_model)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists()  # The bomb is live, so the claim above is about loading.


@pytest.mark.parametrize("name", ["extra.pkl", "model.pt", "params.save"])
def test_an_additional_file_is_refused(folder, name):
    (folder / name).write_bytes(pickle.dumps(1))
    with pytest.raises(CorruptFitError, match=name):
        load(folder, problems.binomial_model)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(CorruptFitError, match=f"{name}.*expected a file, got none.*restore"):
        load(folder, problems.binomial_model)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused(folder, name):
    contents = (folder / name).read_bytes()
    (folder / name).write_bytes(contents[:-1])
    with pytest.raises(CorruptFitError, match=f"{name}.*expected {len(contents)} bytes, got {len(contents) - 1}"):
        load(folder, problems.binomial_model)
    reseal(folder)
    if name != "draws.nc":  # HDF5 does not use its last byte.
        with pytest.raises(CorruptFitError, match=name):
            load(folder, problems.binomial_model)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_refused(folder, name):
    contents = bytearray((folder / name).read_bytes())
    contents[len(contents) // 2] ^= 1
    (folder / name).write_bytes(contents)
    with pytest.raises(CorruptFitError, match=f"{name}.*SHA-256"):
        load(folder, problems.binomial_model)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "something else"},
        {"version": 99},
        {"files": {}},
        {"files": {"../../etc/passwd": {"bytes": 0, "sha256": ""}}},
        {"files": ["fit.json"]},
        {"files": dict.fromkeys(FILES, 3)},
    ],
)
def test_a_manifest_of_another_format_is_refused(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(CorruptFitError, match=r"manifest\.json"):
        load(folder, problems.binomial_model)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_symbolic_link_is_refused(folder, name, tmp_path):
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(CorruptFitError, match=f"{name}.*link"):
        load(folder, problems.binomial_model)


def test_a_linked_folder_is_refused(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(CorruptFitError, match="symbolic link"):
        load(tmp_path / "link", problems.binomial_model)
    with pytest.raises(FileExistsError, match="link"):
        save(load(folder, problems.binomial_model), tmp_path / "link")


def tampered(folder, change):
    structure = json.loads((folder / "fit.json").read_text())
    change(structure["content"])
    (folder / "fit.json").write_text(json.dumps(structure))
    reseal(folder)


LARGE = {"a network": ["MLP", {"in_features": 30_000, "out_features": 3, "hidden": [30_000]}]}
LARGE["a chain of networks"] = ["MLP", {"in_features": 3, "out_features": 3, "hidden": [1_500] * 9}]


@pytest.mark.parametrize("name", LARGE)
def test_a_small_file_cannot_claim_a_large_model(folder, name):
    """Without a limit the first one takes 3.4 GiB."""
    tampered(folder, lambda content: content.update(info={"x": {"$piece": LARGE[name]}}))
    begin = psutil.Process().memory_info().rss
    with pytest.raises(CorruptFitError, match=r"fit\.json.*expected tensors of up to .* bytes together, got"):
        load(folder, problems.binomial_model)
    assert psutil.Process().memory_info().rss - begin < 2**28


HOSTILE = {
    "a class of Python": {"$piece": ["os.system", {"command": "true"}]},
    "a private name": {"$piece": ["__import__", {"name": "os"}]},
    "an unknown function": {"$function": "eval"},
    "an unknown tag": {"$pickle": "gASV"},
    "an unknown tensor": {"$tensor": "/etc/passwd"},
    "settings of another piece": {"$piece": ["VAE", {"channels": [1]}]},
    "no settings": {"$piece": "VAE"},
    "a tag of a wrong kind": {"$float": [1]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_description_of_anything_else_is_refused(folder, name):
    tampered(folder, lambda content: content.update(info={"x": HOSTILE[name]}))
    with pytest.raises(CorruptFitError, match=r"fit\.json"):
        load(folder, problems.binomial_model)


@pytest.mark.parametrize("part", ["pair", "args", "kwargs", "info", "sites"])
def test_a_structure_of_another_form_is_refused(part, tmp_path):
    folder = save(package_fit("DNN"), tmp_path / "fit")
    tampered(folder, lambda content: content.update({part: 7}))
    with pytest.raises(CorruptFitError, match=r"fit\.json"):
        load(folder)


def test_a_guide_of_an_unknown_kind_is_refused(tmp_path):
    folder = save(package_fit("VAE"), tmp_path / "fit")
    tampered(folder, lambda content: content["pair"].update(guide={"kind": "evil"}))
    with pytest.raises(CorruptFitError, match="evil"):
        load(folder)


def test_no_folder_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="got no folder"):
        load(tmp_path / "nowhere")


# ---------------------------------------------------------------------------------------------- atomic writes


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def other_fit():
    with isolated(0):
        model = Pipeline(Identity(), DNN(2, 2), Regress(2))
    return Posterior(model, Dataset(), {}, {"which": "other"})


def test_a_fit_is_replaced_by_a_newer_one(folder):
    save(other_fit(), folder)
    assert load(folder).info == {"which": "other"}
    assert [path.name for path in folder.parent.iterdir()] == ["fit"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "deep" / "fit").mkdir(parents=True)
    assert load(save(other_fit(), tmp_path / "deep" / "fit")).info == {"which": "other"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_older_fit(folder, error, monkeypatch):
    before = contents(folder)

    def fail(path):
        raise error("stopped")

    monkeypatch.setattr(fit_folder, "_sync", fail)
    with pytest.raises(error, match="stopped"):
        save(other_fit(), folder)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["fit"]


def test_a_full_disk_is_an_error_with_a_remedy_and_leaves_the_older_fit(folder):
    """A limit on the size of files stands for the end of a disk, which HDF5 once met with a crash of the process."""
    before, limits = contents(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    large = Posterior(other_fit().model, Dataset(), {"z": torch.zeros(1, 10_000)}, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"expected to write .* bytes to .*fit, got .*; free space there") as caught:
            save(large, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["fit"]


@pytest.mark.parametrize("stranger", ["notes.txt", "draws.nc"])
def test_a_folder_that_is_no_fit_is_never_replaced(stranger, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / stranger).write_text("mine")
    with pytest.raises(FileExistsError, match="choose another folder"):
        save(other_fit(), tmp_path / "mine")
    assert contents(tmp_path / "mine") == {stranger: b"mine"}
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        save(other_fit(), tmp_path / "file")


def test_a_fit_with_a_file_of_someone_else_in_it_is_never_replaced(folder):
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        save(other_fit(), folder)
    assert contents(folder) == before


def test_undescribable_values_are_value_errors():
    assert issubclass(NotSerializableError, ValueError) and issubclass(CorruptFitError, ValueError)


def test_no_component_hides_another_of_the_same_name():
    from_tables = [*TORCH_COMPONENTS, *GPYTORCH_COMPONENTS, *OWN_COMPONENTS]
    assert len(from_tables) == len(set(from_tables)) == len(COMPONENTS)
    assert {"Pipeline", "RBM", "GPMixture", "ClassNetwork", "DensityGate", "MaxPool"} <= set(OWN_COMPONENTS)


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db"])
def test_what_file_managers_leave_in_a_folder_neither_spoils_nor_keeps_it(name, tmp_path):
    fit, folder = package_fit("Regress"), tmp_path / "fit"
    save(fit, folder)
    (folder / name).write_bytes(b"icons")
    assert_same_values(fit, load(folder))
    save(fit, folder)
    assert_same_values(fit, load(folder))
    assert [each.name for each in tmp_path.iterdir()] == ["fit"]
    empty = tmp_path / "new"
    empty.mkdir()
    (empty / name).write_bytes(b"icons")
    assert_same_values(fit, load(save(fit, empty)))
