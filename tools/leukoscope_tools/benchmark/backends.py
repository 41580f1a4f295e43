"""Backends of ``benchmark predict``; each runs in a separate process: ``python -m`` this module, NAME."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope_tools.benchmark.worker import Backend, Timed, each, serve, time_call

STREAM_PASSES = 4
"""Skips the cells in a round where they are classified together, so that its end is a small part of it."""
RANDOM = "random weights, same architecture; cells prepared before"


@dataclass(frozen=True)
class Job:
    """What to measure with.

    Attributes
    ----------
    bundle
        Its folder.
    files
        One BMP a cell.
    prepared
        The same cells as the network takes them: a file of uint8 (N, S, S, 3).
    threads, architecture, input_px
        Of every backend.
    """

    bundle: str
    files: list[str]
    prepared: str
    threads: int
    architecture: str
    input_px: int

    def cells(self) -> NDArray[np.uint8]:
        """Return the prepared cells, uint8 (N, S, S, 3)."""
        cells: NDArray[np.uint8] = np.load(self.prepared)
        return cells


def _compile(job: Job, *, batch: int, map_too: bool = True, streams: int = 1) -> Any:
    from leukoscope.models.engines import import_openvino
    from leukoscope.models.files import MODEL

    openvino = import_openvino()
    core = openvino.Core()
    model = core.read_model(str(Path(job.bundle) / MODEL))
    model.reshape([batch, job.input_px, job.input_px, 3])
    if not map_too:
        kept = [
            result
            for result in model.get_results()
            if "activation_map" not in result.get_output_tensor(0).names
        ]
        model = openvino.Model(kept, model.get_parameters(), "without_map")
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": job.threads,
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "NUM_STREAMS": streams,
    }
    return openvino, core.compile_model(model, "CPU", settings)


def engine_single(job: Job) -> Backend:
    """One request, every thread."""
    openvino, compiled = _compile(job, batch=1)
    request = compiled.create_infer_request()
    tensors = [openvino.Tensor(np.ascontiguousarray(cell[None])) for cell in job.cells()]
    return Backend(each(lambda index: request.infer({0: tensors[index]})), len(tensors))


def engine_without_map(job: Job) -> Backend:
    """The same without the third output, and with it directly after: the cost of the map is smaller than noise."""
    openvino, compiled = _compile(job, batch=1, map_too=False)
    without, complete = (engine.create_infer_request() for engine in (compiled, _compile(job, batch=1)[1]))
    tensors = [openvino.Tensor(np.ascontiguousarray(cell[None])) for cell in job.cells()]
    ratios: list[float] = []

    def predict(indices: range) -> list[Timed]:
        times = []
        for index in indices:
            pair = (without, complete)[:: 1 if index % 2 else -1]  # neither is always the second
            measured = {request: time_call(request.infer, {0: tensors[index]}) for request in pair}
            ratios.append(measured[complete].wall_ms / measured[without].wall_ms)
            times.append(measured[without])
        return times

    return Backend(predict, len(tensors), map_ratios=ratios)


def engine_streams(job: Job) -> Backend:
    """The engine's own queue, one stream a thread."""
    openvino, compiled = _compile(job, batch=1, streams=job.threads)
    queue = openvino.AsyncInferQueue(compiled, 2 * job.threads)
    cells = [np.ascontiguousarray(cell[None]) for cell in job.cells()] * STREAM_PASSES

    def predict(indices: range) -> list[Timed]:
        for index in indices:
            queue.start_async({0: cells[index]})
        queue.wait_all()
        return []

    return Backend(predict, len(cells))


