"""Any graph of one float input and one output, image by image in several streams: training's frozen layers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import EngineError
from leukoscope.models.engines import compiling, engine_failed, import_openvino

LARGEST_STREAMS = 16

Floats = NDArray[np.float32]


class GraphStreams:
    """A compiled graph; images are computed one at a time, so that results do not depend on the batch.

    Parameters
    ----------
    model
        An ONNX file's content: one float32 input and one float32 output, both with the batch first.
    precision
        ``f32`` or ``bf16``.
    threads
        >= 1; so many streams of one thread (at most 16) work side by side.

    Raises
    ------
    EngineError
        The graph cannot be compiled.
    """

    def __init__(self, model: bytes, *, precision: str, threads: int) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        self._new_tensor = openvino.Tensor
        streams = min(threads, LARGEST_STREAMS)
        with compiling():
            graph = core.read_model(model)
            shape = graph.input(0).partial_shape
            graph.reshape([1, *(axis.get_length() for axis in list(shape)[1:])])
            settings = {
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_PRECISION_HINT": precision,
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": streams,
            }
            compiled = core.compile_model(graph, "CPU", settings)
        self._image_shape = tuple(compiled.input(0).shape)[1:]
        self._output_shape = tuple(compiled.output(0).shape)[1:]
        self._queue = openvino.AsyncInferQueue(compiled, streams)
        self._queue.set_callback(_keep_output)

    def __call__(self, images: Floats) -> Floats:
        """Return the outputs (N, ...) of N images.

        Raises
        ------
        EngineError
            Wrong dtype or shape, or the engine failed.
        """
        if images.dtype != np.float32 or images.shape[1:] != self._image_shape:
            shape = ", ".join(map(str, self._image_shape))
            raise EngineError(f"images of {images.dtype} {images.shape}: expected float32 (N, {shape})")
        images = np.ascontiguousarray(images)
        outputs = np.empty((len(images), *self._output_shape), np.float32)
        try:
            for index in range(len(images)):
                tensor = self._new_tensor(images[index : index + 1], shared_memory=True)
                self._queue.start_async({0: tensor}, (outputs, index))
            self._queue.wait_all()
        except RuntimeError as error:
            raise engine_failed(error) from None
        return outputs


class OpenVinoGraphs:
    """OpenVINO on the CPU as training sees it."""

    name = "openvino"

    def supports(self, precision: str) -> bool:
        """Return whether this processor computes in ``f32`` or ``bf16``."""
        capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return {"f32": "FP32", "bf16": "BF16"}.get(precision) in capabilities

    def compile(self, model: bytes, *, precision: str, threads: int) -> GraphStreams:
        """Return a graph that can be called; see ``GraphStreams``."""
        return GraphStreams(model, precision=precision, threads=threads)


def _keep_output(request: Any, place: tuple[Floats, int]) -> None:
    outputs, index = place
    outputs[index] = request.get_output_tensor(0).data[0]
