"""The network as an ONNX file: fixed names, dynamic batch, 16-bit weights where wanted, float32 arithmetic."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from leukoscope.core.errors import WeightsError
from leukoscope.core.io import replacing
from leukoscope.training.networks.network import CellNetwork

INPUT_NAME = "cells"
OUTPUT_NAMES = ("logits", "embedding", "activation_map")
SMALLEST_HALVED = (
    256  # elements; biases and batch-norm statistics stay float32: they weigh nothing and set the scale
)
FLOAT16_LIMIT = 65504.0


@dataclass(frozen=True)
class TensorDescription:
    """One input or output of the graph.

    Parameters
    ----------
    name
        Name in the graph.
    dtype
        ``uint8`` or ``float32``.
    shape
        One entry an axis; ``"N"`` is the dynamic batch.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def export_onnx(
    network: CellNetwork, path: Path, weights_dtype: Literal["float16", "float32"] = "float16"
) -> dict[str, list[dict[str, Any]]]:
    """Write the network's forward pass to ``path``.

    Parameters
    ----------
    network
        Exported in evaluation mode; its own mode is put back afterwards.
    path
        Replaced atomically.
    weights_dtype
        ``float16`` stores weights of at least 256 elements in 16 bits behind a cast; every operation still computes
        in float32.

    Returns
    -------
    dict
        ``{"inputs": [...], "outputs": [...]}``, each entry with ``name``, ``dtype`` and ``shape``, as read back from
        the graph.

    Raises
    ------
    WeightsError
        A weight is not finite or does not fit 16 bits.
    """
    size = network.settings.input_px
    device = next(network.parameters()).device
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8, device=device)
    return write_graph(network, example, path, weights_dtype)


def write_graph(
    module: nn.Module, example: torch.Tensor, path: Path, weights_dtype: Literal["float16", "float32"]
) -> dict[str, list[dict[str, Any]]]:
    """Write the graph of a bundle from a module with a bundle's input and outputs; see ``export_onnx``."""
    model = trace_module(module, example, input_name=INPUT_NAME, output_names=OUTPUT_NAMES)
    if weights_dtype == "float16":
        halve_weights(model)
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as part:
        onnx.save_model(model, part)
    return describe_graph(model)


def describe_graph(model: onnx.ModelProto) -> dict[str, list[dict[str, Any]]]:
    """Return name, dtype and shape of the graph's inputs and outputs as plain data."""
    return {
        "inputs": [asdict(_describe(value)) for value in model.graph.input],
        "outputs": [asdict(_describe(value)) for value in model.graph.output],
    }


def export_part(units: nn.Module, image_shape: tuple[int, ...]) -> bytes:
    """Return a part of the network as an ONNX file's content, float32, with input and output (N, ...).

    Parameters
    ----------
    units
        Exported in evaluation mode.
    image_shape
        Of one image of the input.
    """
    device = next(units.parameters()).device
    example = torch.zeros(2, *image_shape, device=device)
    model = trace_module(units, example, input_name="images", output_names=("activations",))
    content: bytes = model.SerializeToString()
    return content


def trace_module(
    module: nn.Module, example: torch.Tensor, *, input_name: str, output_names: tuple[str, ...]
) -> onnx.ModelProto:
    """Return a module's forward pass in evaluation mode, with a dynamic batch and without traces of this machine."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[input_name],
                output_names=list(output_names),
                dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
            )
    finally:
        for part, mode in modes:
            part.training = mode
    assert program is not None  # noqa: S101  (the exporter raises on failure)
    model: onnx.ModelProto = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces of the exporting machine
        node.doc_string = ""
    del model.graph.value_info[:]
    model.producer_name = "leukoscope"
    return model


def halve_weights(model: onnx.ModelProto) -> None:
    """Store the large weights of a graph in 16 bits, cast to 32 where they are used."""
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < SMALLEST_HALVED or values.ndim < 2:
            continue
        largest = float(np.abs(values).max())
        if not largest < FLOAT16_LIMIT:  # also true of NaN
            raise WeightsError(
                f"weight {tensor.name!r} reaches {largest:g}, 16 bits hold up to {FLOAT16_LIMIT:g}: "
                "export with float32 weights"
            )
        stored = f"{tensor.name}.float16"
        casts.append(helper.make_node("Cast", [stored], [tensor.name], to=TensorProto.FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(casts + nodes)


def _describe(value: onnx.ValueInfoProto) -> TensorDescription:
    tensor = value.type.tensor_type
    shape = tuple(axis.dim_param or axis.dim_value for axis in tensor.shape.dim)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return TensorDescription(value.name, dtype, shape)
