"""What an ONNX file declares, read without an engine: inputs, outputs, operators, weights and where they lie.

An ONNX file may point to other files for its weights and to operators of other libraries. A bundle's may do neither,
and that has to be known before an engine opens it. The file is walked field by field as Protocol Buffers define
(https://protobuf.dev/programming-guides/encoding/, field numbers from onnx.proto of ONNX 1.17); nothing is executed,
and large contents are skipped, not copied.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from leukoscope.core.errors import BundleError

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
MAX_DEPTH = 8
DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
}

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL

Span = tuple[int, int]
Field = tuple[int, int | Span]


@dataclass(frozen=True)
class TensorDeclaration:
    """An input or output: ``shape`` holds a number, or a name for a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Weight:
    """A stored tensor and the half-open byte range of its values; (0, 0) where they are stored otherwise."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    span: Span


class Node(NamedTuple):
    """One node of the graph: the names of its inputs and outputs."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class OnnxGraph:
    """The declarations of one ONNX file.

    Attributes
    ----------
    inputs, outputs
        In the file's order.
    operators
        Number of nodes by operator; one of another domain is written ``domain::operator``.
    weights
        The main graph's stored tensors.
    nodes
        The main graph's steps, in the file's order.
    opset
        Version of the standard operators.
    """

    inputs: tuple[TensorDeclaration, ...]
    outputs: tuple[TensorDeclaration, ...]
    operators: dict[str, int]
    weights: tuple[Weight, ...]
    nodes: tuple[Node, ...]
    opset: int

    def origins(self, output: str) -> frozenset[str]:
        """Return the names of all values that an output depends on."""
        makers = {name: node for node in self.nodes for name in node.outputs}
        found: set[str] = set()
        waiting = [output]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += makers[name].inputs if name in makers else ()
        return frozenset(found)


