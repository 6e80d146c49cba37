"""Ordinary Pyro models as people write them: densities as plain Pyro's, and every verb from target to load."""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.ordinary_job import Job
from problems.ordinary_models import JOBS
from problems.ordinary_structures import wishart
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to, constraints

import probmodel as pb
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import TracingWarning
from probmodel.protocols.posterior import Posterior, Target

QUICK = ("linear regression", "outliers", "missing outcomes")
"""Jobs that go the whole way in the quick tests: a closed form, discrete and masked latents."""

ONCE_AROUND = constraints.interval(-math.pi, math.pi)
SVI = pb.SVI(num_steps=300, num_samples=50, compile=False, progress=False)
NUTS = pb.NUTS(num_samples=40, num_warmup=60, num_chains=2, max_tree_depth=5, compile=False, progress=False)


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def plain_run(model: Any, data: Dataset, values: dict[str, Tensor]) -> poutine.Trace:
    """A run of plain Pyro at values of the latents."""
    with pyro.get_param_store().scope(), torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = poutine.trace(poutine.condition(model, values)).get_trace(*data.args, **data.kwargs)
        run.compute_log_prob()
    return run


def plain_log_joint(job: Job, values: dict[str, Tensor]) -> float:
    """Density of plain Pyro with the Jacobians of its own transforms to the supports of this very run."""
    run: Any = plain_run(job.plain or job.model, job.data, values)
    total = run.log_prob_sum()
    for name, value in values.items():
        fn = run.nodes[name]["fn"]
        transform = biject_to(ONCE_AROUND if type(fn) is dist.VonMises else fn.support)
        total = total + transform.log_abs_det_jacobian(transform.inv(value), value).sum()
    return float(total.detach())


@pytest.mark.parametrize("name", JOBS)
def test_the_density_is_that_of_plain_pyro(name):
    job = JOBS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("error", TracingWarning)
        target = pb.target(job.model, job.data)
        theta = 0.6 * torch.randn(3, target.dim, generator=torch.Generator().manual_seed(2))
        got, values = target.log_joint(theta), target.constrain(theta)
    for i, each in enumerate(got.tolist()):
        exact = plain_log_joint(job, {site: value[i].detach() for site, value in values.items()})
        assert math.isclose(each, exact, rel_tol=1e-8, abs_tol=1e-8)


RECORDED = ("hidden Markov model", "von Mises regression", "Gaussian process", "network of sampled weights")


@pytest.mark.filterwarnings("ignore:SVI. ")
@pytest.mark.parametrize("name", RECORDED)
def test_the_loss_is_recorded_though_a_draw_from_the_prior_reads_values(name):
    job = JOBS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("error", TracingWarning)
        fit = pb.SVI(num_steps=2, num_samples=2, compile=False, progress=False)(job.model, job.data, seed=0)
    assert len(fit.info["losses"]) == 2


@pytest.mark.filterwarnings("ignore:Singular sample detected")
def test_a_latent_without_a_map_to_its_support_is_named():
    data = Dataset((torch.ones(3, 2),), {}, 3)
    with pytest.raises(ValueError, match=r"site 'precision' \(Wishart\).*LKJCholesky"):
        pb.target(wishart, data)


def first_draw(posterior: Posterior) -> dict[str, Tensor]:
    return {site: values[0, 0] for site, values in posterior.draws.items()}


