"""The no-U-turn sampler as a state machine that makes one leapfrog step of every chain at a time.

Chains do not wait for each other: while one doubles its tree, another begins its next draw, so each step is one batched
gradient whatever the trees look like, and the sampler is a flat loop that can be compiled.  Multinomial sampling and
the generalized criterion as in Betancourt (2017); subtrees are checked iteratively (Phan, Pradhan & Jankowiak, 2019).
Momenta are in units of the mass matrix, so that their distribution is standard normal.

Reference:
    Hoffman & Gelman (2014), "The No-U-Turn Sampler"; Betancourt (2017), "A conceptual introduction to HMC".
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probmodel.inference.chains.adaptation import Adaptation, Gradient, Schedule, adapt, select_per_chain
from probmodel.inference.chains.chains import MAX_ENERGY_ERROR
from probmodel.tracing.programs.compiling import Tensors


class Endpoint(NamedTuple):
    """State at one end of a trajectory."""

    theta: Float[Tensor, "C D"]
    momentum: Float[Tensor, "C D"]
    grad: Float[Tensor, "C D"]


class Proposal(NamedTuple):
    """A state of the chain with its log density in nats, and the gradient of that."""

    theta: Float[Tensor, "C D"]
    log_prob: Float[Tensor, " C"]
    grad: Float[Tensor, "C D"]


class Tree(NamedTuple):
    """Summary of neighboring states: one drawn from them, the log sum of their weights, and their summed momenta."""

    proposal: Proposal
    log_weight: Float[Tensor, " C"]
    momentum_sum: Float[Tensor, "C D"]


class TreeState(NamedTuple):
    """State of C chains, each with a tree of its own."""

    whole: Tree
    left: Endpoint
    right: Endpoint
    depth: Int[Tensor, " C"]
    start: Float[Tensor, " C"]
    """Log density of position and momentum at the trajectory's initial state, in nats."""
    part: Tree
    """Subtree that is growing."""
    end: Endpoint
    """Last state of the growing subtree."""
    forward: Bool[Tensor, " C"]
    leaf: Int[Tensor, " C"]
    """Number of states of the growing subtree."""
    saved_momentum: Float[Tensor, "C K D"]
    saved_sum: Float[Tensor, "C K D"]
    accepted: Float[Tensor, " C"]
    leapfrogs: Float[Tensor, " C"]
    draws: Int[Tensor, " C"]
    """Number of finished draws, including the warm-up."""


class Finished(NamedTuple):
    """Draws that one step may complete, one per chain."""

    theta: Float[Tensor, "C D"]
    numbers: Float[Tensor, "C 6"]
    """Columns: whether the draw is new, whether it diverged, mean acceptance, depth, leapfrog steps, log density."""


def begin(theta: Float[Tensor, "C D"], gradient: Gradient, max_depth: int) -> TreeState:
    """Initial trees of one state each, with new momenta."""
    log_prob, grad = gradient(theta)
    noise = torch.randn(theta.shape, dtype=theta.dtype, device=theta.device)
    forward = torch.rand(len(theta), dtype=theta.dtype, device=theta.device) < 0.5
    memory = theta.new_zeros(len(theta), max_depth, theta.shape[1])
    none = torch.zeros(len(theta), dtype=torch.long, device=theta.device)
    return _new_tree(Proposal(theta, log_prob, grad), noise, forward, memory, memory.clone(), none)


def _new_tree(
    proposal: Proposal,
    noise: Float[Tensor, "C D"],
    forward: Bool[Tensor, " C"],
    saved_momentum: Float[Tensor, "C K D"],
    saved_sum: Float[Tensor, "C K D"],
    draws: Int[Tensor, " C"],
) -> TreeState:
    zero, none = torch.zeros_like(proposal.log_prob), torch.zeros_like(draws)
    point = Endpoint(proposal.theta, noise, proposal.grad)
    empty = Tree(proposal, zero - torch.inf, torch.zeros_like(noise))
    start = proposal.log_prob - 0.5 * noise.square().sum(-1)
    whole = Tree(proposal, zero, noise)
    return TreeState(
        whole, point, point, none, start, empty, point, forward, none, saved_momentum, saved_sum, zero, zero, draws
    )


def advance(
    state: TreeState, adaptation: Adaptation, gradient: Gradient, plan: Schedule, target_accept: float
) -> tuple[TreeState, Adaptation, Finished]:
    """State and adaptation after one leapfrog step of every chain, and the draws that it completes."""
    theta = state.end.theta
    kind: dict[str, Any] = {"dtype": theta.dtype, "device": theta.device}
    uniforms = torch.rand(3, len(theta), **kind)
    noise = torch.randn(theta.shape, **kind)
    grown, divergent, turned = _grow(state, adaptation, gradient, uniforms[0])
    complete = turned | divergent | (grown.leaf == torch.ones_like(grown.depth) << grown.depth)
    good = complete & ~turned & ~divergent
    joined, round_trip = _join(grown, uniforms[1])
    joined = select_per_chain(good, joined, grown)
    finished = complete & (~good | round_trip | (joined.depth == state.saved_sum.shape[1]))
    forward = uniforms[2] < 0.5
    regrown = select_per_chain(good, _new_subtree(joined, forward), joined)
    restarted = _new_tree(
        joined.whole.proposal, noise, forward, joined.saved_momentum, joined.saved_sum, joined.draws + 1
    )
    mean = joined.accepted / joined.leapfrogs
    adapted = adapt(adaptation, joined.whole.proposal.theta, mean, state.draws, plan, target_accept)
    learns = finished & (state.draws < len(plan.ends))
    columns = (finished, divergent, mean, joined.depth, joined.leapfrogs, joined.whole.proposal.log_prob)
    numbers = torch.stack([column.to(theta.dtype) for column in columns], -1)
    return (
        select_per_chain(finished, restarted, regrown),
        select_per_chain(learns, adapted, adaptation),
        Finished(joined.whole.proposal.theta, numbers),
    )


