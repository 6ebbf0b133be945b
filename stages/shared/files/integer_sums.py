"""How large the integer sums of a quantised ONNX file can become, for any input: a bound from its weights alone.

Processors differ in how they add products of 8-bit integers. Those with an instruction for it (VNNI, ARM's dot
product) add four in 32 bits. Others with AVX2 or AVX-512 first add the products of two neighbours in 16 bits, and what
does not fit is cut off without a word: the logits are then others than on the machine where the file was verified. An
activation has at most 8 bits, so two products are at most 255 (|a| + |b|), with a and b two weights of one output.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.files.onnx_graph import all_constants, all_nodes, read_onnx
from shared.kit.stage import reading

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

LARGEST_ACTIVATION = 255
LARGEST_PAIR = 2**15 - 1  # what 16 bits hold
LARGEST_SUM = 2**31 - 1  # what 32 bits hold

OUTPUTS_LAST, OUTPUTS_FIRST = -1, 0
WEIGHTS = {
    "DynamicQuantizeLSTM": [(1, OUTPUTS_LAST), (2, OUTPUTS_LAST)],
    "MatMulInteger": [(1, OUTPUTS_LAST)],
    "ConvInteger": [(1, OUTPUTS_FIRST)],
    "DynamicQuantizeMatMul": [(1, OUTPUTS_LAST)],
    "MatMulIntegerToFloat": [(1, OUTPUTS_LAST)],
    "QLinearMatMul": [(3, OUTPUTS_LAST)],
    "QLinearConv": [(3, OUTPUTS_FIRST)],
}
"""The inputs that hold the weights of an op which multiplies integers, and the axis of their outputs."""
FUSED = {"MatMul": OUTPUTS_LAST, "Gemm": OUTPUTS_LAST, "Conv": OUTPUTS_FIRST}
"""Ops that a runtime computes in integers where both inputs were restored from such, and that axis of the second."""


def integer_sums(path: Path) -> dict[str, Any] | None:
    """The bounds of an ONNX file that multiplies integers; None if it does not.

    Returns:
        `largest_pair` and `largest_sum`: no two products, and no sum of all products of an output, are larger, whatever
        the input is; None where both factors are computed. `exact`: whether they fit in 16 and in 32 bits.

    Raises:
        StageError: The file is damaged.
    """
    if path.suffix != ".onnx":
        return None
    with reading(path, "ONNX file"):
        found = list(_multiplied(read_onnx(path)))
    if not found:
        return None
    known = [np.abs(weights.astype(np.int64)) for weights in found if weights is not None]
    if len(known) < len(found):
        return {"largest_pair": None, "largest_sum": None, "exact": False}
    pair = max(LARGEST_ACTIVATION * int(np.sort(weights, axis=0)[-2:].sum(axis=0).max()) for weights in known)
    total = max(LARGEST_ACTIVATION * int(weights.sum(axis=0).max()) for weights in known)
    return {"largest_pair": pair, "largest_sum": total, "exact": pair <= LARGEST_PAIR and total <= LARGEST_SUM}


def _multiplied(model: "onnx.ModelProto") -> Iterator[NDArray[Any] | None]:
    """The weights of every product of integers, as (terms of a sum, outputs); None where they are computed."""
    import onnx

    nodes = list(all_nodes(model))
    constants = dict(all_constants(model))
    restored = {node.output[0]: node.input[0] for node in nodes if node.op_type == "DequantizeLinear"}
    for node in nodes:
        if node.op_type in WEIGHTS:
            names = [(node.input[index], axis) for index, axis in WEIGHTS[node.op_type]]
        elif node.op_type in FUSED and node.input[0] in restored and node.input[1] in restored:
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            names = [(restored[node.input[1]], OUTPUTS_FIRST if transposed else FUSED[node.op_type])]
        else:
            continue
        for name, axis in names:
            if name not in constants:
                yield None
                continue
            weights = onnx.numpy_helper.to_array(constants[name])
            if node.op_type == "DynamicQuantizeLSTM":  # (directions, terms, outputs)
                weights = np.concatenate(list(weights), axis=axis)
            yield np.moveaxis(weights, axis, -1).reshape(-1, weights.shape[axis])