def check_prediction(job: Job, target: Target, posterior: Posterior) -> None:
    """Each draw's likelihood of the new rows is that of plain Pyro; the mixture averages the draws."""
    assert job.held_out is not None
    if len(target.sites.observed) > 1:
        with pytest.raises(ValueError, match="one observed site"):
            pb.predict(posterior, job.held_out)
        return
    (y,) = job.held_out.kwargs.values()
    count = math.prod(next(iter(posterior.draws.values())).shape[:2])
    found = pb.predict(posterior, job.held_out, num_samples=count)
    by_draw = found.by_draw.log_prob(y)
    assert torch.allclose(found.distribution.log_prob(y), by_draw.logsumexp(0) - math.log(len(by_draw)))
    if any(latent.row_dim is not None for latent in target.sites.latents):
        return
    run: Any = plain_run(job.plain or posterior.model, job.held_out, first_draw(posterior))
    seen = [node for name, node in run.nodes.items() if name in run.observation_nodes and name not in posterior.draws]
    terms = [node["unscaled_log_prob"].sum() for node in seen if not node["infer"].get("_deterministic")]
    assert math.isclose(float(by_draw[0].sum()), float(sum(terms)), rel_tol=1e-6, abs_tol=1e-8)


def check_evidence(job: Job, posterior: Posterior) -> None:
    """Estimates from draws that say they are to be trusted have the exact value; those from a guide are lower bounds."""
    found = pb.evidence.best(posterior, seed=0)
    assert math.isfinite(found.log_z)
    if job.log_evidence is None:
        return
    exact = job.log_evidence()
    if posterior.guide is not None:
        lower = pb.evidence.elbo(posterior, seed=0)
        assert max(found.log_z - 4 * found.stderr, lower.log_z - 4 * lower.stderr) < exact + 1e-6
    elif found.info.get("k_hat", 0.0) < 0.7:
        assert abs(found.log_z - exact) < 4 * found.stderr + 1e-6


def check_storage(target: Target, posterior: Posterior, folder: Path, model: Any) -> None:
    """A loaded fit has the same draws and the same density."""
    loaded = pb.load(pb.save(posterior, folder), model=model)
    for site, values in posterior.draws.items():
        assert torch.equal(loaded.draws[site], values)
    theta = torch.zeros(2, target.dim)
    before, after = (pb.target(each.model, each.data).log_joint(theta) for each in (posterior, loaded))
    assert torch.equal(before, after)


def check_arviz(posterior: Posterior) -> None:
    """The container holds the draws, and a likelihood by row that sums to the target's."""
    found = pb.to_arviz(posterior)
    for site, values in posterior.draws.items():
        assert torch.equal(torch.as_tensor(found["posterior"][site].values), values)
    target = pb.target(posterior.model, posterior.data)
    terms = found["log_likelihood"].data_vars if "log_likelihood" in found else {}
    is_whole = set(target.sites.observed) <= set(terms) or "log_likelihood" in terms
    if is_whole and all(latent.name in posterior.draws for latent in target.sites.latents):
        theta = target.unconstrain({site: value[None] for site, value in first_draw(posterior).items()})
        total = sum(float(each.values[0, 0].sum()) for each in terms.values())
        assert math.isclose(total, float(target.log_likelihood(theta)[0]), rel_tol=1e-6, abs_tol=1e-8)


def check_scores(job: Job, posterior: Posterior) -> None:
    if job.has_rows:
        assert "held-out log score" in pb.diagnose(posterior, job.held_out)
        return
    with pytest.raises(ValueError, match="one joint term"):
        pb.diagnose(posterior, job.held_out)


def check_all(name: str, folder: Path) -> None:
    job = JOBS[name]()
    target = pb.target(job.model, job.data)
    fits = {"NUTS": NUTS(job.model, job.data, seed=0)}
    if job.has_guide:
        fits["SVI"] = SVI(job.model, job.data, seed=0)
    for method, posterior in fits.items():
        check_evidence(job, posterior)
        check_arviz(posterior)
        check_storage(target, posterior, folder / method, job.model)
        if job.held_out is not None:
            check_prediction(job, target, posterior)
            check_scores(job, posterior)
    if job.held_out is not None and job.has_rows:
        assert set(pb.compare(fits, job.held_out).frame.index) == set(fits)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", QUICK)
def test_every_verb_takes_an_ordinary_model(name, tmp_path):
    check_all(name, tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [name for name in JOBS if name not in QUICK])
def test_every_verb_takes_each_model_of_the_gallery(name, tmp_path):
    check_all(name, tmp_path)
