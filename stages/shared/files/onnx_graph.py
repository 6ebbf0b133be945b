"""Read an ONNX model; walk over it and the graphs that nodes hold (the branches of an `If`, the body of a `Loop`)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shared.kit.stage import read_bytes, reading

if TYPE_CHECKING:  # a file that is not ONNX needs no onnx to be opened
    import onnx


def read_onnx(path: Path) -> "onnx.ModelProto":
    """Read an ONNX file; weights in a second one stay there.

    Raises:
        StageError: It is missing or damaged.
    """
    import onnx

    with reading(path, "ONNX file"):
        return onnx.load_model_from_string(read_bytes(path))


def nested_graphs(node: "onnx.NodeProto") -> Iterator["onnx.GraphProto"]:
    """The graphs that a node holds itself."""
    for attribute in node.attribute:
        yield from [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def all_nodes(model: "onnx.ModelProto") -> Iterator["onnx.NodeProto"]:
    """Every node of the graph and of the functions, those of nested graphs after the one that holds them."""
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from _with_nested(nodes)


def all_constants(model: "onnx.ModelProto") -> Iterator[tuple[str, "onnx.TensorProto"]]:
    """Every constant tensor by the name that nodes read it by: initializers, and what `Constant` nodes hold."""
    yield from _initializers(model.graph)
    for node in all_nodes(model):
        if node.op_type == "Constant":
            yield from ((node.output[0], entry.t) for entry in node.attribute if entry.name == "value")


def _initializers(graph: "onnx.GraphProto") -> Iterator[tuple[str, "onnx.TensorProto"]]:
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        for nested in nested_graphs(node):
            yield from _initializers(nested)


def _with_nested(nodes: Iterable["onnx.NodeProto"]) -> Iterator["onnx.NodeProto"]:
    for node in nodes:
        yield node
        for graph in nested_graphs(node):
            yield from _with_nested(graph.node)
