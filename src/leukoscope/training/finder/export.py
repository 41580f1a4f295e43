"""The finder as an ONNX file: uint8 pixels in, activated maps out, any size divisible by 32."""

from pathlib import Path

import onnx
import torch

from leukoscope.core.io import replacing
from leukoscope.training.export import halve_weights
from leukoscope.training.finder.network import DIVISOR_PX, FinderGraph, FinderNetwork

INPUT_NAME = "rgb"
OUTPUT_NAME = "maps"


def export_finder(network: FinderNetwork, path: Path) -> None:
    """Write the graph, weights stored in 16 bits and computed in 32; ``path`` is replaced atomically.

    Parameters
    ----------
    network
        In evaluation mode.
    path
        Of the ONNX file.
    """
    graph = FinderGraph(network).eval()
    example = torch.zeros(2, 4 * DIVISOR_PX, 6 * DIVISOR_PX, 3, dtype=torch.uint8)
    rows, columns = torch.export.Dim("rows", min=1, max=512), torch.export.Dim("columns", min=1, max=512)
    with torch.no_grad():
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=(
                {0: torch.export.Dim("N", min=1), 1: DIVISOR_PX * rows, 2: DIVISOR_PX * columns},
            ),
        )
    assert program is not None  # noqa: S101  (the exporter raises on failure)
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces of the exporting machine
        node.doc_string = ""
    del model.graph.value_info[:]
    model.producer_name = "leukoscope"
    halve_weights(model)
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as part:
        onnx.save_model(model, part)
