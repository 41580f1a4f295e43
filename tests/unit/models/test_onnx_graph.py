from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from leukoscope.core.errors import BundleError
from leukoscope.models.onnx_graph import read_onnx_graph
from small_bundle import make_onnx

CONTENT = make_onnx().SerializeToString()


def test_declarations_equal_those_that_onnx_reads() -> None:
    model = onnx.load_from_string(CONTENT)
    graph = read_onnx_graph(CONTENT)
    assert graph.operators == dict(sorted(Counter(node.op_type for node in model.graph.node).items()))
    assert [entry.name for entry in graph.inputs] == ["cells"]
    assert graph.inputs[0].shape == ("N", 64, 64, 3)
    assert [(entry.dtype, entry.shape[1:]) for entry in graph.outputs] == [
        ("float32", (1,)),
        ("float32", (12,)),
        ("float32", (1, 8, 8)),
    ]
    assert graph.opset == 20
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert {weight.name: weight.shape for weight in graph.weights} == {k: v.shape for k, v in stored.items()}
    for weight in graph.weights:
        start, end = weight.span
        assert CONTENT[start:end] == stored[weight.name].tobytes()
    assert [(node.inputs, node.outputs) for node in graph.nodes] == [
        (tuple(node.input), tuple(node.output)) for node in model.graph.node
    ]
    assert graph.origins("logits") & stored.keys() == {*stored} - {"cam"}
    assert graph.origins("activation_map") - graph.origins("embedding") == {"cam", "signed", "activation_map"}


def test_weights_in_another_file_are_refused(tmp_path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(
        make_onnx(), path, save_as_external_data=True, all_tensors_to_one_file=True, size_threshold=0
    )
    with pytest.raises(BundleError):
        read_onnx_graph(path.read_bytes())


def test_weights_in_another_file_are_found_inside_attributes() -> None:
    model = make_onnx()
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "hidden")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))
    with pytest.raises(BundleError):
        read_onnx_graph(model.SerializeToString())


def test_operators_of_others_are_refused_even_inside_branches() -> None:
    inner = helper.make_graph(
        [helper.make_node("RunCode", [], ["x"], domain="com.evil")],
        "inner",
        [],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
    )
    model = make_onnx()
    model.graph.node.append(helper.make_node("If", ["logits"], ["y"], then_branch=inner, else_branch=inner))
    with pytest.raises(BundleError, match="::RunCode"):
        read_onnx_graph(model.SerializeToString())


def test_functions_are_refused() -> None:
    model = make_onnx()
    model.functions.add().name = "own"
    with pytest.raises(BundleError):
        read_onnx_graph(model.SerializeToString())


@pytest.mark.parametrize("content", [b"", b"\x00", b"no model", b"\x3a\xff\xff\xff\xff\x0f", CONTENT[:-1]])
def test_incomplete_models_are_refused(content: bytes) -> None:
    with pytest.raises(BundleError):
        read_onnx_graph(content)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_files_never_raise_anything_else(data: st.DataObject) -> None:
    content = bytearray(CONTENT)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        read_onnx_graph(bytes(content[:cut]))
    except BundleError as error:
        assert str(error)
