"""Run a graph in an inference engine: uint8 cells in; logits, embedding and activation maps out.

OpenVINO is the default; ONNX Runtime is optional and runs the same file. Both compute in float32 unless bfloat16 is
set, independent of the precision of the stored weights.
"""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np

from leukoscope.core.errors import EngineError, UsageError
from leukoscope.core.places import expand_user, user_folder
from leukoscope.models.engines import (
    INPUT_NAME,
    OUTPUT_NAMES,
    Backend,
    Cells,
    ForwardResult,
    OnnxRuntimeBackend,
    OpenVinoBackend,
    Ports,
    check_graph,
    with_two_logits,
)
from leukoscope.models.graph_streams import OpenVinoGraphs

__all__ = [
    "ENGINES",
    "INPUT_NAME",
    "OUTPUT_NAMES",
    "PRECISIONS",
    "ForwardResult",
    "OpenVinoGraphs",
    "Pending",
    "Session",
]

Engine = Literal["openvino", "onnxruntime", "onnxruntime-cuda"]
Precision = Literal["f32", "bf16"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
CACHE_VARIABLE = "LEUKOSCOPE_CACHE"
CACHE_OFF = "off"
CACHED_MODELS = 8
"""Compiled models that are kept, the newest ones: one is about 45 MB, and every bundle and precision has its own."""


class Pending(Protocol):
    """A forward pass that has been started.

    Attributes
    ----------
    seconds
        Time of the pass itself, without waiting for a thread or for the caller; known once there is a result.
    """

    seconds: float

    def result(self) -> ForwardResult:
        """Wait for the answer and return it; to be called once."""
        ...


class _TimedPass:
    """A forward pass in a thread of the engine."""

    def __init__(
        self, executor: ThreadPoolExecutor, run: Callable[[Cells], ForwardResult], cells: Cells
    ) -> None:
        self.seconds = 0.0
        self._future = executor.submit(self._run, run, cells)

    def _run(self, run: Callable[[Cells], ForwardResult], cells: Cells) -> ForwardResult:
        began = time.perf_counter()
        answer = with_two_logits(run(cells))
        self.seconds = time.perf_counter() - began
        return answer

    def result(self) -> ForwardResult:
        return self._future.result()


class Session:
    """A compiled model. Safe to use from several threads.

    Parameters
    ----------
    model
        Path of an ONNX file, or its bytes.
    engine
        ``openvino``, ``onnxruntime`` (CPU) or ``onnxruntime-cuda``.
    threads
        >= 1; the number of cores this process may use where it is None.
    precision
        ``bf16`` only where the processor has it: faster, and probabilities move in the second or third digit.
    cache_directory
        Where OpenVINO keeps compiled models; None takes ``default_cache_directory()``. A folder that cannot be
        written costs time, not the answer. A model given as bytes is not kept.
    streaming
        Compile for many cells from the beginning: one thread works on one cell. Without it a single cell gets every
        thread, and the form for many cells is compiled when it is first needed, which takes its own memory.

    Raises
    ------
    UsageError
        Unknown engine or precision, threads below 1, an engine that is not installed.
    EngineError
        The model cannot be compiled, has no uint8 input ``cells`` (N, S, S, 3) or not the three outputs; or the
        processor does not support the setting.
    """

    def __init__(
        self,
        model: Path | bytes,
        *,
        engine: str = "openvino",
        threads: int | None = None,
        precision: str = "f32",
        cache_directory: Path | None = None,
        streaming: bool = False,
    ) -> None:
        if engine not in ENGINES:
            raise UsageError(f"engine {engine!r}: expected one of {', '.join(ENGINES)}")
        if precision not in PRECISIONS:
            raise UsageError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
        if threads is not None and threads < 1:
            raise UsageError(f"threads = {threads}: expected at least 1, or leave it out to use every core")
        self.engine = engine
        self.streaming = streaming
        self.precision = precision
        self.threads = threads or usable_cores()
        if engine == "openvino":
            cache = default_cache_directory() if cache_directory is None else cache_directory
            if isinstance(model, bytes) or cache is None or not _is_writable(cache):
                cache = None
            else:
                _prune(cache)
            self._backend: Backend = OpenVinoBackend(
                model, self.threads, precision, cache, streaming=streaming
            )
        else:
            if precision != "f32":
                raise UsageError("precision bf16 needs the engine openvino; leave out one of the two options")
            self._backend = OnnxRuntimeBackend(model, self.threads, cuda=engine == "onnxruntime-cuda")
        self.input_px = check_graph(self._backend.inputs, self._backend.outputs)
        self._executor: ThreadPoolExecutor | None = None
        self._executor_lock = threading.Lock()

    @property
    def inputs(self) -> Ports:
        """Name -> (dtype, shape) of the graph's inputs; None means a dynamic axis."""
        return self._backend.inputs

    @property
    def outputs(self) -> Ports:
        """Name -> (dtype, shape) of the graph's outputs; None means a dynamic axis."""
        return self._backend.outputs

    @property
    def in_flight(self) -> int:
        """Number of started passes that keep the engine busy; more would only wait."""
        return self._backend.workers + 1

    def description(self) -> dict[str, str | int]:
        """Return engine, version, device, precision and threads as plain data, for reports."""
        return {
            "engine": self.engine,
            "version": self._backend.version,
            "device": self._backend.device,
            "precision": self.precision,
            "threads": self.threads,
        }

    def run(self, cells: Cells) -> ForwardResult:
        """Classify a batch.

        Parameters
        ----------
        cells
            uint8 (N, S, S, 3), N >= 1, from ``prepare_cell``.

        Raises
        ------
        EngineError
            Wrong dtype or shape, or the engine failed.
        """
        self._check_cells(cells)
        cells = _for_engine(cells)
        if self._backend.takes_batches or (len(cells) == 1 and not self.streaming):
            return with_two_logits(self._backend.run_alone(cells))
        started = [self.start(cells[index : index + 1]) for index in range(len(cells))]
        parts = [pending.result() for pending in started]
        return ForwardResult(*map(np.concatenate, zip(*parts, strict=True)))

    def start(self, cells: Cells) -> Pending:
        """Start a forward pass in a thread of the engine and return at once.

        Meant for one cell a call: with as many calls open as ``in_flight`` every core is busy while the caller
        decodes the next image, and a cell's numbers do not depend on its neighbors in a batch. Parameters and
        errors are those of ``run``; errors of the engine are raised by ``result()``.
        """
        self._check_cells(cells)
        with self._executor_lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._backend.workers, thread_name_prefix="leukoscope")
        return _TimedPass(self._executor, self._backend.run_in_worker, _for_engine(cells))

    def _check_cells(self, cells: Cells) -> None:
        expected = (self.input_px, self.input_px, 3)
        if cells.dtype != np.uint8 or cells.ndim != 4 or not len(cells) or cells.shape[1:] != expected:
            raise EngineError(
                f"cells of {cells.dtype} {cells.shape}: expected uint8 (N, {', '.join(map(str, expected))}), "
                "as prepare_cell makes them"
            )


def _for_engine(cells: Cells) -> Cells:
    """Return an array whose memory an engine may share: contiguous and writable, a copy where it is not."""
    return np.require(cells, requirements=["C", "W"])


def usable_cores() -> int:
    """Return the number of cores this process may use, >= 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def default_cache_directory() -> Path | None:
    """Return where compiled models are kept: ``$LEUKOSCOPE_CACHE``, else the user's cache folder; None for ``off``."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return None if named.lower() == CACHE_OFF else expand_user(named)
    return user_folder("cache")


def _is_writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)


def _prune(directory: Path) -> None:
    """Delete the oldest compiled models where there are too many; one that is in use stays readable on POSIX."""
    try:
        models = sorted(directory.glob("*.blob"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in models[CACHED_MODELS:]:
            path.unlink()
    except (
        OSError
    ):  # another process was faster, or the system keeps a file that is open: the next start tries again
        pass
