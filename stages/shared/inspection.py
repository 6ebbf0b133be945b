"""What a model file holds, read from the file alone: its size, its weights and how they are stored, its ops."""

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.stage import StageError, one_line

if TYPE_CHECKING:
    import onnx

FULL_BITS = 32  # a weight in fewer counts as compressed


@dataclass(frozen=True)
class FileFacts:
    """Facts of one file.

    Weights are the constant tensors of numbers that a model computes with: floating-point ones, and integers that stand
    for floating-point ones. Scalars, shapes, indices, and the scales and tables that restore a weight are not counted.

    Attributes:
        bytes: Size on disk; of a folder, of all its files.
        compressed_bytes: Size as a deflated zip: what a download costs.
        weights: How many elements the weights have once restored, whatever they are stored as.
        weight_bytes: What they take in the file, with the scales, zero points, tables and masks that restore them.
        compressed_share: The share of them stored in fewer than 32 bits, or sparse.
        ops: How often each op occurs, in all nested graphs too, constants left out; empty for a checkpoint.
    """

    bytes: int
    compressed_bytes: int
    weights: int
    weight_bytes: int
    compressed_share: float
    ops: dict[str, int]


@dataclass(frozen=True)
class Stored:
    """One stored tensor: how many weights it holds (none, if it only helps to restore others), and in what form."""

    weights: int
    bytes: int
    compressed: bool


def inspect_file(path: Path) -> FileFacts:
    """Read the facts of an `.onnx` file, an `.mlpackage` or a checkpoint (`.pt`).

    Raises:
        StageError: The file is missing, damaged, or of another format.
    """
    readers = {".onnx": _read_onnx, ".mlpackage": _read_mlpackage, ".pt": _read_checkpoint}
    if path.suffix not in readers:
        raise StageError(f"{path}: not a model file; known: {', '.join(readers)}")
    if not path.exists():
        raise StageError(f"{path}: no such file or folder")
    tensors, ops = readers[path.suffix](path)
    weights = sum(tensor.weights for tensor in tensors)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return FileFacts(
        bytes=sum(file.stat().st_size for file in files),
        compressed_bytes=_zipped_size(path, files),
        weights=weights,
        weight_bytes=sum(tensor.bytes for tensor in tensors),
        compressed_share=sum(tensor.weights for tensor in tensors if tensor.compressed) / max(weights, 1),
        ops=dict(sorted(ops.items())),
    )


def _zipped_size(path: Path, files: list[Path]) -> int:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for file in files:
            archive.write(file, file.relative_to(path.parent))
    return len(buffer.getvalue())


# --- ONNX ---

QUANTIZATION_INPUTS = {
    "DequantizeLinear": (1, 2),
    "QuantizeLinear": (1, 2),
    "DynamicQuantizeLSTM": (8, 9, 10, 11),
    "DynamicQuantizeMatMul": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "MatMulInteger": (2, 3),
    "ConvInteger": (2, 3),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
}
"""The inputs that hold scales and zero points, by op: they restore weights and are none."""


def _read_onnx(path: Path) -> tuple[list[Stored], Counter[str]]:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise StageError(f"{path}: not a readable ONNX file: {one_line(error)}") from None
    nodes = list(_onnx_nodes([*model.graph.node, *(node for function in model.functions for node in function.node)]))
    constants = [*_onnx_initializers(model.graph), *_onnx_constants(nodes)]
    helpers = {
        node.input[index]
        for node in nodes
        for index in QUANTIZATION_INPUTS.get(node.op_type, ())
        if index < len(node.input)
    }
    restored = {node.input[0] for node in nodes if node.op_type == "DequantizeLinear"}
    tensors = [
        stored
        for name, tensor in constants
        if (stored := _onnx_stored(tensor, helper=name in helpers, restored=name in restored))
    ]
    return tensors, Counter(node.op_type for node in nodes if node.op_type != "Constant")


