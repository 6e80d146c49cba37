"""Ahead-of-time compilation of pure tensor functions, loops included, to machine code that outlives the process.

PyTorch's ahead-of-time Inductor writes a graph as a shared library: calling it runs no Python, and a second process finds
it on disk under a digest of the graph.
"""

import hashlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._higher_order_ops.while_loop import while_loop_op
from torch._inductor import aot_compile, config
from torch._inductor.cpu_vec_isa import pick_vec_isa
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import is_fake
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from probmodel.protocols.errors import CompilingWarning, warn
from probmodel.tracing.error_messages import raise_time_out
from probmodel.tracing.programs.code_folder import check_own_file, code_folder, compiler_in
from probmodel.tracing.programs.graphs import graph_modules, half_precision
from probmodel.tracing.programs.rounding_errors import perturbed, relative_error, tolerance
from probmodel.tracing.programs.stochastic_arithmetic import with_rounding_errors

OPTIONS: dict[str, Any] = {
    # PyTorch's own generator: compiled and uncompiled runs draw the same numbers from the same seed.
    "fallback_random": True,
    # The processor's own list of its instructions suffices; compiling a test of each takes ten seconds.
    "cpp.vec_isa_ok": True,
}

CUDA_GRAPH_CALLS = 2
"""Calls before a CUDA graph is checked: the first warms up, the second records, and all later calls are replays."""

BUILD_SECONDS = 20.0
"""Time to compile one graph on a small machine, in seconds."""

LOAD_SECONDS = 2.0
"""Time to load a compiled graph, in seconds; most of it is the tracing that identifies the graph."""

Tensors = tuple[Tensor, ...]


def repeat(
    count: Tensor, body: Callable[..., Tensors], state: Sequence[Tensor], constants: Sequence[Tensor] = ()
) -> Tensors:
    """State after `body(i, *state, *constants) → state` for i = 0 … count − 1; one loop of machine code where compiled.

    Args:
        count: number of repetitions, an integer tensor.
        body: pure function whose results have the shapes and dtypes of the state.
        state: initial tensors, which every repetition replaces.
        constants: all other tensors that the body reads.
    """
    if not any(map(is_fake, (count, *state))):  # A fake mode alone is no sign: recorders of real tensors set one too.
        for i in range(int(count)):
            state = body(torch.tensor(i, device=count.device), *state, *constants)
        return tuple(state)
    size = len(state)

    def unfinished(i: Tensor, *tensors: Tensor) -> Tensor:
        return i < tensors[size]

    def once(i: Tensor, *tensors: Tensor) -> Tensors:
        changed = body(i, *tensors[:size], *tensors[size + 1 :])
        return (i + 1, *_owned(changed, (i, *tensors)))

    carried = (torch.zeros_like(count), *(tensor.clone() for tensor in state))  # A loop takes no views.
    return tuple(while_loop_op(unfinished, once, carried, (count, *constants)))[1 : 1 + size]  # type: ignore[arg-type]


