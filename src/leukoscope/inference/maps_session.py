"""The finder's graph on the CPU engine: one picture of any size in, its maps out."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import EngineError
from leukoscope.models.engines import compiling, import_openvino

INPUT_NAME = "rgb"
OUTPUT_NAME = "maps"


class MapsSession:
    """Runs a graph with the input ``rgb`` uint8 (N, H, W, 3) and the output ``maps`` float32 (N, C, H / 2, W / 2).

    Parameters
    ----------
    model
        Path of the ONNX file, or its content.
    threads
        Of the engine; 0 lets the engine choose.

    Raises
    ------
    EngineError
        The engine is missing, cannot compile the graph, or the graph has other inputs and outputs.

    Notes
    -----
    Threads may share it: calls wait for each other.
    """

    def __init__(self, model: Path | bytes, threads: int = 0) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "CPU_RUNTIME_CACHE_CAPACITY": 0,  # of compiled shapes: tiles come in many, each would keep its memory
        }
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        with compiling():
            graph = core.read_model(model if isinstance(model, bytes) else str(model))
            names = ({*graph.inputs[0].names}, {*graph.outputs[0].names})
            if INPUT_NAME not in names[0] or OUTPUT_NAME not in names[1]:
                raise EngineError(
                    f"the graph has input {sorted(names[0])} and output {sorted(names[1])}: "
                    f"expected {INPUT_NAME!r} and {OUTPUT_NAME!r}; give the bundle of a finder"
                )
            compiled = core.compile_model(graph, "CPU", settings)
        self._new_tensor = openvino.Tensor
        self._request = compiled.create_infer_request()
        self._lock = threading.Lock()

    def run(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the maps (C, h / 2, w / 2) of one picture (h, w, 3), sides divisible by 32."""
        with self._lock:
            try:
                self._request.set_input_tensor(
                    self._new_tensor(np.ascontiguousarray(rgb)[None], shared_memory=True)
                )
                self._request.infer()
                maps: NDArray[np.float32] = self._request.get_tensor(OUTPUT_NAME).data[0].copy()
            except RuntimeError as error:
                raise EngineError(f"the finder's graph failed: {str(error).splitlines()[-1]}") from None
        return maps