def _engine_batches(job: Job, size: int) -> Backend:
    _, compiled = _compile(job, batch=size)
    request = compiled.create_infer_request()
    cells = job.cells()
    cells = np.resize(cells, (-(-len(cells) // size) * size, *cells.shape[1:]))

    def predict(indices: range) -> list[Timed]:
        for start in indices[::size]:
            request.infer({0: cells[start : start + size]})
        return []

    return Backend(predict, len(cells))


def predict_single(job: Job) -> Backend:
    """The predictor, one file after the other."""
    from leukoscope.inference.predictor import Predictor

    predictor = Predictor.open(Path(job.bundle), threads=job.threads)
    return Backend(each(lambda index: predictor.predict(Path(job.files[index]))), len(job.files))


def predict_stream(job: Job) -> Backend:
    """The predictor's stream over all files."""
    from leukoscope.inference.cells import Source
    from leukoscope.inference.predictor import Predictor

    predictor = Predictor.open(Path(job.bundle), threads=job.threads, streaming=True)
    files = job.files * STREAM_PASSES

    def predict(indices: range) -> list[Timed]:
        sources = (Source(files[index], Path(files[index])) for index in indices)
        maps = sum(prediction.activation_map is not None for prediction in predictor.stream(sources))
        if maps != len(indices):
            raise RuntimeError(f"{len(indices) - maps} cells were refused before their forward pass")
        return []

    return Backend(predict, len(files))


def _onnxruntime_session(job: Job) -> Any:
    import onnxruntime

    from leukoscope.models.files import MODEL

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    return onnxruntime.InferenceSession(
        str(Path(job.bundle) / MODEL), options, providers=["CPUExecutionProvider"]
    )


def onnxruntime_single(job: Job) -> Backend:
    """ONNX Runtime, one cell at a time."""
    session, cells = _onnxruntime_session(job), job.cells()
    return Backend(each(lambda index: session.run(None, {"cells": cells[index : index + 1]})), len(cells))


def onnxruntime_batch_16(job: Job) -> Backend:
    """ONNX Runtime in batches of 16."""
    session, cells = _onnxruntime_session(job), job.cells()

    def predict(indices: range) -> list[Timed]:
        for start in indices[::16]:
            session.run(None, {"cells": cells[start : min(start + 16, indices.stop)]})
        return []

    return Backend(predict, len(cells))


def _torch_network(job: Job) -> Any:
    import torch

    from leukoscope.training.networks.network import CellNetwork
    from leukoscope.training.settings import NetworkSettings

    torch.set_num_threads(job.threads)
    torch.manual_seed(0)  # the weights do not change the time
    settings = NetworkSettings(arch=job.architecture, input_px=job.input_px, weights="none")
    return torch, CellNetwork(settings).eval()


def _torch_forward(job: Job, *, compiled: bool) -> Backend:
    torch, network = _torch_network(job)
    if compiled:
        network = torch.compile(network)
    cells = torch.from_numpy(job.cells())

    def predict(index: int) -> object:
        with torch.inference_mode():
            return network(cells[index : index + 1])

    return Backend(each(predict), len(cells), RANDOM)


def torch_grad_cam(job: Job) -> Backend:
    """What most explanation scripts do: eager forward, autograd, the grad-cam package."""
    torch, network = _torch_network(job)
    grad_cam = importlib.import_module("pytorch_grad_cam")  # of the development tools, not of an extra
    targets_module = importlib.import_module("pytorch_grad_cam.utils.model_targets")

    class LogitOnly(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, images: Any) -> Any:
            return network.classify(network.standardize(network.embed(images)))

    cells = torch.from_numpy(job.cells()).permute(0, 3, 1, 2).float()
    images = network.normalize(cells)
    model = LogitOnly()
    model.network = network
    cam = grad_cam.GradCAM(model, [network.backbone.units[-1]])
    targets = [targets_module.ClassifierOutputTarget(0)]
    return Backend(each(lambda index: cam(images[index : index + 1], targets)), len(images), RANDOM)


BACKENDS: dict[str, Callable[[Job], Backend]] = {
    "engine_single": engine_single,
    "engine_without_map": engine_without_map,
    "engine_streams": engine_streams,
    "engine_batch_8": lambda job: _engine_batches(job, 8),
    "engine_batch_16": lambda job: _engine_batches(job, 16),
    "predict_single": predict_single,
    "predict_stream": predict_stream,
    "onnxruntime": onnxruntime_single,
    "onnxruntime_batch_16": onnxruntime_batch_16,
    "torch_eager": lambda job: _torch_forward(job, compiled=False),
    "torch_compile": lambda job: _torch_forward(job, compiled=True),
    "torch_grad_cam": torch_grad_cam,
}


if __name__ == "__main__":
    serve(lambda job: BACKENDS[sys.argv[1]](Job(**job)))  # type: ignore[arg-type]