def _grow(
    state: TreeState, adaptation: Adaptation, gradient: Gradient, uniform: Float[Tensor, " C"]
) -> tuple[TreeState, Bool[Tensor, " C"], Bool[Tensor, " C"]]:
    """Add a state to the growing subtree, and tell whether it diverged, and whether a subtree has made a U-turn."""
    step = torch.where(state.forward, 1.0, -1.0).to(adaptation.scale.dtype) * adaptation.log_step.exp()
    push = 0.5 * step[:, None] * adaptation.scale
    half = state.end.momentum + push * state.end.grad
    theta = state.end.theta + 2 * push * half
    log_prob, grad = gradient(theta)
    momentum = half + push * grad
    gain = log_prob - 0.5 * momentum.square().sum(-1) - state.start
    gain = torch.where(gain.isnan(), -torch.inf, gain)
    log_weight = torch.logaddexp(state.part.log_weight, gain)
    taken = uniform < (gain - log_weight).exp()
    proposal = select_per_chain(taken, Proposal(theta, log_prob, grad), state.part.proposal)
    part = Tree(proposal, log_weight, state.part.momentum_sum + momentum)
    saved_momentum, saved_sum, turned = _check_subtrees(state, momentum, part.momentum_sum)
    grown = state._replace(
        part=part,
        end=Endpoint(theta, momentum, grad),
        leaf=state.leaf + 1,
        saved_momentum=saved_momentum,
        saved_sum=saved_sum,
        accepted=state.accepted + gain.clamp(max=0).exp(),
        leapfrogs=state.leapfrogs + 1,
    )
    return grown, gain < -MAX_ENERGY_ERROR, turned


def _check_subtrees(
    state: TreeState, momentum: Float[Tensor, "C D"], total: Float[Tensor, "C D"]
) -> tuple[Float[Tensor, "C K D"], Float[Tensor, "C K D"], Bool[Tensor, " C"]]:
    """Keep even leaves, one per level, and check the subtrees that odd leaves close against the kept ones.

    Leaf n closes as many subtrees as its binary digits end in ones; their first leaves are those kept last, and an even
    leaf n is kept at the level given by the number of ones in n / 2.
    """
    levels = torch.arange(state.saved_sum.shape[1], device=momentum.device)
    bits = (state.leaf[:, None] >> levels) & 1
    level = bits[:, 1:].sum(-1)
    closes = bits.cumprod(-1).sum(-1)
    odd = bits[:, 0] == 1
    keep = ((levels == level[:, None]) & ~odd[:, None])[..., None]
    saved_momentum = torch.where(keep, momentum[:, None], state.saved_momentum)
    saved_sum = torch.where(keep, total[:, None], state.saved_sum)
    inside = (levels <= level[:, None]) & (levels > (level - closes)[:, None]) & odd[:, None]
    span = total[:, None] - saved_sum + saved_momentum
    turned = _is_u_turn(saved_momentum, momentum[:, None], span)
    return saved_momentum, saved_sum, (turned & inside).any(-1)


def _is_u_turn(
    first: Float[Tensor, "*#B D"], last: Float[Tensor, "*#B D"], total: Float[Tensor, "*#B D"]
) -> Bool[Tensor, "*_"]:
    """Return whether one end has stopped moving away from the other.

    The ends count half, which stabilizes short trajectories.

    Momenta point forward in time in both directions of growth, so which end comes first makes no difference.
    """
    inner = total - 0.5 * (first + last)
    return ((first * inner).sum(-1) <= 0) | ((last * inner).sum(-1) <= 0)


def _join(state: TreeState, uniform: Float[Tensor, " C"]) -> tuple[TreeState, Bool[Tensor, " C"]]:
    """Add the completed subtree to the tree, and tell whether the whole tree has made a U-turn."""
    taken = uniform < (state.part.log_weight - state.whole.log_weight).exp()
    whole = Tree(
        select_per_chain(taken, state.part.proposal, state.whole.proposal),
        torch.logaddexp(state.whole.log_weight, state.part.log_weight),
        state.whole.momentum_sum + state.part.momentum_sum,
    )
    left = select_per_chain(state.forward, state.left, state.end)
    right = select_per_chain(state.forward, state.end, state.right)
    turned = _is_u_turn(left.momentum, right.momentum, whole.momentum_sum)
    return state._replace(whole=whole, left=left, right=right, depth=state.depth + 1), turned


def _new_subtree(state: TreeState, forward: Bool[Tensor, " C"]) -> TreeState:
    """State with an empty subtree at one end of the tree."""
    end = select_per_chain(forward, state.right, state.left)
    empty = Tree(
        state.part.proposal,
        torch.full_like(state.part.log_weight, -torch.inf),
        torch.zeros_like(state.part.momentum_sum),
    )
    return state._replace(part=empty, end=end, forward=forward, leaf=torch.zeros_like(state.leaf))


def flatten(state: tuple) -> Tensors:
    """All tensors of a state in order."""
    return tuple(t for field in state for t in (flatten(field) if isinstance(field, tuple) else (field,)))


def unflatten(tensors: Tensors) -> TreeState:
    """Inverse of `flatten`."""
    t = iter(tensors)

    def tree() -> Tree:
        return Tree(Proposal(next(t), next(t), next(t)), next(t), next(t))

    def point() -> Endpoint:
        return Endpoint(next(t), next(t), next(t))

    return TreeState(tree(), point(), point(), next(t), next(t), tree(), point(), *t)
