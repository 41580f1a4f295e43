"""The one door to the inference engines: uint8 cells in; logit, embedding and activation map out.

OpenVINO is the default; ONNX Runtime is optional and runs the same file. Both compute in float32 unless bfloat16 is
asked for, whatever the precision the weights are stored in.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from leukoscope.errors import EngineError, UsageError

Engine = Literal["openvino", "onnxruntime", "onnxruntime-cuda"]
Precision = Literal["f32", "bf16"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
INPUT_NAME = "cells"
OUTPUT_NAMES = ("logits", "embedding", "activation_map")
CACHE_VARIABLE = "LEUKOSCOPE_CACHE"
CACHE_OFF = "off"

Cells = NDArray[np.uint8]
Floats = NDArray[np.float32]


class ForwardResult(NamedTuple):
    """What the network says about N cells.

    Attributes
    ----------
    logits : float32 (N, K)
    embedding : float32 (N, D)
    activation_map : float32 (N, K, h, w), >= 0, not normalised
    """

    logits: Floats
    embedding: Floats
    activation_map: Floats


class Pending(Protocol):
    """A forward pass that has been started."""

    def result(self) -> ForwardResult:
        """Wait for the answer and return it; to be called once."""
        ...


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
        written costs time, not the answer.

    Raises
    ------
    UsageError
        Unknown engine or precision, threads below 1, an engine that is not installed.
    EngineError
        The model cannot be compiled, has no uint8 input ``cells`` (N, S, S, 3) or not the three outputs; or the
        processor lacks what was asked for.
    """

    def __init__(
        self,
        model: Path | bytes,
        *,
        engine: str = "openvino",
        threads: int | None = None,
        precision: str = "f32",
        cache_directory: Path | None = None,
    ) -> None:
        if engine not in ENGINES:
            raise UsageError(f"engine {engine!r}: expected one of {', '.join(ENGINES)}")
        if precision not in PRECISIONS:
            raise UsageError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
        if threads is not None and threads < 1:
            raise UsageError(f"threads = {threads}: expected at least 1, or leave it out to use every core")
        self.engine = engine
        self.precision = precision
        self.threads = threads or usable_cores()
        if engine == "openvino":
            cache = default_cache_directory() if cache_directory is None else cache_directory
            self._backend: _Backend = _OpenVino(model, self.threads, precision, cache)
        else:
            if precision != "f32":
                raise UsageError("precision bf16 needs the engine openvino; leave out one of the two options")
            self._backend = _OnnxRuntime(model, self.threads, cuda=engine == "onnxruntime-cuda")
        self.input_px = _check_graph(self._backend.inputs, self._backend.outputs)
        self._executor: Any = None
        self._executor_lock = threading.Lock()

    @property
    def inputs(self) -> dict[str, tuple[str, tuple[int | None, ...]]]:
        """Name -> (dtype, shape) of the graph's inputs; None stands for a dynamic axis."""
        return self._backend.inputs

    @property
    def outputs(self) -> dict[str, tuple[str, tuple[int | None, ...]]]:
        """Name -> (dtype, shape) of the graph's outputs; None stands for a dynamic axis."""
        return self._backend.outputs

    @property
    def in_flight(self) -> int:
        """How many started passes keep the engine busy; more would only wait."""
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
        """Judge a batch.

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
        cells = np.ascontiguousarray(cells)
        if len(cells) == 1 or self._backend.workers == 1:
            return self._backend.run_alone(cells)
        started = [self.start(cells[index : index + 1]) for index in range(len(cells))]
        parts = [pending.result() for pending in started]
        return ForwardResult(*map(np.concatenate, zip(*parts, strict=True)))

    def start(self, cells: Cells) -> Pending:
        """Start a forward pass in a thread of the engine and return at once.

        Meant for one cell a call: with as many calls open as ``in_flight`` every core is busy while the caller
        decodes the next image, and a cell's numbers do not depend on its neighbours in a batch. Parameters and
        errors are those of ``run``; errors of the engine come out of ``result()``.
        """
        self._check_cells(cells)
        with self._executor_lock:
            if self._executor is None:
                from concurrent.futures import ThreadPoolExecutor

                self._executor = ThreadPoolExecutor(self._backend.workers, thread_name_prefix="leukoscope")
        pending: Pending = self._executor.submit(self._backend.run_in_worker, np.ascontiguousarray(cells))
        return pending

    def _check_cells(self, cells: Cells) -> None:
        expected = (self.input_px, self.input_px, 3)
        if cells.dtype != np.uint8 or cells.ndim != 4 or not len(cells) or cells.shape[1:] != expected:
            raise EngineError(
                f"cells of {cells.dtype} {cells.shape}: expected uint8 (N, {', '.join(map(str, expected))}), "
                "as prepare_cell makes them"
            )


class _Backend(Protocol):
    inputs: dict[str, tuple[str, tuple[int | None, ...]]]
    outputs: dict[str, tuple[str, tuple[int | None, ...]]]
    version: str
    device: str
    workers: int

    def run_alone(self, cells: Cells) -> ForwardResult:
        """Run one batch with every core."""
        ...

    def run_in_worker(self, cells: Cells) -> ForwardResult:
        """Run one batch in one of ``workers`` threads."""
        ...


class _OpenVino:
    """Two compilations of one model: every thread on one request, and one stream a thread for many requests.

    The second is made when it is first needed: a single image never pays for it.
    """

    def __init__(self, model: Path | bytes, threads: int, precision: str, cache: Path | None) -> None:
        openvino = _import_openvino()
        self._core = openvino.Core()
        self._new_tensor = openvino.Tensor
        self._model = model
        self._settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
        }
        if precision == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineError("precision bf16: this processor computes no bfloat16; use --precision f32")
        if cache is not None and _is_writable(cache):
            self._settings["CACHE_DIR"] = str(cache)
        self._lock = threading.Lock()
        self._streams: Any = None
        self._local = threading.local()
        alone = self._compile({"PERFORMANCE_HINT": "LATENCY"})
        self._request = alone.create_infer_request()
        self._request_lock = threading.Lock()
        self.inputs = {_name(port): _describe_port(port) for port in alone.inputs}
        self.outputs = {_name(port): _describe_port(port) for port in alone.outputs}
        self.version = str(openvino.get_version()).partition("-")[0]
        self.device = str(self._core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
        self.workers = threads

    def run_alone(self, cells: Cells) -> ForwardResult:
        with self._request_lock:
            return self._infer(self._request, cells)

    def run_in_worker(self, cells: Cells) -> ForwardResult:
        if not hasattr(self._local, "request"):
            with self._lock:
                if self._streams is None:
                    self._streams = self._compile(
                        {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": self.workers}
                    )
                self._local.request = self._streams.create_infer_request()
        return self._infer(self._local.request, cells)

    def _infer(self, request: Any, cells: Cells) -> ForwardResult:
        try:
            request.set_input_tensor(self._new_tensor(cells, shared_memory=True))
            request.infer()
            return ForwardResult(*(request.get_tensor(name).data.copy() for name in OUTPUT_NAMES))
        except RuntimeError as error:
            raise _engine_failed(error) from None

    def _compile(self, hints: dict[str, Any]) -> Any:
        settings = {**self._settings, **hints}
        try:
            if isinstance(self._model, bytes):
                return self._core.compile_model(self._core.read_model(self._model), "CPU", settings)
            return self._core.compile_model(str(self._model), "CPU", settings)
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO cannot compile the model: {_last_line(error)}; run `leukoscope bundle verify`"
            ) from None


class _OnnxRuntime:
    """ONNX Runtime: whole batches on the CPU's threads or on a CUDA device."""

    def __init__(self, model: Path | bytes, threads: int, *, cuda: bool) -> None:
        try:
            import onnxruntime
        except ImportError:
            extra = "onnxruntime-gpu" if cuda else "leukoscope[onnxruntime]"
            raise UsageError(
                f'the engine is not installed; run pip install "{extra}", or use --engine openvino'
            ) from None
        onnxruntime.disable_telemetry_events()
        wanted = "CUDAExecutionProvider" if cuda else "CPUExecutionProvider"
        if wanted not in onnxruntime.get_available_providers():
            raise EngineError(
                f"ONNX Runtime {onnxruntime.__version__} has no {wanted}; "
                "install onnxruntime-gpu, or use --engine onnxruntime"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        content = model if isinstance(model, bytes) else str(model)
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=[wanted])
        except Exception as error:  # the engine's exceptions have no common base but Exception
            raise EngineError(
                f"ONNX Runtime cannot load the model: {_last_line(error)}; run `leukoscope bundle verify`"
            ) from None
        if self._session.get_providers()[0] != wanted:
            raise EngineError(
                f"{wanted} did not start; check driver and CUDA version, or use --engine onnxruntime"
            )
        self.inputs = {node.name: _describe_node(node) for node in self._session.get_inputs()}
        self.outputs = {node.name: _describe_node(node) for node in self._session.get_outputs()}
        self.version = str(onnxruntime.__version__)
        self.device = "CUDA" if cuda else "CPU"
        self.workers = 1

    def run_alone(self, cells: Cells) -> ForwardResult:
        try:
            return ForwardResult(*self._session.run(OUTPUT_NAMES, {INPUT_NAME: cells}))
        except Exception as error:
            raise _engine_failed(error) from None

    run_in_worker = run_alone


