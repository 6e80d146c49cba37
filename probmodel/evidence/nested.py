"""Nested sampling estimate of the evidence (Skilling, 2006) by dynesty (Speagle, 2020), from a repartitioned prior."""

import math
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import stdtrit
from torch.distributions import StudentT

from probmodel.evidence.harmonic import AffineMap, affine_map_of
from probmodel.evidence.weighing.starting_draws import posterior_draws
from probmodel.evidence.weighing.weights import plain
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.errors import EvidenceWarning, warn
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject, Target
from probmodel.protocols.session.progress import shows_progress, tick
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target_of

try:
    import dynesty

    HAS_DYNESTY = True
except ImportError:
    HAS_DYNESTY = False

DEGREES_OF_FREEDOM = 3.0
"""Degrees of freedom of the base: heavier tails than a posterior's, so that the density ratio has a maximum."""
WIDTH = 1.5
"""Scale of the base density relative to the posterior's standard deviations."""
LOG_ZERO = -1e300
"""Log likelihood that dynesty treats as a likelihood of zero."""
EDGE = 1e-12
"""Least distance from the faces of the unit cube, where quantiles are infinite; the mass beyond it is negligible."""
MAX_WALK_DIM = 20
"""Largest dimension at which random walks renew live points; slice sampling does beyond (dynesty's own threshold)."""
BATCH_FRACTION = 8
"""Live points per point of a batch: the proposals of a batch share one likelihood threshold, which rises meanwhile."""