def read_onnx_graph(content: bytes) -> OnnxGraph:
    """Read the declarations of an ONNX file.

    Parameters
    ----------
    content
        The whole file.

    Raises
    ------
    BundleError
        The file is no complete ONNX model, points to files outside itself, or uses operators that are not ONNX's own.
    """
    return _Reader(content).model()


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.operators: dict[str, int] = {}

    def model(self) -> OnnxGraph:
        graph: Span | None = None
        opset = 0
        for number, value in self.fields((0, len(self.content))):
            if number == 7 and isinstance(value, tuple):
                graph = value
            elif number == 8 and isinstance(value, tuple):
                domain, version = self.opset(value)
                if domain in STANDARD_DOMAINS:
                    opset = version
            elif number == 25:
                raise BundleError("model.onnx defines local functions; export it again with leukoscope")
        if graph is None or not opset:
            raise BundleError("model.onnx is no ONNX model: it has no graph; copy or export the bundle again")
        inputs, outputs, weights, nodes = self.graph(graph, 0)
        foreign = sorted(name for name in self.operators if "::" in name)
        if foreign:
            raise BundleError(
                f"model.onnx uses operators that are not ONNX's own: {', '.join(foreign[:5])}; "
                "such code is not run: export the model with standard operators"
            )
        names = {weight.name for weight in weights}  # old files list weights among the inputs
        inputs = tuple(entry for entry in inputs if entry.name not in names)
        return OnnxGraph(inputs, outputs, dict(sorted(self.operators.items())), weights, nodes, opset)

    def graph(
        self, span: Span, depth: int
    ) -> tuple[
        tuple[TensorDeclaration, ...], tuple[TensorDeclaration, ...], tuple[Weight, ...], tuple[Node, ...]
    ]:
        if depth > MAX_DEPTH:
            raise BundleError(
                f"model.onnx nests graphs deeper than {MAX_DEPTH}; export it again with leukoscope"
            )
        inputs, outputs, weights, nodes = [], [], [], []
        for number, value in self.fields(span):
            if not isinstance(value, tuple):
                continue
            if number == 1:
                nodes.append(self.node(value, depth))
            elif number == 5:
                weights.append(self.tensor(value))
            elif number == 11:
                inputs.append(self.value_info(value))
            elif number == 12:
                outputs.append(self.value_info(value))
            elif number == 15:
                raise BundleError("model.onnx stores sparse weights; export it again with leukoscope")
        return tuple(inputs), tuple(outputs), tuple(weights), tuple(nodes)

    def node(self, span: Span, depth: int) -> Node:
        operator = domain = ""
        inputs, outputs = [], []
        for number, value in self.fields(span):
            if not isinstance(value, tuple):
                continue
            if number == 1:
                inputs.append(self.text(value))
            elif number == 2:
                outputs.append(self.text(value))
            elif number == 4:
                operator = self.text(value)
            elif number == 7:
                domain = self.text(value)
            elif number == 5:
                self.attribute(value, depth)
        name = operator if domain in STANDARD_DOMAINS else f"{domain}::{operator}"
        self.operators[name] = self.operators.get(name, 0) + 1
        return Node(tuple(inputs), tuple(outputs))

    def attribute(self, span: Span, depth: int) -> None:
        for number, value in self.fields(span):
            if isinstance(value, tuple) and number in (5, 10):
                self.tensor(value)
            elif isinstance(value, tuple) and number in (6, 11):
                self.graph(value, depth + 1)

    def tensor(self, span: Span) -> Weight:
        name, dtype, shape, raw = "", 0, [], (0, 0)
        for number, value in self.fields(span):
            if number == 13 or (number == 14 and value == _EXTERNAL):
                raise BundleError(
                    "model.onnx keeps weights in another file; export it again with all weights in one file"
                )
            if number == 1:
                shape += self.integers(value)
            elif number == 2 and isinstance(value, int):
                dtype = value
            elif number == 8 and isinstance(value, tuple):
                name = self.text(value)
            elif number == 9 and isinstance(value, tuple):
                raw = value
        return Weight(name, DTYPES.get(dtype, f"type {dtype}"), tuple(shape), raw)

    def value_info(self, span: Span) -> TensorDeclaration:
        name, dtype, shape = "", 0, []
        for number, value in self.fields(span):
            if number == 1 and isinstance(value, tuple):
                name = self.text(value)
            elif number == 2 and isinstance(value, tuple):
                for kind, tensor_type in self.fields(value):
                    if kind != 1 or not isinstance(tensor_type, tuple):
                        continue
                    for part, inner in self.fields(tensor_type):
                        if part == 1 and isinstance(inner, int):
                            dtype = inner
                        elif part == 2 and isinstance(inner, tuple):
                            shape = [self.axis(axis) for _, axis in self.fields(inner)]
        return TensorDeclaration(name, DTYPES.get(dtype, f"type {dtype}"), tuple(shape))

    def axis(self, value: int | Span) -> int | str:
        if isinstance(value, tuple):
            for number, inner in self.fields(value):
                if number == 1 and isinstance(inner, int):
                    return inner
                if number == 2 and isinstance(inner, tuple):
                    return self.text(inner)
        return "?"

    def opset(self, span: Span) -> tuple[str, int]:
        domain, version = "", 0
        for number, value in self.fields(span):
            if number == 1 and isinstance(value, tuple):
                domain = self.text(value)
            elif number == 2 and isinstance(value, int):
                version = value
        return domain, version

    def integers(self, value: int | Span) -> list[int]:
        """Return a repeated integer, packed or one by one."""
        if isinstance(value, int):
            return [value]
        position, end = value
        numbers = []
        while position < end:
            number, position = self.varint(position, end)
            numbers.append(number)
        return numbers

    def text(self, span: Span) -> str:
        try:
            return self.content[span[0] : span[1]].decode()
        except UnicodeDecodeError:
            raise _damaged(span[0]) from None

    def fields(self, span: Span) -> Iterator[Field]:
        """Yield number and value (an integer, or the byte range of a nested content) of one message's fields."""
        position, end = span
        while position < end:
            key, position = self.varint(position, end)
            number, kind = key >> 3, key & 7
            if kind == _VARINT:
                integer, position = self.varint(position, end)
                yield number, integer
                continue
            if kind == _BYTES:
                length, position = self.varint(position, end)
            elif kind in (_FIXED64, _FIXED32):
                length = 8 if kind == _FIXED64 else 4
            else:
                raise _damaged(position)
            start, position = position, position + length
            if position > end:
                raise _damaged(start)
            yield number, (start, position)

    def varint(self, position: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while position < end and shift < 70:
            byte = self.content[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7
        raise _damaged(position)


def _damaged(position: int) -> BundleError:
    return BundleError(
        f"model.onnx is damaged or no ONNX file (byte {position}); copy or export the bundle again"
    )