def usable_cores() -> int:
    """Return the number of cores this process may use, >= 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def default_cache_directory() -> Path | None:
    """Return where compiled models are kept: ``$LEUKOSCOPE_CACHE``, else the user's cache folder; None for ``off``."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return None if named.lower() == CACHE_OFF else Path(named)
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "leukoscope"
    except RuntimeError:  # no home folder
        return None


@contextmanager
def _without_converter() -> Iterator[None]:
    """Keep ``import openvino`` from loading its model converter.

    The converter reports its import to a telemetry server and takes as long to load as all the rest; only ONNX files
    are read here. OpenVINO itself treats a missing converter as normal.
    """
    name = "openvino.tools.ovc"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # makes the import raise ImportError
    try:
        yield
    finally:
        del sys.modules[name]


def _import_openvino() -> Any:
    with _without_converter():
        try:
            import openvino
        except ImportError as error:
            raise EngineError(f"OpenVINO cannot be loaded ({error}); reinstall leukoscope") from None
    return openvino


def _is_writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)


def _name(port: Any) -> str:
    """Return the graph's name of a port; the engine may have given it further names of inner tensors."""
    known = [name for name in (INPUT_NAME, *OUTPUT_NAMES) if name in port.names]
    return known[0] if known else str(port.any_name)


