"""The contestants of ``leukoscope benchmark predict``; each runs in a process of its own: ``python -m`` this, NAME.

The job comes as JSON on standard input, the answer goes as one line of JSON to standard output.
"""

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Answer = dict[str, Any]
WARM_UP_CELLS = 4


@dataclass(frozen=True)
class Job:
    """What to measure with."""

    bundle: str
    files: list[str]
    threads: int
    repetitions: int
    architecture: str
    input_px: int
    stream_rows: int

    def cells(self) -> NDArray[np.uint8]:
        """Return the prepared cells, uint8 (N, S, S, 3)."""
        from leukoscope.imaging.decode import decode_image
        from leukoscope.imaging.preprocess import prepare_cell

        return np.stack([prepare_cell(decode_image(Path(file)), self.input_px) for file in self.files])


def time_each(job: Job, judge: Callable[[int], object]) -> Answer:
    """Time single cells: the median over repetitions of the mean, and percentiles over all."""
    for index in range(min(WARM_UP_CELLS, len(job.files))):
        judge(index)
    means, single = [], []
    for _ in range(job.repetitions):
        times = []
        for index in range(len(job.files)):
            began = time.perf_counter()
            judge(index)
            times.append(1e3 * (time.perf_counter() - began))
        means.append(statistics.fmean(times))
        single += times
    median = statistics.median(means)
    return {
        "median_ms": median,
        "p50_ms": float(np.percentile(single, 50)),
        "p95_ms": float(np.percentile(single, 95)),
        "cells_per_second": 1e3 / median,
    }


def time_all(job: Job, judge: Callable[[], int]) -> Answer:
    """Time whole passes over the cells; ``judge`` returns how many it judged."""
    judge()
    rates = []
    for _ in range(job.repetitions):
        began = time.perf_counter()
        count = judge()
        rates.append(count / (time.perf_counter() - began))
    rate = statistics.median(rates)
    return {"median_ms": 1e3 / rate, "cells_per_second": rate}


def _compile(job: Job, *, batch: int, map_too: bool = True, streams: int = 1) -> Any:
    from leukoscope.bundle.files import MODEL
    from leukoscope.runtime.engines import import_openvino

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


def _engine_one_by_one(job: Job, *, map_too: bool) -> Answer:
    openvino, compiled = _compile(job, batch=1, map_too=map_too)
    request = compiled.create_infer_request()
    tensors = [openvino.Tensor(np.ascontiguousarray(cell[None])) for cell in job.cells()]
    return time_each(job, lambda index: request.infer({0: tensors[index]}))


def engine_single(job: Job) -> Answer:
    """One request, every thread."""
    return _engine_one_by_one(job, map_too=True)


def engine_without_map(job: Job) -> Answer:
    """The same without the third output: what the map costs is the difference."""
    return _engine_one_by_one(job, map_too=False)


def engine_streams(job: Job) -> Answer:
    """The engine's own queue, one stream a thread."""
    openvino, compiled = _compile(job, batch=1, streams=job.threads)
    queue = openvino.AsyncInferQueue(compiled, 2 * job.threads)
    cells = [np.ascontiguousarray(cell[None]) for cell in job.cells()]

    def judge() -> int:
        for cell in cells:
            queue.start_async({0: cell})
        queue.wait_all()
        return len(cells)

    return time_all(job, judge)


