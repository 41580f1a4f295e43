"""The two inference engines with a common interface; use them through ``session.py``."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import EngineError, UsageError

INPUT_NAME = "cells"
OUTPUT_NAMES = ("logits", "embedding", "activation_map")

Cells = NDArray[np.uint8]
Floats = NDArray[np.float32]
Ports = dict[str, tuple[str, tuple[int | None, ...]]]
"""Name -> (dtype, shape); None means a dynamic axis."""


class ForwardResult(NamedTuple):
    """Outputs of the network for N cells.

    Attributes
    ----------
    logits : float32 (N, K), K >= 2 where a session returns it
    embedding : float32 (N, D)
    activation_map : float32 (N, M, h, w), >= 0, not normalized; M is K, or 1 where a graph of one logit explains only
        its second class
    """

    logits: Floats
    embedding: Floats
    activation_map: Floats

    def map_of(self, row: int, member: int) -> Floats:
        """Return the map (h, w) of one class of one cell; where there is one map only, that one."""
        return np.asarray(self.activation_map[row, member if self.activation_map.shape[1] > 1 else 0])


def with_two_logits(forward: ForwardResult) -> ForwardResult:
    """Turn the one logit z of a binary graph, its log-odds, into the logits [0, z] of two classes.

    The softmax of these is the sigmoid of z, so that all later code needs only K >= 2 classes.
    """
    if forward.logits.shape[1] != 1:
        return forward
    return forward._replace(logits=np.concatenate([np.zeros_like(forward.logits), forward.logits], axis=1))


class Backend(Protocol):
    """An engine that holds a compiled model."""

    inputs: Ports
    outputs: Ports
    version: str
    device: str
    workers: int
    takes_batches: bool

    def run_alone(self, cells: Cells) -> ForwardResult:
        """Run one batch with every core."""
        ...

    def run_in_worker(self, cells: Cells) -> ForwardResult:
        """Run one batch in one of ``workers`` threads."""
        ...


class OpenVinoBackend:
    """Up to two compilations of one model, each made when it is first needed.

    Alone: every thread on one request; the batch stays dynamic, because that starts fastest from the cache. Streams:
    one thread and one request of a single cell each; with its fixed shape it needs the least memory.
    """

    takes_batches = False

    def __init__(
        self, model: Path | bytes, threads: int, precision: str, cache: Path | None, *, streaming: bool
    ) -> None:
        openvino = import_openvino()
        self._core = openvino.Core()
        self._new_tensor = openvino.Tensor
        self._model = model
        self._settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
        }
        if precision == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineError("precision bf16: this processor computes no bfloat16; use --precision f32")
        if cache is not None:
            self._settings["CACHE_DIR"] = str(cache)
        self.version = str(openvino.get_version()).partition("-")[0]
        self.device = str(self._core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
        self.workers = threads
        self.inputs: Ports = {}
        self.outputs: Ports = {}
        self._lock = threading.Lock()
        self._request_lock = threading.Lock()
        self._local = threading.local()
        self._alone: Any = None
        self._streams: Any = None
        if streaming:
            self._streams = self._compile_streams()
        else:
            self._alone = self._compile_alone()

    def run_alone(self, cells: Cells) -> ForwardResult:
        """Run one batch with every core."""
        with self._request_lock:
            if self._alone is None:
                self._alone = self._compile_alone()
            return self._infer(self._alone, cells)

    def run_in_worker(self, cells: Cells) -> ForwardResult:
        """Run one cell in a stream of the calling thread's own."""
        if not hasattr(self._local, "request"):
            with self._lock:
                if self._streams is None:
                    self._streams = self._compile_streams()
                self._local.request = self._streams.create_infer_request()
        return self._infer(self._local.request, cells)

    def _compile_alone(self) -> Any:
        """Return a request that uses every thread."""
        with compiling():
            settings = {**self._settings, "PERFORMANCE_HINT": "LATENCY"}
            if isinstance(self._model, bytes):
                compiled = self._core.compile_model(self._core.read_model(self._model), "CPU", settings)
            else:  # by its path the engine finds it in the cache without reading it
                compiled = self._core.compile_model(str(self._model), "CPU", settings)
        self._describe(compiled)
        return compiled.create_infer_request()

    def _compile_streams(self) -> Any:
        with compiling():
            model = self._core.read_model(self._model if isinstance(self._model, bytes) else str(self._model))
            self._describe(model)
            check_graph(self.inputs, self.outputs)
            model.reshape({INPUT_NAME: [1, *self.inputs[INPUT_NAME][1][1:]]})
            settings = {
                **self._settings,
                "PERFORMANCE_HINT": "THROUGHPUT",
                "NUM_STREAMS": self.workers,
            }
            return self._core.compile_model(model, "CPU", settings)

    def _describe(self, model: Any) -> None:
        self.inputs = {_name(port): _describe_port(port) for port in model.inputs}
        self.outputs = {_name(port): _describe_port(port) for port in model.outputs}

    def _infer(self, request: Any, cells: Cells) -> ForwardResult:
        try:
            request.set_input_tensor(self._new_tensor(cells, shared_memory=True))
            request.infer()
            return ForwardResult(*(request.get_tensor(name).data.copy() for name in OUTPUT_NAMES))
        except RuntimeError as error:
            raise engine_failed(error) from None


class OnnxRuntimeBackend:
    """ONNX Runtime: whole batches on the CPU's threads or on a CUDA device."""

    takes_batches = True

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
        """Run one batch with every core."""
        try:
            return ForwardResult(*self._session.run(OUTPUT_NAMES, {INPUT_NAME: cells}))
        except Exception as error:
            raise engine_failed(error) from None

    run_in_worker = run_alone


def check_graph(inputs: Ports, outputs: Ports) -> int:
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


def import_openvino() -> Any:
    """Return the module openvino, loaded without its model converter and telemetry."""
    with _without_converter():
        try:
            import openvino
        except ImportError as error:
            raise EngineError(f"OpenVINO cannot be loaded ({error}); reinstall leukoscope") from None
    return openvino


@contextmanager
def compiling() -> Iterator[None]:
    """Turn a failure of OpenVINO's compilation into an ``EngineError``."""
    try:
        yield
    except RuntimeError as error:
        raise EngineError(
            f"OpenVINO cannot compile the model: {_last_line(error)}; run `leukoscope bundle verify`"
        ) from None


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


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def engine_failed(error: Exception) -> EngineError:
    """Return the exception types of a failing compiled graph."""
    return EngineError(
        f"the engine failed: {_last_line(error)}; run `leukoscope bundle verify` on the bundle"
    )