def _describe_port(port: Any) -> tuple[str, tuple[int | None, ...]]:
    dtype = {"u8": "uint8", "f32": "float32"}.get(port.element_type.get_type_name(), "other")
    return dtype, tuple(None if axis.is_dynamic else axis.get_length() for axis in port.partial_shape)


def _describe_node(node: Any) -> tuple[str, tuple[int | None, ...]]:
    dtype = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}.get(node.type, "other")
    return dtype, tuple(axis if isinstance(axis, int) else None for axis in node.shape)


def _check_graph(
    inputs: dict[str, tuple[str, tuple[int | None, ...]]],
    outputs: dict[str, tuple[str, tuple[int | None, ...]]],
) -> int:
    """Return the input's side, or raise where the graph is not a leukoscope graph."""
    dtype, shape = inputs.get(INPUT_NAME, ("missing", ()))
    side = shape[1] if len(shape) == 4 else None
    if len(inputs) != 1 or dtype != "uint8" or side is None or shape[2:] != (side, 3):
        raise EngineError(f"the graph's input is {inputs}: expected {INPUT_NAME!r} uint8 (N, S, S, 3)")
    ranks = dict(zip(OUTPUT_NAMES, (2, 2, 4), strict=True))
    found = {name: len(shape) for name, (dtype, shape) in outputs.items() if dtype == "float32"}
    if found != ranks:
        raise EngineError(f"the graph's outputs are {outputs}: expected float32 {', '.join(OUTPUT_NAMES)}")
    return side


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _engine_failed(error: Exception) -> EngineError:
    return EngineError(
        f"the engine failed: {_last_line(error)}; run `leukoscope bundle verify` on the bundle"
    )
