"""Compress an ONNX file: the float32 file in; one variant of it out, of the kind that its name says.

    fp16          weights and computation in half precision; the tensors outside stay float32
    int8          8-bit integers; LSTM, MatMul and Gemm compute in them, and scale their inputs batch by batch: the
                  result of a row depends a little on the rows beside it
    int8_weights  8-bit integers that are restored before use: smaller on disk, as slow as float32, no row on its own
    int8_static   8-bit integers; Conv, MatMul and Gemm compute in them, with scales calibrated on the training split

Weights that are multiplied as integers take 7 of the 8 bits. A processor without such an instruction as VNNI adds the
products of two neighbours in 16 bits, which 2 x 255 x 127 overflows and 2 x 255 x 64 does not: so all sums are exact,
and the file computes the same on all of them.

A new kind is a function here and its entry in `RECIPES`.
"""

import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shared.conversion.canonical import canonical_onnx
from shared.conversion.compression import check_compressed
from shared.data.sequences import Prepared
from shared.execution.one_row import run_one_row
from shared.files.artifacts import is_left_out, precision_of, write_left_out
from shared.files.inspection import inspect_file
from shared.kit.params import Count, StageParams, closest, read_params
from shared.kit.stage import StageError, one_line, parse_args, replacing, run

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.quant_utils import add_pre_process_metadata
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from pydantic import Field

DYNAMIC_OPS = ["LSTM", "MatMul", "Gemm"]
STATIC_OPS = ["Conv", "MatMul", "Gemm"]
LEAVE_OUT = "take the variant off compress_onnx.variants, or lower compress_onnx.minimum_share"
FLOAT16 = np.finfo(np.float16)
MATRIX = 2  # axes longer than one, from which on 8 bits and scales take less room than 32 bits
RESTORES = re.compile("Quant|Integer")  # ops whose constants are scales, or already integers

OUTPUT_AXIS = {
    "Conv": {1: 0},
    "ConvTranspose": {1: 1},
    "Gather": {0: 0},  # a table: its rows
    "GRU": {1: 1, 2: 1},
    "LSTM": {1: 1, 2: 1},
    "RNN": {1: 1, 2: 1},
    "MatMul": {0: -2, 1: -1},
    "Gemm": {0: 0, 1: -1},  # the other one if it is transposed
}
"""The inputs that are weights, by op and position, and which of their axes is the output's: one scale for each.

Of any other op, weights are all constants with two axes at least, such as learned positions: a scale for each channel,
which is the last axis.
"""


class Params(StageParams):
    """Section `compress_onnx`."""

    variants: list[Literal["fp16", "int8", "int8_weights", "int8_static"]]
    minimum_share: float = Field(gt=0, le=1)
    calibration_rows: Count


@dataclass(frozen=True)
class Recipe:
    """How to make a variant, and the type that its weights are stored in, by which it is judged."""

    compress: Callable[[onnx.ModelProto, Prepared, Params], onnx.ModelProto]
    stored_as: str


