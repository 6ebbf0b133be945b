"""An exported file in; every weight that it holds, read back to numbers, and what its scheme could hold, out.

A weight is a constant tensor of numbers (one axis at least) that an op computes with. What restores it (scales, zero
points, tables, masks) belongs to it; shapes, indices and scalars are none.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.files.aimodel import (
    PARTS,
    RESTORING,
    Program,
    bits_of,
    constant_array,
    element_type,
    is_constant,
    maker_of,
    shape_of,
    short_name,
)
from shared.files.onnx_graph import all_nodes, nested_graphs
from shared.files.pte import read_program as read_constants
from shared.kit.stage import StageError, one_line

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]
Floats = NDArray[np.float64]

HALF_LEVELS = 64
"""What 8-bit weights reach that are multiplied as integers: they take 7 bits, so that no processor's sums overflow."""


@dataclass(frozen=True)
class Stored:
    """One weight of a file.

    Attributes:
        name: The op that reads it and what it is there, such as `LSTM.R`, or the name that the exporter kept.
        where: How its format finds it: the name of an ONNX initializer, the variable of a Core ML constant, the
            place of a Core AI constant among the ops.
        values: As the file's ops compute with them.
        form: What it is stored as: `float32`, `float16`, `int8`, `palette`, `sparse`, or two of them joined by `+`.
        half: Whether it is restored in float16.
        scale: The steps of integers: as many along each axis as there are blocks with a step of their own; else None.
        offset: Whether integers have a zero point.
        levels: How many steps the largest weight of a block is expected to reach; 0 if any number will do.
        tables: The palettes: where each holds, and its entries in ascending order.
        kept: Where a sparse weight holds values; None if everywhere.
        grouped_in_half: Whether weights were rounded to float16 before a palette was chosen, as coreai-opt does.
    """

    name: str
    where: Any
    values: Floats
    form: str
    half: bool = False
    scale: Floats | None = None
    offset: bool = False
    levels: int = 0
    tables: tuple[tuple[tuple[slice, ...], Floats], ...] = ()
    kept: NDArray[np.bool_] | None = None
    grouped_in_half: bool = False

    @property
    def kinds(self) -> list[str]:
        """The parts of its form."""
        return self.form.split("+")

    def laid_out_as(self, shape: tuple[int, ...]) -> Iterator["Stored"]:
        """The weight in another order of axes, in every way that gives a shape; axes of one element are left out."""
        core = tuple(size for size in shape if size > 1)
        own = [axis for axis, size in enumerate(self.values.shape) if size > 1]
        if sorted(self.values.shape[axis] for axis in own) != sorted(core):
            return
        single = [axis for axis in range(self.values.ndim) if axis not in own]
        for order in permutations(own):
            if tuple(self.values.shape[axis] for axis in order) == core:
                yield self._transposed(order, tuple(single))

    def _transposed(self, order: tuple[int, ...], single: tuple[int, ...]) -> "Stored":
        def move(array: Any) -> Any:
            return None if array is None else array.transpose((*single, *order))[(0,) * len(single)]

        tables = tuple((tuple(part[axis] for axis in order), entries) for part, entries in self.tables)
        return replace(self, values=move(self.values), scale=move(self.scale), kept=move(self.kept), tables=tables)


def read_weights(path: Path) -> list[Stored]:
    """Every weight of an exported file, in the order in which the graph reads them.

    Raises:
        StageError: The file cannot be read, or holds a weight in a form that nothing here restores.
    """
    try:
        return list(READERS[path.suffix](path))
    except StageError:
        raise
    except Exception as error:  # a damaged file has many ways to fail
        raise StageError(f"{path}: its weights cannot be read back: {one_line(error)}") from None


# --- ONNX ---

INTEGER_WEIGHTS = {
    "DynamicQuantizeMatMul": ((1, 2, 3, -1),),
    "DynamicQuantizeLSTM": ((1, 8, 9, -1), (2, 10, 11, -1)),
    "MatMulIntegerToFloat": ((1, 3, 5, -1),),
    "QLinearMatMul": ((3, 4, 5, -1),),
    "QLinearConv": ((3, 4, 5, 0),),
    "QGemm": ((3, 4, 5, 0),),
}
"""Of ops that multiply integers: the inputs that hold a weight, its scale and its zero point, and the scale's axis."""

