"""The promises of `probmodel/draws` under any ArviZ; `python arviz_adapter_checks.py ROOT` prints the numbers."""

import importlib
import io
import json
import sys
import tempfile
import types
from pathlib import Path

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.text import Text
from scipy.stats import norm


def load(root):
    """The functions of `probmodel.draws`, imported below a package that is empty: PyTorch is not installed here."""
    package = types.ModuleType("probmodel")
    package.__path__ = [f"{root}/probmodel"]
    sys.modules["probmodel"] = package
    names = ("arrays", "containers", "diagnostics", "pareto", "plots")
    rooms = [vars(importlib.import_module(f"probmodel.draws.{name}")) for name in names]
    return types.SimpleNamespace(**{name: value for room in rooms for name, value in room.items() if callable(value)})


def autoregressive(correlation, chains, draws, seed):
    """Stationary AR(1) of variance 1: S draws are worth S (1 - correlation) / (1 + correlation) for its mean."""
    noise = np.random.default_rng(seed).normal(size=(chains, draws))
    out = noise.copy()
    for t in range(1, draws):
        out[:, t] = correlation * out[:, t - 1] + np.sqrt(1 - correlation**2) * noise[:, t]
    return out


def diagnostics_match_known_chains(adapter):
    rng = np.random.default_rng(0)
    slow = autoregressive(0.5, chains=4, draws=1000, seed=1)
    iid = rng.normal(size=(4, 1000, 2))
    apart = rng.normal(size=(4, 1000)) + np.arange(4)[:, None]
    posterior = {"slow": slow, "a/b": iid, "draw": apart}
    rhat, bulk, tail = adapter.rhat(posterior), adapter.ess_bulk(posterior), adapter.ess_tail(posterior)
    mcse = adapter.mcse_mean(posterior)
    assert rhat["a/b"].shape == (2,) and rhat["slow"].shape == ()
    assert np.all(np.abs(rhat["a/b"] - 1) < 0.01) and rhat["draw"] > 1.3
    assert abs(bulk["slow"] - 4000 / 3) < 200, bulk["slow"]
    assert abs(mcse["slow"] * np.sqrt(4000 / 3) - 1) < 0.1, mcse["slow"]
    assert np.isnan(adapter.rhat({"z": slow[:1]})["z"]) and np.isnan(adapter.ess_tail({"z": slow[:, :3]})["z"])
    assert np.isnan(adapter.rhat({"z": np.ones((4, 10))})["z"])
    assert adapter.rhat({"z": np.ones((4, 10, 0))})["z"].shape == (0,)
    assert adapter.rhat({}) == adapter.ess_bulk({}) == adapter.mcse_mean({}) == {}
    names = ("rhat", "bulk", "tail", "mcse")
    results = zip(names, (rhat, bulk, tail, mcse), strict=True)
    return {f"{name} {site}": np.ravel(v).tolist() for name, found in results for site, v in found.items()}


def loo_matches_conjugate_normal(adapter):
    """y_i ~ N(mu, 1), mu ~ N(0, 1): mu | y_{-i} is normal, so each leave-one-out density is known."""
    rng = np.random.default_rng(2)
    y = rng.normal(0.5, 1, size=12)
    exact = 0.0
    for i in range(len(y)):
        others = np.delete(y, i)
        precision = 1 + len(others)
        exact += norm.logpdf(y[i], others.sum() / precision, np.sqrt(1 + 1 / precision))
    # A square number of draws: ArviZ 0.23 rounds the length of the tail up, ArviZ 1 down.
    mu = rng.normal(y.sum() / (1 + len(y)), 1 / np.sqrt(1 + len(y)), size=(4, 2500))
    log_likelihood = norm.logpdf(y, mu[..., None], 1)
    found = adapter.loo(log_likelihood)
    ratios = np.exp(-log_likelihood.reshape(-1, len(y)))
    stderr = (ratios.std(0) / ratios.mean(0)).sum() / np.sqrt(mu.size)
    assert abs(found.elpd - exact) < 4 * stderr, (found.elpd, exact, stderr)
    assert found.pareto_k.shape == found.elpd_by_row.shape == (12,) and found.pareto_k.max() < 0.5
    assert abs(found.se - np.sqrt(12) * found.elpd_by_row.std(ddof=1)) < 1e-9
    single = adapter.loo(log_likelihood.reshape(1, -1, 12))
    assert abs(single.elpd - found.elpd) < 1e-9
    return {
        "loo": [found.elpd, found.se, found.p_loo],
        "pareto_k": found.pareto_k.tolist(),
        "elpd_by_row": found.elpd_by_row.tolist(),
    }