def half_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and computation in float16, inputs and outputs as they were."""
    own = {node.name for node in model.graph.node}
    result: onnx.ModelProto = convert_float_to_float16(
        model,
        keep_io_types=True,
        # Its defaults would move what float16 can hold to a narrower range.
        min_positive_val=float(FLOAT16.smallest_subnormal),
        max_finite_val=float(FLOAT16.max),
        node_block_list=list(not_to_round(model.graph)),
    )
    drop_round_trips(result.graph, own)
    graph = OnnxModel(result)
    graph.prune_graph()
    graph.topological_sort(is_deterministic=True)
    return result


def not_to_round(graph: onnx.GraphProto) -> Iterator[str]:
    """The nodes that stay in float32, as they do in the half-precision mlpackage.

    Those that standardise raw values, which may be too large for float16 or too close to each other; and those that
    make masks and positions out of lengths and step numbers, which float16 cannot count above 2048. And what turns axes
    before a product: ONNX Runtime crashes over a half-precision `Transpose` before a `MatMul`, and it rounds nothing.
    """
    sequence, *lengths = (value.name for value in graph.input)
    constants = {tensor.name for tensor in graph.initializer}
    multiplied = {name for node in graph.node if node.op_type == "MatMul" for name in node.input}
    raw, computed, counted = {sequence}, {sequence}, set(lengths)
    for node in graph.node:
        first, *others = node.input or [""]
        standardizes = node.op_type in {"Sub", "Div", "Mul"} and first in raw and set(others) <= constants
        if standardizes:
            raw.update(node.output)
        if node.op_type != "Shape" and computed & set(node.input):
            computed.update(node.output)
        elif node.op_type in {"Range", "Cast"} or counted & set(node.input):  # a Cast of the number of steps
            counted.update(node.output)
        turns = node.op_type == "Transpose" and multiplied & set(node.output)
        if standardizes or turns or counted & set(node.output):
            yield node.name


def drop_round_trips(graph: onnx.GraphProto, own: set[str]) -> None:
    """Read a float32 value itself where it was cast to float16 and back, as the converter does with every input.

    Nodes whose names are in `own` were there before: what they cast may be an integer.
    """
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    originals = {
        name: casts[cast.input[0]].input[0]
        for name, cast in casts.items()
        if cast.attribute[0].i == TensorProto.FLOAT and cast.input[0] in casts and casts[cast.input[0]].name not in own
    }
    for node in graph.node:
        node.input[:] = [originals.get(name, name) for name in node.input]


def dynamic_integers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let the ops with such a kernel compute in 8-bit integers; store the other weights in them.

    Raises:
        StageError: An LSTM was left out.
    """
    _give_own_weights(model.graph)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        quantize_dynamic(
            _lean(model),
            file,
            op_types_to_quantize=DYNAMIC_OPS,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*_products_with_vectors(model.graph)],
        )
        result = onnx.load(file)
    if left := sum(node.op_type == "LSTM" for node in result.graph.node):
        raise StageError(f"int8: {left} LSTM nodes were left in float32; export with the lean graph")
    return integer_weights(result)


def _give_own_weights(graph: onnx.GraphProto) -> None:
    """Copy the weights of an LSTM that is applied twice: the toolkit knows how to replace those of one node alone."""
    tensors, taken = {tensor.name: tensor for tensor in graph.initializer}, set()
    for number, node in enumerate(graph.node):
        for index in (1, 2) if node.op_type == "LSTM" else ():
            name = node.input[index]
            if name in taken and name in tensors:
                node.input[index] = f"{name}_{number}"
                graph.initializer.append(
                    numpy_helper.from_array(numpy_helper.to_array(tensors[name]), node.input[index])
                )
            taken.add(name)


def _products_with_vectors(graph: onnx.GraphProto) -> Iterator[str]:
    """The names of nodes that multiply with a vector: the runtime refuses the scales that the toolkit would give it."""
    vectors = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 1}
    for number, node in enumerate(graph.node):
        if node.op_type == "MatMul" and vectors & set(node.input):
            node.name = node.name or f"product_{number}"
            yield node.name


def integer_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store weights as 8-bit integers with a scale for each output channel, which a `DequantizeLinear` restores.

    It works for every op, and computes for a row what it computes for a batch.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for name, axis in dict(reversed([*_weight_axes(graph)])).items():  # of several readers, the first has its say
        if name not in tensors or tensors[name].data_type != TensorProto.FLOAT:
            continue
        weights = numpy_helper.to_array(tensors[name])
        if sum(size > 1 for size in weights.shape) < MATRIX or not np.isfinite(weights).all():
            continue  # a bias, or a mask
        others = tuple(other for other in range(weights.ndim) if other != axis % weights.ndim)
        largest = np.abs(weights).max(axis=others, keepdims=True)
        scales = np.where(largest > 0, largest, 1) / np.float32(127)
        integers = np.round(weights / scales).astype(np.int8)
        graph.initializer.remove(tensors[name])
        graph.initializer.extend(
            [
                numpy_helper.from_array(integers, f"{name}_quantized"),
                numpy_helper.from_array(scales.reshape(-1), f"{name}_scale"),
            ]
        )
        inputs = [f"{name}_quantized", f"{name}_scale"]
        graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, [name], axis=axis % weights.ndim))
    return model