PASSING = {"Gather", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Identity"}
"""Ops that only move a weight's elements on their way to the one that restores them."""


class _OnnxFile:
    """An ONNX model with its constants and who makes and reads what."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        from onnx import numpy_helper

        self.nodes = list(all_nodes(model))
        tensors = {tensor.name: tensor for tensor in _initializers(model.graph)}
        for node in self.nodes:
            if node.op_type == "Constant":
                tensors.update((node.output[0], entry.t) for entry in node.attribute if entry.name == "value")
        self.constants = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
        self.makers = {name: node for node in self.nodes for name in node.output}

    def readers(self, name: str) -> list["onnx.NodeProto"]:
        return [node for node in self.nodes if name in node.input]

    def constant(self, node: "onnx.NodeProto", index: int) -> Array | None:
        return self.constants.get(node.input[index]) if index < len(node.input) else None

    def behind(self, name: str) -> str | None:
        """The constant that a value is, but for the order and the choice of its elements."""
        while name not in self.constants:
            maker = self.makers.get(name)
            if maker is None or maker.op_type not in PASSING:
                return None
            name = maker.input[0]
        return name


def load_onnx(path: Path) -> "onnx.ModelProto":
    """An ONNX model, from its own bytes alone.

    Raises:
        StageError: It cannot be read.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise StageError(f"{path}: not a readable ONNX file: {one_line(error)}") from None


def _initializers(graph: "onnx.GraphProto") -> Iterator["onnx.TensorProto"]:
    yield from graph.initializer
    for node in graph.node:
        for nested in nested_graphs(node):
            yield from _initializers(nested)


def _read_onnx(path: Path) -> Iterator[Stored]:
    file = _OnnxFile(load_onnx(path))
    helpers: set[str] = set()
    integers: list[Stored] = []
    for node in file.nodes:
        integers += _onnx_integers(file, node, helpers)
    found = {stored.where: stored for stored in integers}
    seen = set()
    for node in file.nodes:
        for index, name in enumerate(node.input):
            values = file.constants.get(name)
            if values is None or name in seen:
                continue
            seen.add(name)
            if name in found:
                yield found[name]
            elif values.dtype.kind == "f" and values.ndim > 0 and name not in helpers:
                half = values.dtype == np.float16
                yield Stored(_onnx_name(node, index), name, values.astype(np.float64), str(values.dtype), half)


def _onnx_integers(file: _OnnxFile, node: "onnx.NodeProto", helpers: set[str]) -> Iterator[Stored]:
    """The weights that a node restores or multiplies as integers; the names of their scales become helpers."""
    if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
        helpers.update(node.input[1:])
    if node.op_type == "DequantizeLinear" and (name := file.behind(node.input[0])) is not None:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        direct = name == node.input[0]
        readers = file.readers(node.output[0])
        title = _onnx_name(readers[0], list(readers[0].input).index(node.output[0])) if readers else name
        levels = HALF_LEVELS if any(_quantized_input(file, reader) for reader in readers) else 127
        scale = file.constants[node.input[1]]
        if not direct and scale.size > 1:
            raise StageError(f"{title}: elements are chosen before scales along an axis apply")
        yield _integer(title, name, file.constants[name], scale, file.constant(node, 2), axis, levels)
    for weight, scale_at, zero_at, axis in INTEGER_WEIGHTS.get(node.op_type, ()):
        helpers.update(node.input[at] for at in (scale_at, zero_at) if at < len(node.input))
        name = node.input[weight]
        yield _integer(
            _onnx_name(node, weight), name, file.constants[name], file.constants[node.input[scale_at]],
            file.constant(node, zero_at), axis, HALF_LEVELS,
        )  # fmt: skip
    if node.op_type in {"MatMulInteger", "ConvInteger"} and node.input[1] in file.constants:
        name = node.input[1]
        scale_name = _scale_behind(file, node)
        helpers.update({scale_name, *node.input[3:4]})
        axis = -1 if node.op_type == "MatMulInteger" else 0
        title = f"{node.op_type.removesuffix('Integer')}.{'B' if axis else 'W'}"
        yield _integer(
            title, name, file.constants[name], file.constants[scale_name], file.constant(node, 3), axis, HALF_LEVELS
        )


def _quantized_input(file: _OnnxFile, node: "onnx.NodeProto") -> bool:
    """Whether a node multiplies integers: it reads a value that was computed, quantised and restored."""
    makers = [file.makers.get(name) for name in node.input]
    return any(
        maker is not None and maker.op_type == "DequantizeLinear" and file.behind(maker.input[0]) is None
        for maker in makers
    )


def _scale_behind(file: _OnnxFile, node: "onnx.NodeProto") -> str:
    """The name of the scale that the integer sums of a node are multiplied by, as a product with the input's scale."""
    waiting = [node.output[0]]
    while waiting:
        for reader in file.readers(waiting.pop()):
            if reader.op_type == "Cast":
                waiting.append(reader.output[0])
            elif reader.op_type == "Mul":
                for factor in reader.input:
                    maker = file.makers.get(factor)
                    for name in (factor, *(maker.input if maker is not None and maker.op_type == "Mul" else ())):
                        if name in file.constants:
                            return str(name)
    raise StageError(f"{node.op_type} of {node.input[1]!r}: no scale of its weights was found")


def _integer(
    title: str, where: str, integers: Array, scale: Array, zero: Array | None, axis: int, levels: int
) -> Stored:
    counts = [1] * integers.ndim
    if scale.size > 1:
        if scale.ndim == 2 and integers.ndim == 3:  # DynamicQuantizeLSTM: a row for each direction
            counts[0] = scale.shape[0]
            counts[axis] = scale.shape[1]
        elif scale.ndim == integers.ndim:  # in blocks
            counts = list(scale.shape)
        else:
            counts[0 if scale.size == integers.shape[0] and integers.ndim == 3 and axis == -1 else axis] = scale.size
    steps = scale.astype(np.float64).reshape(counts)
    zeros = np.zeros(counts) if zero is None else np.broadcast_to(zero.astype(np.float64).reshape(-1), steps.size)
    zeros = zeros.reshape(counts)
    shape = integers.shape
    values = (integers.astype(np.float64) - expand(zeros, shape)) * expand(steps, shape)
    kind = str(integers.dtype)
    return Stored(
        title, where, values, kind.removeprefix("u"), scale=steps, offset=bool(zeros.any()),
        levels=levels if "8" in kind else 7 if "4" in kind else 0,
    )  # fmt: skip


def _onnx_name(node: "onnx.NodeProto", index: int) -> str:
    """What an input is to its node, or the name that the exporter took over from the net."""
    import onnx

    name = str(node.input[index])
    if "." in name:
        return name
    domain = node.domain if node.domain != "ai.onnx" else ""
    if onnx.defs.has(node.op_type, domain):
        inputs = onnx.defs.get_schema(node.op_type, domain).inputs
        return f"{node.op_type}.{inputs[min(index, len(inputs) - 1)].name} ({name})"
    return f"{node.op_type}.{index} ({name})"


def expand(blocks: Array, shape: tuple[int, ...]) -> Array:
    """What holds for a block each, for each element: along every axis the blocks are equally long."""
    for axis, size in enumerate(shape):
        if blocks.shape[axis] not in (1, size):
            blocks = np.repeat(blocks, size // blocks.shape[axis], axis)
    return np.broadcast_to(blocks, shape)


# --- Core ML ---


def _read_mlpackage(path: Path) -> Iterator[Stored]:
    from shared.coreml_reference.program import load_program

    yield from read_program(load_program(path))


def read_program(program: Any) -> Iterator[Stored]:
    """The weights of a loaded Core ML program (`SavedProgram`); `where` is the variable that holds each."""
    seen = set()
    for operation in program.operations:
        if operation.op_type.startswith("constexpr_"):
            continue
        for argument, given in operation.inputs.items():
            for variable in given if isinstance(given, list | tuple) else [given]:
                maker = getattr(variable, "op", None)
                if maker is None or id(variable) in seen:
                    continue
                seen.add(id(variable))
                title = f"{operation.outputs[0].name}.{argument}" if operation.outputs else argument
                if maker.op_type == "const":
                    values = variable.val
                    if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.ndim > 0:
                        half = values.dtype == np.float16
                        yield Stored(title, variable, values.astype(np.float64), str(values.dtype), half)
                elif maker.op_type.startswith("constexpr_"):
                    yield _restored(title, variable)


def _restored(title: str, variable: Any) -> Stored:
    """A weight that one `constexpr_*` op restores, or two after each other."""
    from shared.coreml_reference.ops import constexpr as kernels

    operation = variable.op
    kind = operation.op_type.removeprefix("constexpr_")
    given = {name: value for name, value in operation.inputs.items() if value is not None}
    before = [value.op for value in given.values() if value.op is not None and value.op.op_type != "const"]
    if before:
        return _restored_in_two_steps(title, variable, before[0])
    arrays = {name: np.asarray(value.val) for name, value in given.items()}
    half = _is_half(variable)
    arrays = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in arrays.items()}
    values = np.asarray(getattr(kernels, f"constexpr_{kind}")(**arrays), np.float64)
    if kind == "cast":
        return Stored(title, variable, values, "float16", half=True)
    if half:
        with np.errstate(over="ignore"):
            values = values.astype(np.float16).astype(np.float64)
    if kind == "affine_dequantize":
        axis = int(arrays["axis"])
        counts = [arrays["scale"].size if index == axis % values.ndim else 1 for index in range(values.ndim)]
        offset = bool(np.any(arrays["zero_point"]))
        return Stored(title, variable, values, "int8", half, arrays["scale"].reshape(counts), offset, 127)
    if kind == "blockwise_shift_scale":
        bits = _bits(given["data"])
        offset = bool(np.any(arrays.get("offset", 0)))
        return Stored(title, variable, values, f"int{bits}", half, arrays["scale"], offset, 2 ** (bits - 1) - 1)
    if kind == "lut_to_dense":
        return Stored(title, variable, values, "palette", half, tables=_tables(title, arrays["lut"], values.shape))
    if kind == "sparse_to_dense":
        kept = kernels.constexpr_sparse_to_dense(
            np.ones_like(arrays["nonzero_data"]), arrays["mask"], arrays.get("shape")
        )
        return Stored(title, variable, values, "sparse", half, kept=kept != 0)
    raise StageError(f"{title}: stored by {operation.op_type}, which nothing here restores")


def _restored_in_two_steps(title: str, variable: Any, first: Any) -> Stored:
    from shared.coreml_reference.ops import constexpr as kernels

    kind = first.op_type.removeprefix("constexpr_")
    if variable.op.op_type != "constexpr_sparse_to_dense" or kind not in {
        "lut_to_sparse",
        "sparse_blockwise_shift_scale",
    }:
        raise StageError(f"{title}: stored by {first.op_type} and {variable.op.op_type}, which nothing here restores")
    given = {name: value for name, value in first.inputs.items() if value is not None}
    arrays = {name: np.asarray(value.val) for name, value in given.items()}
    arrays = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in arrays.items()}
    mask, nonzero = getattr(kernels, f"constexpr_{kind}")(**arrays)
    values = np.asarray(kernels.constexpr_sparse_to_dense(nonzero, mask), np.float64)
    half = _is_half(variable)
    if half:
        with np.errstate(over="ignore"):
            values = values.astype(np.float16).astype(np.float64)
    kept = np.asarray(mask) != 0
    if kind == "lut_to_sparse":
        tables = _tables(title, arrays["lut"], values.shape)
        return Stored(title, variable, values, "sparse+palette", half, tables=tables, kept=kept)
    bits = _bits(given["nonzero_data"])
    offset = bool(np.any(arrays.get("offset", 0)))
    return Stored(
        title, variable, values, f"sparse+int{bits}", half, arrays["scale"], offset, 2 ** (bits - 1) - 1, kept=kept
    )


