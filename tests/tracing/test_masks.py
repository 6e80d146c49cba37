"""Masked latents keep their prior, so that evidences are those of the observed values."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import probmodel as pb
from probmodel.protocols.dataset import Dataset

N = 20


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = normal(N)
Y = 1.5 * X + normal(N, seed=1)
SEEN = torch.rand(N, generator=torch.Generator().manual_seed(2)) > 0.3
ZERO, ONE = torch.tensor(0.0).double(), torch.tensor(1.0).double()


def slope():
    return pyro.sample("a", dist.Normal(ZERO, ONE))


def by_obs_mask(x, seen, y=None):
    a = slope()
    with pyro.plate("n", len(x)):
        pyro.sample("y", dist.Normal(a * x, 1.0), obs=y, obs_mask=seen)


def by_handler(x, seen, y=None):
    a = slope()
    with pyro.plate("n", len(x)), poutine.mask(mask=seen):
        pyro.sample("y", dist.Normal(a * x, 1.0), obs=y)


def by_distribution(x, seen, y=None):
    a = slope()
    with pyro.plate("n", len(x)):
        pyro.sample("y", dist.Normal(a * x, 1.0).mask(seen), obs=y)


def padded(x, seen, y=None):
    """A latent per row, masked where the row is padding."""
    a = slope()
    with pyro.plate("n", len(x)), poutine.mask(mask=seen):
        mean = pyro.sample("mean", dist.Normal(a * x, math.sqrt(0.5)))
        pyro.sample("y", dist.Normal(mean, math.sqrt(0.5)), obs=y)


MODELS = [by_obs_mask, by_handler, by_distribution, padded]
DATA = Dataset((X, SEEN), {"y": torch.where(SEEN, Y, 99.0)}, N)


def truth():
    x, y = X[SEEN], Y[SEEN]
    covariance = torch.eye(len(x), dtype=torch.float64) + torch.outer(x, x)
    return float(dist.MultivariateNormal(torch.zeros(len(x)).double(), covariance).log_prob(y))


@pytest.mark.parametrize("model", MODELS)
def test_the_evidence_is_that_of_the_observed_values(model):
    assert float(pb.evidence.exact(pb.target(model, DATA)).log_z) == pytest.approx(truth(), abs=1e-8)


@pytest.mark.parametrize("model", [by_obs_mask, padded])
def test_the_variational_bound_stays_below_the_evidence(model):
    settings = {"progress": False, "compile": False, "patience": None, "num_samples": 50}
    fast = {"optimizer": lambda p: torch.optim.Adam(p, lr=0.05)}
    bounds = [
        pb.evidence.elbo(pb.SVI(num_steps=steps, **settings, **fast)(model, DATA, seed=0)) for steps in (200, 500)
    ]
    for bound in bounds:
        assert truth() - 4 < bound.log_z < truth() + 4 * bound.stderr


def test_masks_written_in_three_ways_have_one_digest_whatever_stands_under_the_mask():
    others = Dataset((X, SEEN), {"y": torch.where(SEEN, Y, -1.0)}, N)
    digests = {pb.target(model, data).digest for model in MODELS[:3] for data in (DATA, others)}
    assert len(digests) == 1
    fewer = SEEN & (torch.arange(N) != int(SEEN.nonzero()[0]))
    assert pb.target(by_handler, Dataset((X, fewer), {"y": Y}, N)).digest not in digests


def test_a_masked_prior_of_what_the_data_depend_on_is_improper():
    def flat(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(2).double(), 1.0).mask(torch.tensor([True, False])))
        with pyro.plate("n", len(x), dim=-2):
            pyro.sample("y", dist.Normal(w[0] + w[1] * x[:, None], 1.0), obs=y)

    assert pb.target(flat, Dataset((X,), {"y": Y[:, None]}, N)).improper == ("w",)


def test_masked_observations_may_be_nan():
    nan = Dataset((X, SEEN), {"y": torch.where(SEEN, Y, math.nan)}, N)
    for model in MODELS:
        density = pb.target(model, nan)
        theta = normal(3, density.dim, seed=3).requires_grad_()
        joint = density.log_joint(theta)
        torch.testing.assert_close(joint, pb.target(model, DATA).log_joint(theta))
        (slopes,) = torch.autograd.grad(joint.sum(), theta)
        assert torch.isfinite(slopes).all()


def test_a_mask_may_be_computed_from_a_latent():
    def model(y):
        a = slope()
        with pyro.plate("rows", len(y)), poutine.mask(mask=a < 0.5):
            pyro.sample("y", dist.Normal(a, 0.5), obs=y)

    y = normal(2, seed=5)
    found = pb.target(model, Dataset((y,), {}, 2)).log_joint(torch.tensor([[0.0], [1.0]]).double())
    prior = dist.Normal(ZERO, ONE).log_prob(torch.tensor([0.0, 1.0]).double())
    torch.testing.assert_close(found, prior + torch.stack([dist.Normal(ZERO, 0.5).log_prob(y).sum(), ZERO]))


def chain(y, lengths):
    """Two states; steps beyond the length of a sequence are masked."""
    with pyro.plate("rows", len(y)):
        state = 0
        for step in pyro.markov(range(y.shape[1])):
            with poutine.mask(mask=step < lengths):
                move = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
                state = pyro.sample(f"z{step}", dist.Categorical(move[state]))
                pyro.sample(f"y{step}", dist.Normal(2.0 * state, 1.0), obs=y[:, step])


def test_masked_states_of_a_chain_sum_to_one():
    """Padding changes nothing: the density is that of the sequences without it."""
    y = normal(3, 4, seed=4)
    lengths = torch.tensor([4, 2, 3])
    whole = pb.target(chain, Dataset((y, lengths), {}, 3)).log_joint(torch.zeros(1, 0).double())
    alone = [
        pb.target(chain, Dataset((y[i : i + 1, : int(n)], lengths[i : i + 1]), {}, 1)) for i, n in enumerate(lengths)
    ]
    torch.testing.assert_close(whole, sum(each.log_joint(torch.zeros(1, 0).double()) for each in alone))
