"""Nested sampling of the evidence (Skilling, 2006) by dynesty (Speagle, 2020), from a repartitioned prior."""

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

from probmodel.evidence.harmonic import Matched, matched
from probmodel.evidence.weighing.starting_draws import posterior_draws
from probmodel.evidence.weighing.weights import plain
from probmodel.protocols.errors import EvidenceWarning
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject, Target
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target_of

try:
    import dynesty

    HAS_DYNESTY = True
except ImportError:
    HAS_DYNESTY = False

DEGREES_OF_FREEDOM = 3.0
"""Tails of the base density: heavier than a posterior's, so that the likelihood against it has a maximum."""
WIDTH = 1.5
"""Scale of the base density against the posterior's standard deviations."""
LOWEST = -1e300
"""What dynesty takes for a likelihood of zero."""
EDGE = 1e-12
"""Nearest to the faces of the unit cube: the quantiles there are infinite, and the mass beyond is nothing."""
WALKED = 20
"""Coordinates up to which live points are renewed by random walks, and beyond by slices (dynesty's own border)."""
BATCH_FRACTION = 8
"""Live points for each point evaluated at once: proposals made together are against one threshold, which meanwhile rises."""


def nested(
    subject: Subject, *, seed: int = 0, num_live: int = 500, tolerance: float = 0.01, max_calls: int = 5_000_000
) -> Evidence:
    """Log ∫ exp(log p(data, θ) − log b(θ)) db(θ) by shrinking b around the best of `num_live` points, in nats.

    The base b takes the prior's place in the unit cube, which leaves the integral as it is (posterior repartitioning,
    Chen et al., 2018): independent Student-t with 3 degrees of freedom in coordinates whitened by posterior draws, 1.5
    times as wide.  The draws set the speed and the error, not the value: b covers R^D whatever they are.

    Args:
        subject: posterior, or target.
        seed: of the live points, and of the draws of a bare target.
        num_live: live points.
        tolerance: stops where the live points could add no more than this, nats.
        max_calls: evaluations of the log joint after which it stops in any case.

    Returns:
        Evidence with the error √(H / num_live) of Skilling (2006); `info` holds H, the evaluations `ncall`, `seconds`
        and `nlive`.

    Raises:
        ImportError: without the package dynesty.
        ValueError: for fewer live points than twice the coordinates.
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
    base = matched(posterior_draws(subject, seed).detach())
    base = base._replace(scale_tril=WIDTH * base.scale_tril)
    with isolated(seed), torch.no_grad(), _LockStep(_likelihood(target, base), num_live // BATCH_FRACTION or 1) as pool:
        found = _run(pool, target.dim, num_live, tolerance, max_calls, seed)
    if pool.num_calls >= max_calls:
        warnings.warn(
            f"nested: stopped at {pool.num_calls} evaluations before the tolerance of {tolerance} nats; raise max_calls, or "
            "draw from the posterior first",
            EvidenceWarning,
            stacklevel=2,
        )
    info = {"ncall": pool.num_calls, "seconds": time.perf_counter() - start, "nlive": num_live, "H": found.information}
    return Evidence(found.log_z, found.stderr, method="nested", given=target.given, digest=target.digest, info=info)


class _Found(NamedTuple):
    log_z: float
    stderr: float
    information: float


def _run(pool: "_LockStep", dim: int, num_live: int, tolerance: float, max_calls: int, seed: int) -> _Found:
    sampler = dynesty.NestedSampler(
        pool.evaluate,
        lambda cube: stdtrit(DEGREES_OF_FREEDOM, cube.clip(EDGE, 1 - EDGE)),
        dim,
        nlive=num_live,
        # Uniform draws from ellipsoids leave out parts of many modes, and the bootstrap that guards against it never ends.
        sample="rwalk" if dim <= WALKED else "rslice",
        rstate=np.random.default_rng(seed),
        pool=pool,
        queue_size=pool.size,
        # Only the likelihood costs anything; the rest would be slower through threads.
        use_pool={"prior_transform": False, "update_bound": False},
    )
    with warnings.catch_warnings():
        # Said by `nested` itself, with what to do about it.
        warnings.filterwarnings("ignore", message="The sampling was stopped short")
        sampler.run_nested(dlogz=tolerance, maxcall=max_calls, print_progress=False)
    results = sampler.results
    return _Found(float(results.logz[-1]), float(results.logzerr[-1]), float(results.information[-1]))


def _likelihood(target: Target, base: Matched) -> Callable[[Float[np.ndarray, "S D"]], Float[np.ndarray, " S"]]:
    """Log p(data, θ) − log b(θ) of whitened points; what is not a number has no weight."""
    student, log_det = StudentT(base.loc.new_tensor(DEGREES_OF_FREEDOM)), base.log_det()

    def log_likelihood(points: Float[np.ndarray, "S D"]) -> Float[np.ndarray, " S"]:
        z = torch.as_tensor(points, dtype=target.dtype, device=target.device)
        log_b = student.log_prob(z).sum(-1) - log_det
        values = (target.log_joint(base(z)) - log_b).double().cpu().numpy()
        return np.nan_to_num(values, nan=LOWEST, neginf=LOWEST).clip(LOWEST)

    return log_likelihood


class _Request(NamedTuple):
    """What a thread of the pool says: a point to evaluate and where to put the answer, or that it ended."""

    position: int
    point: np.ndarray | None
    answer: "SimpleQueue[float]"


class _LockStep:
    """A pool for dynesty whose calls run side by side and have their points evaluated together.

    Each call of `map` runs in a thread until it asks for a likelihood; once all of them wait, one batch answers them.
    Batches depend on nothing but the calls, so a seed still says everything.
    """

    def __init__(self, log_likelihood: Callable[[np.ndarray], np.ndarray], size: int) -> None:
        self.log_likelihood, self.size = log_likelihood, size
        self.num_calls = 0
        self._threads = ThreadPoolExecutor(size)
        self._requests: SimpleQueue[_Request] = SimpleQueue()
        self._mine = threading.local()

    def __enter__(self) -> "_LockStep":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def evaluate(self, point: Float[np.ndarray, " D"]) -> float:
        """The log likelihood of one point, asked for inside a call of `map`."""
        position, answer = self._mine.call
        self._requests.put(_Request(position, point, answer))
        return answer.get()

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """`function` of each item, in order; as many at once as the pool is large."""
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
        self.num_calls += len(waiting)
        values = np.full(len(waiting), math.nan)
        try:
            values = self.log_likelihood(np.stack([each.point for each in waiting if each.point is not None]))
        finally:  # Threads left waiting for an answer would never end.
            for each, value in zip(waiting, values, strict=True):
                each.answer.put(float(value))