def _onnx_graphs(node: "onnx.NodeProto") -> Iterator["onnx.GraphProto"]:
    for attribute in node.attribute:
        yield from [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _onnx_nodes(nodes: Any) -> Iterator["onnx.NodeProto"]:
    """Every node, those of nested graphs after the one that holds them."""
    for node in nodes:
        yield node
        for graph in _onnx_graphs(node):
            yield from _onnx_nodes(graph.node)


def _onnx_initializers(graph: "onnx.GraphProto") -> Iterator[tuple[str, "onnx.TensorProto"]]:
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        for nested in _onnx_graphs(node):
            yield from _onnx_initializers(nested)


def _onnx_constants(nodes: list["onnx.NodeProto"]) -> Iterator[tuple[str, "onnx.TensorProto"]]:
    for node in nodes:
        if node.op_type == "Constant":
            yield from ((node.output[0], entry.t) for entry in node.attribute if entry.name == "value")


def _onnx_stored(tensor: "onnx.TensorProto", *, helper: bool, restored: bool) -> Stored | None:
    import onnx

    name = onnx.TensorProto.DataType.Name(tensor.data_type)
    bits = _bits(name)
    is_float = "FLOAT" in name or name == "DOUBLE"
    is_weight = (is_float or (bits <= 8 and name != "BOOL") or restored) and not helper and len(tensor.dims) > 0
    if not is_weight and not helper:
        return None
    elements = prod(tensor.dims)
    return Stored(elements if is_weight else 0, -(-elements * bits // 8), bits < FULL_BITS)


def _bits(type_name: str) -> int:
    """Bits of an element of an ONNX or a Core ML type: `FLOAT`, `BFLOAT16`, `FLOAT8E4M3FN`, `INT4` ..."""
    found = re.search(r"\d+", type_name)
    return int(found.group()) if found else {"FLOAT": 32, "DOUBLE": 64, "BOOL": 8}.get(type_name, 0)


# --- Core ML ---


def _read_mlpackage(path: Path) -> tuple[list[Stored], Counter[str]]:
    from shared.mlpackage import read_model

    tensors: list[Stored] = []
    ops: Counter[str] = Counter()
    for function in read_model(path).mlProgram.functions.values():
        operations = list(_coreml_operations(function.block_specializations[function.opset]))
        ops.update(operation.type for operation in operations if operation.type != "const")
        inputs_of_constexprs = {
            binding.name
            for operation in operations
            if operation.type.startswith("constexpr_")
            for argument in operation.inputs.values()
            for binding in argument.arguments
            if binding.name
        }
        for operation in operations:
            tensors += _coreml_stored(operation, inputs_of_constexprs)
    return tensors, ops


def _coreml_operations(block: Any) -> Iterator[Any]:
    """Every operation, those of nested blocks after the one that holds them."""
    for operation in block.operations:
        yield operation
        for nested in operation.blocks:
            yield from _coreml_operations(nested)


def _coreml_stored(operation: Any, inputs_of_constexprs: set[str]) -> Iterator[Stored]:
    """The weights that an operation holds.

    A `constexpr_*` holds the parts that restore a tensor; its last result is the weight, unless another one takes it.
    """
    values = [
        *(value for name, value in operation.attributes.items() if name != "name"),
        *(
            binding.value
            for argument in operation.inputs.values()
            for binding in argument.arguments
            if binding.WhichOneof("binding") == "value"
        ),
    ]
    tensors = [value.type.tensorType for value in values if value.type.WhichOneof("type") == "tensorType"]
    [*_, result] = [output.name for output in operation.outputs] or [""]
    if operation.type.startswith("constexpr_"):
        elements = 0 if result in inputs_of_constexprs else _coreml_elements(operation.outputs[-1].type.tensorType)
        yield Stored(elements, sum(map(_coreml_bytes, tensors)), compressed=True)
        return
    for tensor in tensors:
        is_part = operation.type == "const" and result in inputs_of_constexprs
        if is_part or (_coreml_type(tensor).startswith(("FLOAT", "BFLOAT")) and tensor.rank > 0):
            compressed = _bits(_coreml_type(tensor)) < FULL_BITS
            yield Stored(0 if is_part else _coreml_elements(tensor), _coreml_bytes(tensor), compressed)


def _coreml_type(tensor: Any) -> str:
    from coremltools.proto.MIL_pb2 import DataType

    return str(DataType.Name(tensor.dataType))


def _coreml_elements(tensor: Any) -> int:
    return prod(dimension.constant.size for dimension in tensor.dimensions)


def _coreml_bytes(tensor: Any) -> int:
    return -(-_coreml_elements(tensor) * _bits(_coreml_type(tensor)) // 8)


# --- PyTorch ---


def _read_checkpoint(path: Path) -> tuple[list[Stored], Counter[str]]:
    from shared.model import load_checkpoint

    state = [tensor for tensor in load_checkpoint(path).model.state_dict().values() if tensor.is_floating_point()]
    tensors = [
        Stored(tensor.numel(), tensor.numel() * tensor.itemsize, 8 * tensor.itemsize < FULL_BITS)
        for tensor in state
        if tensor.ndim > 0
    ]
    return tensors, Counter()