def loo_survives_rows_no_tail_can_be_fitted_to(adapter):
    log_likelihood = np.random.default_rng(3).normal(size=(2, 200, 4))
    log_likelihood[..., 0] = -1.5
    log_likelihood[0, 7, 1] = -np.inf
    found = adapter.loo(log_likelihood)
    assert found.elpd_by_row[0] == -1.5 and found.pareto_k[0] == -np.inf
    assert found.elpd_by_row[1] == -np.inf and found.pareto_k[1] == np.inf
    assert np.isfinite(found.elpd_by_row[2:]).all() and np.isfinite(found.pareto_k[2:]).all()
    few = adapter.loo(log_likelihood[:1, :10, 2:])
    assert np.isposinf(few.pareto_k).all() and np.isfinite(few.elpd)
    one = adapter.loo(log_likelihood[:1, :1, 2:])
    assert np.allclose(one.elpd_by_row, log_likelihood[0, 0, 2:]) and abs(one.p_loo) < 1e-12
    return {"loo of odd rows": found.elpd_by_row[2:].tolist()}


def groups_hold_what_was_given(adapter):
    rng = np.random.default_rng(4)
    posterior = {"a/b.c": rng.normal(size=(2, 5)), "w": rng.normal(size=(2, 5, 3)), "w_dim_0": rng.normal(size=(2, 5))}
    diverging = np.zeros((2, 5), dtype=bool)
    y = rng.normal(size=7)
    tree = adapter.from_arrays(
        posterior,
        sample_stats={"diverging": diverging},
        log_likelihood={"y": rng.normal(size=(2, 5, 7))},
        observed_data={"y": y},
        posterior_predictive={},
    )
    assert np.array_equal(tree["posterior"]["a%2Fb.c"].to_numpy(), posterior["a/b.c"])
    assert tree["posterior"]["w"].dims == ("chain", "draw", "w_dim_0")
    assert np.array_equal(tree["observed_data"]["y"].to_numpy(), y)
    assert tree["sample_stats"]["diverging"].dtype == bool
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "y_dim_0")
    assert "posterior_predictive" not in tree and "posterior" not in adapter.from_arrays({})
    return {}


def netcdf_returns_the_same_bits(adapter):
    rng = np.random.default_rng(5)
    single = rng.normal(size=(2, 6, 3)).astype(np.float32)
    payload = np.array(0x7FC01234, dtype=np.uint32).view(np.float32)  # A nan unlike NumPy's own.
    single[0, 0] = [payload, np.inf, -0.0]
    posterior = {
        "net.0.weight": single,
        "scope/z": rng.normal(size=(2, 6)),
        "100%/x": rng.integers(-(2**62), 2**62, size=(2, 6, 1, 2)),
        "chain": rng.normal(size=(2, 6)),
        "scope/z_dim_0": rng.normal(size=(2, 6)),
        "é_dim_1": rng.integers(0, 2, size=(2, 6)).astype(bool),
        "..": rng.normal(size=(2, 6)),
        "none": np.zeros((2, 6, 0)),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "draws.nc"
        for given in ({}, posterior):
            adapter.save_netcdf(given, path)
            found = adapter.load_netcdf(path)
            assert list(found) == list(given)
            for name, values in given.items():
                assert found[name].dtype == values.dtype and found[name].shape == values.shape, name
                assert found[name].tobytes() == values.tobytes(), name
        opened = az.from_netcdf(path)
        assert np.array_equal(opened["posterior"]["net.0.weight"].to_numpy(), single, equal_nan=True)
        assert opened["posterior"]["scope%2Fz"].dims == ("chain", "draw")
        opened.close()
    return {}


def figures_name_every_fit_and_element(adapter):
    rng = np.random.default_rng(6)

    def fit(chains, draws):
        return {"a/b": rng.normal(size=(chains, draws)), "w": rng.normal(size=(chains, draws, 2))}

    fits = {"nuts": fit(4, 50), "svi": fit(1, 70), "map": fit(1, 1)}
    kept = plt.figure()
    overlays = (adapter.plot_forest(fits), adapter.plot_densities(fits), adapter.plot_pairs(fits))
    singles = (adapter.plot_ranks(fits["nuts"]), adapter.plot_ranks(fits["svi"]), adapter.plot_traces(fits["nuts"]))
    for figure in overlays + singles:
        figure.savefig(io.BytesIO(), dpi=40)
        words = " ".join(text.get_text() for text in figure.findobj(Text))
        assert all(label in words for label in ("a/b", "w[0]", "w[1]")), words
        assert figure not in overlays or all(name in words for name in fits), words
    cut = adapter.plot_pairs(fits, max_elements=2)
    assert any(text.get_text() == "first 2 of 3 elements" for text in cut.findobj(Text))
    assert plt.get_fignums() == [kept.number]
    plt.close(kept)
    return {}


CHECKS = (
    diagnostics_match_known_chains,
    loo_matches_conjugate_normal,
    loo_survives_rows_no_tail_can_be_fitted_to,
    groups_hold_what_was_given,
    netcdf_returns_the_same_bits,
    figures_name_every_fit_and_element,
)


if __name__ == "__main__":
    adapter = load(sys.argv[1])
    numbers = {}
    for check in CHECKS:
        numbers |= check(adapter)
    assert "torch" not in sys.modules and not hasattr(sys.modules["probmodel"], "Dataset")
    print(json.dumps({"arviz": az.__version__, "numbers": numbers}))