def _engine_batches(job: Job, size: int) -> Answer:
    _, compiled = _compile(job, batch=size)
    request = compiled.create_infer_request()
    cells = job.cells()
    cells = np.resize(cells, (-(-len(cells) // size) * size, *cells.shape[1:]))
    batches = np.split(cells, len(cells) // size)

    def judge() -> int:
        for batch in batches:
            request.infer({0: batch})
        return len(cells)

    return time_all(job, judge)


def predict_single(job: Job) -> Answer:
    """The predictor, one file after the other."""
    from leukoscope.runtime.predictor import Predictor

    predictor = Predictor.open(Path(job.bundle), threads=job.threads)
    return time_each(job, lambda index: predictor.predict(Path(job.files[index])))


def predict_stream(job: Job) -> Answer:
    """The predictor's stream over all files."""
    from leukoscope.runtime.predictor import Predictor, Source

    predictor = Predictor.open(Path(job.bundle), threads=job.threads, streaming=True)

    def judge() -> int:
        sources = (Source(file, Path(file)) for file in job.files)
        return sum(prediction.activation_map is not None for prediction in predictor.stream(sources))

    answer = time_all(job, judge)
    judged = judge()
    if judged < len(job.files):
        answer["note"] = (
            f"{len(job.files) - judged} of {len(job.files)} refused before the forward pass, not counted"
        )
    return answer


def stream_memory(job: Job) -> Answer:
    """Stream many rows by repeating the files; the resident memory at each quarter."""
    from leukoscope.runtime.predictor import Predictor, Source

    predictor = Predictor.open(Path(job.bundle), threads=job.threads, streaming=True)
    rows = job.stream_rows
    sources = (Source(str(row), Path(job.files[row % len(job.files)])) for row in range(rows))
    marks = {max(1, rows * quarter // 4) for quarter in range(1, 5)}
    sizes = [resident_mb() for done, _ in enumerate(predictor.stream(sources), 1) if done in marks]
    return {"memory_mb": sizes}


def _onnxruntime_session(job: Job) -> Any:
    import onnxruntime

    from leukoscope.bundle.files import MODEL

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    return onnxruntime.InferenceSession(
        str(Path(job.bundle) / MODEL), options, providers=["CPUExecutionProvider"]
    )


def onnxruntime_single(job: Job) -> Answer:
    """ONNX Runtime, one cell at a time."""
    session = _onnxruntime_session(job)
    cells = job.cells()
    return time_each(job, lambda index: session.run(None, {"cells": cells[index : index + 1]}))


def onnxruntime_batch_16(job: Job) -> Answer:
    """ONNX Runtime in batches of 16."""
    session = _onnxruntime_session(job)
    cells = job.cells()

    def judge() -> int:
        for start in range(0, len(cells), 16):
            session.run(None, {"cells": cells[start : start + 16]})
        return len(cells)

    return time_all(job, judge)


def _torch_network(job: Job) -> Any:
    import torch

    from leukoscope.training.network import CellNetwork
    from leukoscope.training.settings import NetworkSettings

    torch.set_num_threads(job.threads)
    torch.manual_seed(0)  # the weights do not change the time
    settings = NetworkSettings(arch=job.architecture, input_px=job.input_px, weights="none")
    return torch, CellNetwork(settings).eval()


def torch_eager(job: Job) -> Answer:
    """The development network's forward pass."""
    torch, network = _torch_network(job)
    cells = torch.from_numpy(job.cells())
    with torch.inference_mode():
        answer = time_each(job, lambda index: network(cells[index : index + 1]))
    return {**answer, "note": "random weights, same architecture; cells prepared before"}


def torch_compile(job: Job) -> Answer:
    """The same network, compiled."""
    torch, network = _torch_network(job)
    compiled = torch.compile(network)
    cells = torch.from_numpy(job.cells())
    with torch.inference_mode():
        answer = time_each(job, lambda index: compiled(cells[index : index + 1]))
    return {
        **answer,
        "note": "random weights, same architecture; cells prepared before; compilation not counted",
    }


def torch_grad_cam(job: Job) -> Answer:
    """What most explanation scripts do: eager forward, autograd, the grad-cam package."""
    torch, network = _torch_network(job)
    grad_cam = importlib.import_module("pytorch_grad_cam")  # of the development tools, not of an extra
    targets_module = importlib.import_module("pytorch_grad_cam.utils.model_targets")

    class LogitOnly(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, images: Any) -> Any:
            last = len(network.backbone.stages) - 1
            return network.classify(
                network.standardise(network.pool(network.backbone.stage_maps(images, (last,))))
            )

    cells = torch.from_numpy(job.cells()).permute(0, 3, 1, 2).float()
    images = network.normalise(cells)
    model = LogitOnly()
    model.network = network
    with grad_cam.GradCAM(model, [network.backbone.units[-1]]) as cam:
        targets = [targets_module.ClassifierOutputTarget(0)]
        answer = time_each(job, lambda index: cam(images[index : index + 1], targets))
    return {**answer, "note": "random weights, same architecture; cells prepared before"}


CONTESTANTS: dict[str, Callable[[Job], Answer]] = {
    "engine_single": engine_single,
    "engine_without_map": engine_without_map,
    "engine_streams": engine_streams,
    "engine_batch_8": lambda job: _engine_batches(job, 8),
    "engine_batch_16": lambda job: _engine_batches(job, 16),
    "predict_single": predict_single,
    "predict_stream": predict_stream,
    "stream_memory": stream_memory,
    "onnxruntime": onnxruntime_single,
    "onnxruntime_batch_16": onnxruntime_batch_16,
    "torch_eager": torch_eager,
    "torch_compile": torch_compile,
    "torch_grad_cam": torch_grad_cam,
}


def resident_mb() -> float:
    """Return the resident memory of this process in MB (10^6 bytes); its peak where the system tells no more."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_mb()
    import os

    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_mb() -> float:
    """Return the largest resident memory of this process so far in MB (10^6 bytes)."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    """Run the contestant that the first argument names."""
    job = Job(**json.load(sys.stdin))
    try:
        answer = CONTESTANTS[sys.argv[1]](job)
    except ModuleNotFoundError as error:
        answer = {"left_out": f"{error.name} is not installed"}
    else:
        if sys.argv[1] != "stream_memory":
            answer["peak_memory_mb"] = peak_mb()
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