def _is_half(variable: Any) -> bool:
    from coremltools.converters.mil.mil import types

    return bool(variable.dtype == types.fp16)


def _bits(variable: Any) -> int:
    return int(variable.dtype.get_bitwidth())


def _tables(title: str, lut: Floats, shape: tuple[int, ...]) -> tuple[tuple[tuple[slice, ...], Floats], ...]:
    """The palettes of a weight: one for all of it, or one for each of equal blocks."""
    if lut.ndim == 1:
        return ((tuple(slice(None) for _ in shape), np.sort(lut)),)
    if lut.shape[-1] != 1:
        raise StageError(f"{title}: a palette of vectors, which nothing here judges")
    counts = lut.shape[:-2]
    lengths = [size // count for size, count in zip(shape, counts, strict=True)]
    return tuple(
        (
            tuple(slice(at * length, (at + 1) * length) for at, length in zip(block, lengths, strict=True)),
            np.sort(lut[block][:, 0]),
        )
        for block in np.ndindex(*counts)
    )


# --- Core AI ---


def _read_aimodel(path: Path) -> Iterator[Stored]:
    program = Program(path)
    seen: list[Any] = []
    counts: Counter[str] = Counter()
    for each in program.operations:
        if each.name in PARTS:
            continue
        counts[short_name(each)] += 1
        for index, value in enumerate(each.operands):
            maker = maker_of(value)
            if maker is None or value in seen:
                continue
            title = f"{short_name(each)}_{counts[short_name(each)]}.{index}"
            if is_constant(maker) and "float" in element_type(value) and shape_of(value):
                kind = element_type(value)
                place = next(at for at, other in enumerate(program.operations) if other == maker)
                yield Stored(title, place, constant_array(maker).astype(np.float64), kind, kind == "float16")
            elif maker.name in RESTORING:
                yield _aimodel_restored(title, value)
            else:
                continue
            seen.append(value)


def _aimodel_restored(title: str, value: Any) -> Stored:
    """A weight that one op restores, or that is sparse and one of the others."""
    half = element_type(value) == "float16"
    maker = maker_of(value)
    kept: Any = None
    if maker.name == "coreai.sparse_with_bitmask_to_dense":
        values, kept = _aimodel_sparse(title, value)
        return Stored(title, None, values.astype(np.float64), "sparse", half, kept=kept)
    if maker.name == "coreai.lut_to_dense":
        indices, lut, axis = (_aimodel_constant(title, operand) for operand in maker.operands)
        if lut.shape[-1] != 1 or axis.any():
            raise StageError(f"{title}: a palette of vectors, which nothing here judges")
        counts = lut.shape[:-2]
        blocks = np.stack([expand(lut[..., entry, 0], indices.shape) for entry in range(lut.shape[-2])])
        values = np.take_along_axis(blocks, indices[None].astype(np.int64), axis=0)[0].astype(np.float64)
        tables = _tables(title, lut.astype(np.float64).reshape(*counts, lut.shape[-2], 1), indices.shape)
        return Stored(title, None, values, "palette", half, tables=tables, grouped_in_half=True)
    source, scale, offset, shift = maker.operands
    form = element_type(source)
    if maker_of(source).name == "coreai.sparse_with_bitmask_to_dense":
        data, kept = _aimodel_sparse(title, source)
        form = f"sparse+{form}"
    else:
        data = _aimodel_constant(title, source)
    scales, offsets, shifts = (
        _aimodel_constant(title, operand).astype(np.float64) for operand in (scale, offset, shift)
    )
    shape = data.shape
    values = (data.astype(np.float64) - expand(offsets, shape)) * expand(scales, shape) + expand(shifts, shape)
    if half:
        with np.errstate(over="ignore"):
            values = values.astype(np.float16).astype(np.float64)
    return Stored(
        title, None, values, form.replace("uint", "int"), half, scales, bool(offsets.any() or shifts.any()),
        2 ** (bits_of(form) - 1) - 1, kept=kept,
    )  # fmt: skip


def _aimodel_sparse(title: str, value: Any) -> tuple[Array, NDArray[np.bool_]]:
    """What a bit mask and the values where it is set stand for."""
    built = maker_of(maker_of(value).operands[0])
    data, mask = (_aimodel_constant(title, operand) for operand in built.operands)
    if int(mask.sum()) != data.size:
        raise StageError(f"{title}: a mask of {int(mask.sum())} for {data.size} values")
    values = np.zeros(mask.shape, data.dtype)
    values[mask != 0] = data
    return values, mask != 0


def _aimodel_constant(title: str, value: Any) -> Array:
    maker = maker_of(value)
    if not is_constant(maker):
        raise StageError(f"{title}: restored from {maker and short_name(maker)}, which nothing here restores")
    return constant_array(maker)


# --- ExecuTorch ---


def _read_pte(path: Path) -> Iterator[Stored]:
    for constant in read_constants(path).constants:
        if "float" in constant.dtype and constant.values.ndim:
            name = ".".join(dict.fromkeys(constant.ops)) or constant.name
            yield Stored(name, constant.name, constant.values.astype(np.float64), constant.dtype)


READERS: dict[str, Callable[[Path], Iterator[Stored]]] = {
    ".onnx": _read_onnx,
    ".mlpackage": _read_mlpackage,
    ".aimodel": _read_aimodel,
    ".pte": _read_pte,
}
"""What reads the weights of a file, by its suffix."""