def _owned(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensors:
    """The outputs, copied where they are inputs or occur twice, since the results of a loop may not share memory."""
    seen, owned = {id(tensor) for tensor in inputs}, []
    for tensor in outputs:
        owned.append(tensor.clone() if id(tensor) in seen or tensor._is_view() else tensor)
        seen.add(id(tensor))
    return tuple(owned)


class Native:
    """A function of tensors, compiled ahead of time for the shapes, dtypes and device of its examples.

    Calling it before `compile` runs the function itself; the results are the same up to rounding errors.

    Args:
        function: tensors → tensors; it reads no tensor from outside.
        examples: tensors of the shapes, dtypes and device of later calls.
        threads: number of threads of the compiled code; None takes PyTorch's. Waking a second thread costs more than a
            small kernel.
        in_place: number of leading arguments that the function changes; on a CPU only.
        parts: results → the quantities in them, each compared with the tolerance of its own conditioning; None where the
            results are these quantities.
    """

    def __init__(
        self,
        function: Callable[..., Tensors],
        examples: Sequence[Tensor],
        threads: int | None = None,
        in_place: int = 0,
        parts: Callable[[Tensors], Tensors] | None = None,
    ) -> None:
        self.function, self.parts = function, parts
        self.options = OPTIONS if threads is None else {**OPTIONS, "cpp.threads": threads}
        self.examples = tuple(examples)
        self.in_place = in_place
        self.graph: GraphModule | None = None
        self.mode = FakeTensorMode(shape_env=ShapeEnv())
        self.run: Callable[..., Sequence[Tensor]] = function
        self.refused = False

    def __call__(self, *tensors: Tensor) -> Tensors:
        with torch.no_grad():
            return tuple(self.run(*tensors))

    @property
    def compiled(self) -> bool:
        """True where calls run machine code."""
        return self.run is not self.function

    @cached_property
    def path(self) -> Path:
        """Path of the library for this graph, these shapes, this processor and this version of PyTorch."""
        graph, described = self._traced(), list[str]()
        for module in graph_modules(graph):
            described += [module.code, *_captured(module)]
        described += [f"{t.dtype} {tuple(t.shape)} {t.stride()} {t.device}" for t in self.examples]
        described += [
            torch.__version__,
            _instructions(),
            str(torch.get_num_threads()),
            str(sorted(self.options.items())),
        ]
        name = hashlib.sha256("\n".join(described).encode()).hexdigest()
        return code_folder() / name[:2] / f"{name[2:34]}.so"

    def on_disk(self) -> bool:
        """Return whether it is compiled already, by this process or an earlier one; False after a failure to compile."""
        if self.refused or self.compiled or self.examples[0].device.type != "cpu":
            return self.compiled
        try:
            return self.path.exists()
        except Exception as error:  # noqa: BLE001 - any failure of tracing without values has the same remedy
            raise_time_out(error)
            self._refuse(str(error).strip().split("\n")[0])
            return False

    def compile(self) -> None:
        """Compile, or load what an earlier process has compiled.

        Warns:
            CompilingWarning: where compiling fails or the results differ; calls then run the function itself.
        """
        if self.compiled or self.refused:
            return None
        try:
            with compiler_in(self.path.parents[1]):
                run = self._cuda_graph() if self.examples[0].device.type == "cuda" else self._library()
                if self.examples[0].device.type == "cuda":
                    for _ in range(CUDA_GRAPH_CALLS):
                        self._once(run, self.examples)
                expected, got = (self._once(each, self.examples) for each in (self.function, run))
        except Exception as error:  # noqa: BLE001 - any failure of the compiler has the same remedy
            raise_time_out(error)
            return self._refuse(str(error).strip().split("\n")[0])
        worst = relative_error(
            expected,
            got,
            lambda seed: self._once(with_rounding_errors(self._traced(), seed), perturbed(self.examples, seed)),
            tolerance(half_precision(self._traced())),
        )
        if worst > 1:
            if self.examples[0].device.type == "cpu":
                self.path.unlink(missing_ok=True)
            return self._refuse(f"its results differ by {worst:.1e} times more than rounding explains")
        self.run, self.examples, self.graph = run, (), None
        return None

    def _once(self, run: Callable[..., Sequence[Tensor]], examples: Sequence[Tensor]) -> Tensors:
        """Results under one seed, followed by copies of the tensors that the function changes in place."""
        changed = [tensor.clone() for tensor in examples[: self.in_place]]
        with torch.no_grad(), torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(1)
            results = (*run(*changed, *examples[self.in_place :]), *changed)
            return results if self.parts is None else self.parts(results)

    def _refuse(self, reason: str) -> None:
        self.refused, self.examples, self.graph = True, (), None
        warn(f"a graph runs uncompiled, which is slower: {reason}", CompilingWarning)

    def _library(self) -> Callable[..., Sequence[Tensor]]:
        path = self.path
        if not path.exists():
            _build(self._traced(), self.examples, path, self.mode, self.options)
        try:
            runner = _runner(str(path))
        except RuntimeError as error:  # The file of an interrupted build or of another machine.
            raise_time_out(error)
            path.unlink(missing_ok=True)
            _build(self._traced(), self.examples, path, self.mode, self.options)
            runner = _runner(str(path))
        return lambda *tensors: runner(list(tensors))

    def _cuda_graph(self) -> Callable[..., Sequence[Tensor]]:
        options: dict[str, Any] = {"triton.cudagraphs": True, "fallback_random": OPTIONS["fallback_random"]}
        compiled = torch.compile(self._traced(), fullgraph=True, dynamic=False, options=options)
        # A CUDA graph overwrites its results at the next call.
        return lambda *tensors: [result.clone() for result in compiled(*tensors)]

    def _traced(self) -> GraphModule:
        if self.graph is None:
            with tracing(TracingContext(self.mode)), self.mode, torch.no_grad():
                # One fake tensor per example, also where a tensor is passed twice: later calls may pass two.
                fakes = [
                    torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device) for t in self.examples
                ]
                graph = make_fx(self.function)(*fakes)
            graph.graph.eliminate_dead_code()
            graph.recompile()
            self.graph = graph
        return self.graph


class CompilationPlan(NamedTuple):
    """Decision whether to compile, and its reason."""

    compile: bool
    reason: str


def plan(saving: float, on_disk: Callable[[], bool]) -> CompilationPlan:
    """Plan to compile where that saves more time than building or loading the library takes.

    Args:
        saving: time that compiled code saves, in seconds.
        on_disk: returns whether an earlier process has compiled the graph.
    """
    if saving > BUILD_SECONDS:
        return CompilationPlan(True, f"it saves about {saving:.0f} s")
    if saving > LOAD_SECONDS and on_disk():
        return CompilationPlan(True, "an earlier run has compiled it")
    return CompilationPlan(False, f"compiling would save about {saving:.1f} s and take {BUILD_SECONDS:.0f}")


@lru_cache
def _instructions() -> str:
    """Name of the vector instructions that compiled code uses on this processor."""
    with config.patch("cpp.vec_isa_ok", True):
        return str(pick_vec_isa())


def _captured(module: GraphModule) -> Iterator[str]:
    """Descriptions of the tensors inside a graph with their values, since its code holds only their names."""
    for node in module.graph.nodes:
        value = attrgetter(str(node.target))(module) if node.op == "get_attr" else None
        if torch.is_tensor(value):
            yield f"{node.target} {value.dtype} {tuple(value.shape)} {value.tolist()}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without Inductor's messages about each operator that it leaves to PyTorch's library."""
    logger = logging.getLogger("torch._inductor.ir")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _build(graph: GraphModule, examples: Tensors, path: Path, mode: FakeTensorMode, options: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        with tracing(TracingContext(mode)), torch.no_grad():
            built = aot_compile(graph, examples, options={**options, "aot_inductor.output_path": f"{folder}/graph.so"})
        for calls in Path(folder).glob("*.wrapper.json"):  # Operators that PyTorch's own library runs.
            os.replace(calls, path.with_suffix(".json"))
        os.replace(str(built), path)  # Atomic, so that other processes find the whole library or none.


@lru_cache(maxsize=64)
def _runner(path: str) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    check_own_file(Path(path))
    return torch._C._aoti.AOTIModelContainerRunnerCpu(path, 1).run