def _weight_axes(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    """The inputs that may be weights, and the axis of each that gets the scales."""
    for node in graph.node:
        known = OUTPUT_AXIS.get(node.op_type, {})
        transposed = {attribute.name for attribute in node.attribute if attribute.i}
        for index, name in enumerate(node.input):
            if index in known:
                flipped = node.op_type == "Gemm" and f"trans{'AB'[index]}" in transposed
                yield name, -1 - known[index] % 2 if flipped else known[index]
            elif not known and not RESTORES.search(node.op_type):
                yield name, -1


class Rows(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
    """The first rows of the training split, which `prepare` has shuffled, one batch."""

    def __init__(self, model: onnx.ModelProto, data: Prepared, rows: int) -> None:
        train = data.split("train")
        names = [value.name for value in model.graph.input]
        arrays = [train.sequences[:rows], *([] if train.lengths is None else [train.lengths[:rows]])]
        self._batches = iter([dict(zip(names, arrays, strict=True))])

    def get_next(self) -> dict[str, Any] | None:
        """Return the batch, then None."""
        return next(self._batches, None)


def static_integers(model: onnx.ModelProto, data: Prepared, rows: int) -> onnx.ModelProto:
    """Let Conv, MatMul and Gemm compute in 8-bit integers, with the range of each tensor as seen on `rows` rows.

    Activations take all 8 bits, so the product of two of them, as attention has it, stays in float32.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        quantize_static(
            _lean(model),
            file,
            Rows(model, data, rows),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=STATIC_OPS,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[
                node.name for node in model.graph.node if node.input[1:2] and node.input[1] not in constants
            ],
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )
        return onnx.load(file)


def _lean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Tell the quantiser that the graph needs no simplifying: `export_onnx` did it."""
    add_pre_process_metadata(model)
    return model


RECIPES = {
    "fp16": Recipe(lambda model, _data, _params: half_precision(model), "float16"),
    "int8": Recipe(lambda model, _data, _params: dynamic_integers(model), "int8"),
    "int8_weights": Recipe(lambda model, _data, _params: integer_weights(model), "int8"),
    "int8_static": Recipe(lambda model, data, params: static_integers(model, data, params.calibration_rows), "int8"),
}


def compress(content: bytes, recipe: Recipe, data: Prepared, params: Params) -> bytes:
    """Make one variant of an ONNX file; names, axes and metadata stay.

    Raises:
        StageError: The file is damaged, or the toolkit fails over it.
    """
    try:
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and the checker's have no common base
        raise StageError(f"not a readable ONNX file: {one_line(error)}") from None
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    try:
        result = recipe.compress(model, data, params)
    except (StageError, OSError, MemoryError):
        raise
    except Exception as error:  # the quantisers' have no common base
        raise StageError(f"the toolkit fails over its graph: {one_line(error)}; {LEAVE_OUT}") from None
    shorten_names(result.graph)
    return canonical_onnx(result, metadata)


def advice(content: bytes) -> str:
    """What to do about a variant that left too many weights as they were: which ops read those, and the ways out."""
    graph = onnx.load_from_string(content).graph
    left = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT and sum(size > 1 for size in tensor.dims) >= MATRIX
    }
    ops = sorted({node.op_type for node in graph.node if left & set(node.input) and not RESTORES.search(node.op_type)})
    reason = f"{', '.join(ops)} has no kernel for others than float32" if ops else "the others are biases"
    return f"{reason}; {LEAVE_OUT}"


def shorten_names(graph: onnx.GraphProto) -> None:
    """Number everything inside the graph: the quantisers' names are a twentieth of a small file."""
    names = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}
    for tensor in graph.initializer:
        tensor.name = names.setdefault(tensor.name, f"w{len(names)}")
    for node in graph.node:
        node.name = ""
        for ends in (node.input, node.output):
            ends[:] = [names.setdefault(name, f"v{len(names)}") for name in ends]


def main() -> None:
    """Read the arguments and the parameters; write the variant, if it is what its name says."""
    args = parse_args(
        __doc__,
        inputs={"onnx": "the float32 ONNX file", "prepared": "the folder of prepared arrays"},
        outputs={"compressed": "the variant that its name says: classifier-<variant>.onnx"},
    )
    params = read_params("compress_onnx", Params)
    variant = precision_of(args.compressed)
    if variant not in RECIPES:
        raise StageError(
            f"{args.compressed}: unknown variant {variant!r}{closest(variant, RECIPES)}; known: {', '.join(RECIPES)}"
        )
    if is_left_out(args.onnx):
        write_left_out(args.compressed)
        return
    recipe = RECIPES[variant]
    try:
        content = compress(args.onnx.read_bytes(), recipe, Prepared(args.prepared), params)
    except StageError as error:
        raise StageError(f"{args.onnx}: {error}") from None
    with replacing(args.compressed) as beside:
        beside.write_bytes(content)
        check_compressed(inspect_file(beside), variant, recipe.stored_as, params.minimum_share, advice(content))
        run_one_row(beside, args.compressed)


if __name__ == "__main__":
    run(main)
