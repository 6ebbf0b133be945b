"""What a file computes in, and how far rounding may take its logits: for that there is no number to be chosen.

It follows from the precision and from the net alone. The net, computed in float32 and in float64, says how far one
rounding in float32 takes its logits; a coarser rounding takes them further in proportion. That holds for numbers that
are rounded relative to themselves, as in float16. Activations that an ONNX file quantises as it runs are rounded to a
step: 1/255 of the range of all numbers that share a scale. There the bound rests on this step: relative to the largest
of these numbers it is 2**16 of float32's roundings, and for the others it is no larger.

Measured on the five architectures and every variant of them: files are at most half as far from what they should
compute as this allows.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from shared.files.aimodel import PARTS, Program, element_type, is_constant, is_tensor
from shared.files.onnx_graph import all_nodes
from shared.files.pte import read_program
from shared.judging.stored import load_onnx
from shared.kit.stage import StageError

DYNAMIC_OPS = ("DynamicQuantize", "MatMulInteger", "ConvInteger")
CALIBRATED_OPS = ("QuantizeLinear", "QLinear", "QGemm")


class Precision(NamedTuple):
    """What a file computes in.

    Attributes:
        name: In words.
        roundings: How far one rounding takes a number, as a multiple of what float32's does.
        floor: An error that is allowed on any net, as a part of the deviation of its logits.
    """

    name: str
    roundings: float
    floor: float


FLOAT32 = Precision("float32", 1, 1e-5)
FLOAT16 = Precision("float16", 2.0**13, 1e-3)
INT8 = Precision("8-bit activations", 2.0**16, 1e-2)
CALIBRATED = Precision("calibrated 8-bit activations", 2.0**16, 1e-2)
"""Of a range that was fixed beforehand: whatever lies outside it is cut off, and the file computes something else."""

ANOTHER_ORDER = 4
"""How much further than the net's own rounding another order of sums and another way to compute a function may go."""


def bound(precision: Precision, rounding: float) -> float:
    """How far logits may be from what they should be, in the root mean square, as a part of their deviation.

    Args:
        precision: What the file computes in.
        rounding: How far one rounding in float32 takes the net's logits, as a part of their deviation.
    """
    return precision.floor + ANOTHER_ORDER * precision.roundings * rounding


def precision_of(path: Path) -> Precision:
    """What a file computes in, which is not always what it stores its weights in: the coarsest of its ops.

    Raises:
        StageError: The file cannot be read.
    """
    found = READERS[path.suffix](path)
    return max(found, key=lambda precision: (precision.roundings, precision is CALIBRATED), default=FLOAT32)


def _in_onnx(path: Path) -> Iterator[Precision]:
    import onnx

    half = onnx.TensorProto.FLOAT16
    nodes = list(all_nodes(load_onnx(path)))
    restored = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    for node in nodes:
        if node.op_type.startswith(CALIBRATED_OPS):
            yield CALIBRATED
        if node.op_type.startswith(DYNAMIC_OPS):
            yield INT8
        if node.op_type == "MatMul" and restored & set(node.input):
            yield INT8  # ONNX Runtime fuses the two, and then quantises the other factor in blocks
        if node.op_type == "Cast" and any(attribute.i == half for attribute in node.attribute):
            yield FLOAT16


def _in_mlpackage(path: Path) -> Iterator[Precision]:
    from shared.coreml_reference.program import load_program

    program = load_program(path)

    from coremltools.converters.mil.mil import types

    for operation in program.operations:
        if operation.op_type.startswith("constexpr_"):
            continue
        if any(getattr(variable, "dtype", None) == types.fp16 for variable in operation.outputs):
            yield FLOAT16


def _in_aimodel(path: Path) -> Iterator[Precision]:
    program = Program(path)
    for each in program.operations:
        computed = not is_constant(each) and each.name not in PARTS
        if computed and any(is_tensor(value) and element_type(value) == "float16" for value in each.results):
            yield FLOAT16


def _in_pte(path: Path) -> Iterator[Precision]:
    computed = read_program(path).computed
    if "float16" in computed:
        yield FLOAT16
    if unknown := computed - {"float32", "float16"}:
        raise StageError(f"{path}: computes in {min(unknown)}, which nothing here judges")


READERS: dict[str, Callable[[Path], Iterator[Precision]]] = {
    ".onnx": _in_onnx,
    ".mlpackage": _in_mlpackage,
    ".aimodel": _in_aimodel,
    ".pte": _in_pte,
}
"""What tells the precisions that a file computes in, by its suffix."""