@checks_arguments
@shows_progress
def nested(
    subject: Subject,
    *,
    seed: int = 0,
    num_live: int = 500,
    tolerance: float = 0.01,
    max_calls: int = 5_000_000,
    progress: bool = True,
) -> Evidence:
    """Nested sampling of log Z = log ∫ exp(log p(data, θ) − log b(θ)) db(θ) with `num_live` points, in nats.

    The base b takes the prior's place in the unit cube, which leaves the integral unchanged (posterior repartitioning,
    Chen et al., 2018): independent Student-t with 3 degrees of freedom in coordinates whitened by posterior draws, 1.5
    times as wide.  The draws determine the speed and the error, not the value: b covers R^D whatever they are.

    Args:
        subject: a fit, or a target.
        seed: random seed of the live points, and of any draws that the subject does not hold.
        num_live: number of live points.
        tolerance: largest remaining contribution of the live points to log Z at which sampling stops, in nats.
        max_calls: number of evaluations of the log joint after which sampling stops in any case.
        progress: whether to show what is being computed.

    Returns:
        Evidence with the standard error √(H / num_live) of Skilling (2006); `info` holds the information H, the number
        of evaluations `ncall`, `seconds` and `nlive`.

    Raises:
        ImportError: if the package dynesty is not installed.
        ValueError: if there are fewer live points than twice the coordinates.
    """
    if not HAS_DYNESTY:
        raise ImportError("expected the package dynesty, got none; pip install 'probmodel[nested]'")
    target = target_of(subject)
    if target.dim == 0:
        log_z = plain(target)
        return Evidence(log_z, 0.0, log_z, log_z, method="nested", given=target.given, digest=target.digest)
    if num_live < 2 * target.dim:
        raise ValueError(f"expected at least {2 * target.dim} live points, got {num_live}; raise num_live")
    start = time.perf_counter()
    base = affine_map_of(posterior_draws(subject, seed).detach())
    base = base._replace(scale_tril=WIDTH * base.scale_tril)
    with (
        isolated(seed),
        torch.no_grad(),
        _BatchedPool(_likelihood(target, base), num_live // BATCH_FRACTION or 1) as pool,
    ):
        found = _run(pool, target.dim, num_live, tolerance, max_calls, seed)
    if pool.num_calls >= max_calls:
        warn(
            f"nested: stopped at {pool.num_calls} evaluations before the tolerance of {tolerance} nats; raise max_calls, or "
            "pass a fit with posterior draws",
            EvidenceWarning,
        )
    info = {"ncall": pool.num_calls, "seconds": time.perf_counter() - start, "nlive": num_live, "H": found.information}
    return Evidence(found.log_z, found.stderr, method="nested", given=target.given, digest=target.digest, info=info)


class _Found(NamedTuple):
    log_z: float
    stderr: float
    information: float


def _run(pool: "_BatchedPool", dim: int, num_live: int, tolerance: float, max_calls: int, seed: int) -> _Found:
    sampler = dynesty.NestedSampler(
        pool.evaluate,
        lambda cube: stdtrit(DEGREES_OF_FREEDOM, cube.clip(EDGE, 1 - EDGE)),
        dim,
        nlive=num_live,
        # Uniform draws from ellipsoids miss parts of many modes, and the bootstrap that guards against it never ends.
        sample="rwalk" if dim <= MAX_WALK_DIM else "rslice",
        rstate=np.random.default_rng(seed),
        pool=pool,
        queue_size=pool.size,
        # Only the likelihood is costly; the other functions would be slower in threads.
        use_pool={"prior_transform": False, "update_bound": False},
    )
    with warnings.catch_warnings():
        # `nested` itself warns of this, with a remedy.
        warnings.filterwarnings("ignore", message="The sampling was stopped short")
        sampler.run_nested(dlogz=tolerance, maxcall=max_calls, print_progress=False)
    results = sampler.results
    return _Found(float(results.logz[-1]), float(results.logzerr[-1]), float(results.information[-1]))


def _likelihood(target: Target, base: AffineMap) -> Callable[[Float[np.ndarray, "S D"]], Float[np.ndarray, " S"]]:
    """Function that maps whitened points to log p(data, θ) − log b(θ), in nats; NaN counts as a likelihood of zero."""
    student, log_det = StudentT(base.loc.new_tensor(DEGREES_OF_FREEDOM)), base.log_det()

    def log_likelihood(points: Float[np.ndarray, "S D"]) -> Float[np.ndarray, " S"]:
        z = torch.as_tensor(points, dtype=target.dtype, device=target.device)
        log_b = student.log_prob(z).sum(-1) - log_det
        values = (target.log_joint(base(z)) - log_b).double().cpu().numpy()
        return np.nan_to_num(values, nan=LOG_ZERO, neginf=LOG_ZERO).clip(LOG_ZERO)

    return log_likelihood


class _Request(NamedTuple):
    """Message of a thread: a point to evaluate and a queue for the answer, or no point at the end of its call."""

    position: int
    point: np.ndarray | None
    answer: "SimpleQueue[float]"


class _BatchedPool:
    """Pool for dynesty that runs calls concurrently and evaluates their points in one batch.

    Each call of `map` runs in a thread until it requests a likelihood; once all of them wait, one batch answers them.
    Batches depend on nothing but the calls, so that a seed determines the result.
    """

    def __init__(self, log_likelihood: Callable[[np.ndarray], np.ndarray], size: int) -> None:
        self.log_likelihood, self.size = log_likelihood, size
        self.num_calls = 0
        self._threads = ThreadPoolExecutor(size)
        self._requests: SimpleQueue[_Request] = SimpleQueue()
        self._mine = threading.local()

    def __enter__(self) -> "_BatchedPool":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def evaluate(self, point: Float[np.ndarray, " D"]) -> float:
        """Log likelihood of one point, requested inside a call of `map`."""
        position, answer = self._mine.call
        self._requests.put(_Request(position, point, answer))
        return answer.get()

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Results of `function` for all items, in order; at most `size` of them run at once."""
        items = list(items)
        return [
            result
            for first in range(0, len(items), self.size)
            for result in self._together(function, items[first : first + self.size])
        ]

    def _together(self, function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        def call(position: int, item: Any) -> Any:
            answer: SimpleQueue[float] = SimpleQueue()
            self._mine.call = position, answer
            try:
                return function(item)
            finally:
                self._requests.put(_Request(position, None, answer))

        futures = [self._threads.submit(call, position, item) for position, item in enumerate(items)]
        running, waiting = len(items), list[_Request]()
        while running:
            request = self._requests.get()
            if request.point is None:
                running -= 1
            else:
                waiting.append(request)
            if waiting and len(waiting) == running:
                self._answer(sorted(waiting, key=lambda each: each.position))
                waiting = []
        return [future.result() for future in futures]

    def _answer(self, waiting: list[_Request]) -> None:
        tick()
        self.num_calls += len(waiting)
        values = np.full(len(waiting), math.nan)
        try:
            values = self.log_likelihood(np.stack([each.point for each in waiting if each.point is not None]))
        finally:  # Threads left waiting for an answer would never end.
            for each, value in zip(waiting, values, strict=True):
                each.answer.put(float(value))
