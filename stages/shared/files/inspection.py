"""What a model file holds, read from the file alone: its size, its weights and how they are stored, its ops."""

import io
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.files.aimodel import (
    ENDS,
    PARTS,
    RESTORING,
    Program,
    bits_of,
    element_type,
    is_constant,
    maker_of,
    shape_of,
    short_name,
)
from shared.files.mlpackage import all_files, all_operations, read_model
from shared.files.onnx_graph import all_constants, all_nodes, read_onnx
from shared.files.pte import read_program
from shared.kit.stage import StageError, check_archive, reading

if TYPE_CHECKING:
    import onnx

FULL_SIZE = {"float32", "float64", "int32", "int64"}


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
        stored_as: How many weights are stored in which form: a type such as `float16`, or the ops that restore them,
            such as `sparse_to_dense` or, in two steps, `lut_to_sparse+sparse_to_dense`.
        ops: How often each op occurs, in all nested graphs too, constants left out; empty for a checkpoint.
    """

    bytes: int
    compressed_bytes: int
    weights: int
    weight_bytes: int
    compressed_share: float
    stored_as: dict[str, int]
    ops: dict[str, int]

    def share(self, form: str) -> float:
        """The share of the weights that are stored in one form; see `stored_as`."""
        return self.stored_as.get(form, 0) / max(self.weights, 1)


@dataclass(frozen=True)
class Stored:
    """One stored tensor: how many weights it holds (none, if it only helps to restore others), and in what form."""

    weights: int
    bytes: int
    form: str

    @property
    def compressed(self) -> bool:
        """Whether its weights are in fewer than 32 bits, or sparse."""
        return self.form not in FULL_SIZE


def inspect_file(path: Path) -> FileFacts:
    """Read the facts of a checkpoint or an exported file.

    Raises:
        StageError: The file is missing, damaged, or of another format.
    """
    if path.suffix not in READERS:
        raise StageError(f"{path}: not a model file; known: {', '.join(READERS)}")
    if not path.exists():
        raise StageError(f"{path}: no such file or folder")
    what, read = READERS[path.suffix]
    with reading(path, what):
        return _facts(path, *read(path))


def _facts(path: Path, tensors: list[Stored], ops: Counter[str]) -> FileFacts:
    stored_as: Counter[str] = Counter()
    for tensor in tensors:
        stored_as[tensor.form] += tensor.weights
    weights = stored_as.total()
    files = [path] if path.is_file() else all_files(path)
    return FileFacts(
        bytes=sum(file.stat().st_size for file in files),
        compressed_bytes=_zipped_size(path, files),
        weights=weights,
        weight_bytes=sum(tensor.bytes for tensor in tensors),
        compressed_share=sum(tensor.weights for tensor in tensors if tensor.compressed) / max(weights, 1),
        stored_as={form: count for form, count in sorted(stored_as.items()) if count},
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
    model = read_onnx(path)
    nodes = list(all_nodes(model))
    constants = list(all_constants(model))
    helpers = set(_onnx_helpers(nodes))
    restored = {node.input[0] for node in nodes if node.op_type == "DequantizeLinear"}
    tensors = [
        stored
        for name, tensor in constants
        if (stored := _onnx_stored(tensor, helper=name in helpers, restored=name in restored))
    ]
    return tensors, Counter(node.op_type for node in nodes if node.op_type != "Constant")


def _onnx_helpers(nodes: list["onnx.NodeProto"]) -> Iterator[str]:
    """The names of scales and zero points: of weights, or multiplied with the scale of a quantised input."""
    scales = {node.output[1] for node in nodes if node.op_type == "DynamicQuantizeLinear"}
    for node in nodes:
        yield from (node.input[at] for at in QUANTIZATION_INPUTS.get(node.op_type, ()) if at < len(node.input))
        if node.op_type == "Mul" and scales & set(node.input):
            yield from node.input


def _onnx_stored(tensor: "onnx.TensorProto", *, helper: bool, restored: bool) -> Stored | None:
    import onnx

    name = {"FLOAT": "float32", "DOUBLE": "float64"}.get(
        kind := onnx.TensorProto.DataType.Name(tensor.data_type), kind.lower()
    )
    bits = _bits(name)
    is_weight = ("float" in name or 0 < bits <= 8 or restored) and not helper and len(tensor.dims) > 0
    if not is_weight and not helper:
        return None
    elements = _count(tensor.dims)
    return Stored(elements if is_weight else 0, -(-elements * bits // 8), name)


def _count(sizes: Iterable[int]) -> int:
    """The elements of a tensor.

    Raises:
        ValueError: A size is negative.
    """
    sizes = list(sizes)
    if min(sizes, default=0) < 0:
        raise ValueError(f"a tensor of the shape {sizes}")
    return prod(sizes)


def _bits(type_name: str) -> int:
    """Bits of an element of a type such as `float32`, `bfloat16`, `float8e4m3fn` or `int4`; 0 if it is no number."""
    found = re.search(r"\d+", type_name)
    return int(found.group()) if found else 0


# --- Core ML ---

CONSTEXPR = "constexpr_"  # ops that expand compressed weights when a model is loaded


def _read_mlpackage(path: Path) -> tuple[list[Stored], Counter[str]]:
    tensors: list[Stored] = []
    ops: Counter[str] = Counter()
    for function in read_model(path).mlProgram.functions.values():
        operations = list(all_operations(function.block_specializations[function.opset]))
        ops.update(operation.type for operation in operations if operation.type != "const")
        makers = {output.name: operation for operation in operations for output in operation.outputs}
        parts = {  # of a compressed weight: what another `constexpr_*` takes
            binding.name
            for operation in operations
            if operation.type.startswith(CONSTEXPR)
            for binding in _coreml_bindings(operation)
            if binding.name
        }
        steps: dict[str, list[str]] = {}
        for operation in operations:
            tensors += _coreml_stored(operation, parts, makers, steps)
    return tensors, ops


def _coreml_bindings(operation: Any) -> Iterator[Any]:
    for argument in operation.inputs.values():
        yield from argument.arguments


def _coreml_stored(
    operation: Any, parts: set[str], makers: dict[str, Any], steps: dict[str, list[str]]
) -> Iterator[Stored]:
    """The weights that an operation holds, and the parts of others.

    A `constexpr_*` holds the parts that restore a tensor; its last result is the weight, unless another one takes it.
    """
    values = [
        *(value for name, value in operation.attributes.items() if name != "name"),
        *(binding.value for binding in _coreml_bindings(operation) if binding.WhichOneof("binding") == "value"),
    ]
    tensors = [value.type.tensorType for value in values if value.type.WhichOneof("type") == "tensorType"]
    result = operation.outputs[-1] if operation.outputs else None
    is_part = result is not None and result.name in parts
    if result is not None and operation.type.startswith(CONSTEXPR):
        elements = 0 if is_part else _coreml_elements(result.type.tensorType)
        yield Stored(elements, sum(map(_coreml_bytes, tensors)), "+".join(_coreml_steps(operation, makers, steps)))
        return
    for tensor in tensors:
        if is_part or ("float" in _coreml_type(tensor) and tensor.rank > 0):
            yield Stored(0 if is_part else _coreml_elements(tensor), _coreml_bytes(tensor), _coreml_type(tensor))


def _coreml_steps(operation: Any, makers: dict[str, Any], known: dict[str, list[str]]) -> list[str]:
    """The `constexpr_*` ops that restore a weight, in their order; `known` are those of the weights seen before."""
    name = operation.outputs[-1].name
    if name not in known:
        before = [makers[binding.name] for binding in _coreml_bindings(operation) if binding.name]
        earlier = [maker for maker in before if maker.type.startswith(CONSTEXPR)]
        steps = [step for maker in earlier for step in _coreml_steps(maker, makers, known)]
        known[name] = [*dict.fromkeys([*steps, operation.type.removeprefix(CONSTEXPR)])]
    return known[name]


def _coreml_type(tensor: Any) -> str:
    from coremltools.proto.MIL_pb2 import DataType

    return str(DataType.Name(tensor.dataType)).lower()


def _coreml_elements(tensor: Any) -> int:
    return _count(dimension.constant.size for dimension in tensor.dimensions)


def _coreml_bytes(tensor: Any) -> int:
    return -(-_coreml_elements(tensor) * _bits(_coreml_type(tensor)) // 8)


# --- Core AI ---


def _read_aimodel(path: Path) -> tuple[list[Stored], Counter[str]]:
    program = Program(path)
    operations = program.operations
    parts = [operand for each in operations if each.name in PARTS for operand in each.operands]
    tensors = []
    for each in operations:
        if each.name in RESTORING and each.results[0] not in parts:
            tensors.append(Stored(prod(shape_of(each.results[0])), 0, "+".join(_aimodel_steps(each))))
        elif is_constant(each):
            value, is_part = each.results[0], each.results[0] in parts
            kind, elements = element_type(value), prod(shape_of(value))
            if is_part or ("float" in kind and shape_of(value)):
                tensors.append(Stored(0 if is_part else elements, -(-elements * bits_of(kind) // 8), kind))
    return tensors, Counter(short_name(each) for each in operations if not is_constant(each) and each.name not in ENDS)


def _aimodel_steps(operation: Any) -> list[str]:
    """The ops that restore a weight, in their order."""
    before = [maker_of(operand) for operand in operation.operands]
    earlier = [step for maker in before if maker is not None for step in _aimodel_steps(maker)]
    return [*earlier, *([short_name(operation)] if operation.name in RESTORING else [])]


# --- ExecuTorch ---


def _read_pte(path: Path) -> tuple[list[Stored], Counter[str]]:
    program = read_program(path)
    tensors = [
        Stored(constant.values.size, constant.values.nbytes, constant.dtype)
        for constant in program.constants
        if "float" in constant.dtype and constant.values.ndim
    ]
    return tensors, Counter(program.ops)


# --- PyTorch ---


def _read_checkpoint(path: Path) -> tuple[list[Stored], Counter[str]]:
    import torch

    check_archive(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a strange pickle: it is refused anyway
        state = torch.load(path, weights_only=True, map_location="cpu")["state"].values()
    tensors = [
        Stored(tensor.numel(), tensor.numel() * tensor.itemsize, str(tensor.dtype).removeprefix("torch."))
        for tensor in state
        if tensor.is_floating_point() and tensor.ndim > 0
    ]
    return tensors, Counter()


READERS: dict[str, tuple[str, Callable[[Path], tuple[list[Stored], Counter[str]]]]] = {
    ".onnx": ("ONNX file", _read_onnx),
    ".mlpackage": ("Core ML package", _read_mlpackage),
    ".aimodel": ("Core AI asset", _read_aimodel),
    ".pte": ("ExecuTorch program", _read_pte),
    ".pt": ("checkpoint", _read_checkpoint),
}
"""What a file is called, and what reads its tensors and ops, by its suffix."""
