"""Files corrupted as real bugs corrupt them: `verify` rejects each, and says which check caught it.

Every mutant goes through the real stages: it is executed, evaluated and verified beside the files that are as exported,
which must pass.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.files.formats import EXPORTED as EXPORTED_FORMATS
from shared.files.formats import SUFFIXES
from tests.edits import Array, Onnx, Package
from tests.support import SMALL, Workspace, call_stages, made_once, rejections, set_params, write_params

import numpy as np
import onnx
import pandas as pd
import pytest

EXPORTERS = ["export_onnx", "export_coreml", "export_coreai", "export_executorch"]  # the last two are left out
EXPORTED = ["train", *EXPORTERS, "predict@pytorch", "predict@onnx", "predict@coreml", "evaluate"]


@pytest.fixture(scope="session")
def plain(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An LSTM that reads one feature forwards, six steps; compressed in two more ways than the small run is."""

    def make(folder: Path) -> None:
        shutil.copytree(small_run, folder, dirs_exist_ok=True)
        call_stages(folder, ["compress_coreml@int8", "compress_coreml@sparse50"])

    return made_once(tmp_path_factory, "plain", make)


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers that read two features in both directions, two to five steps of them, and standardise raw values."""

    def make(folder: Path) -> None:
        write_params(folder)
        changes = SMALL | {
            "prepare.ragged": True,
            "export_coreml.largest_batch": 256,
            "train.standardize": True,
            "architecture.lstm": {"hidden_size": 8, "layers": 2, "bidirectional": True, "dropout": 0.0},
        }
        set_params(folder, changes)
        random = np.random.default_rng(0)
        standard = random.normal(size=(700, 5, 2))
        labels = np.digitize(standard[:, :2].sum(axis=(1, 2)), [-1, 1])
        columns = {f"{name}{step}": standard[:, step, i] for i, name in enumerate("xy") for step in range(5)}
        table = pd.DataFrame(columns) * ([20] * 5 + [0.5] * 5) + ([30] * 5 + [-3] * 5)
        lengths = random.integers(2, 6, 700)
        table = table.where(np.tile(np.arange(5), 2) < lengths[:, None])
        (folder / "data").mkdir()
        table.assign(label=labels).to_csv(folder / "data/sequences.csv", index=False)
        call_stages(folder, ["prepare", *EXPORTED, "verify"])

    return made_once(tmp_path_factory, "wide", make)


@dataclass(frozen=True)
class Mutant:
    """A change of one file, and the check that must catch it."""

    run: str
    file: str
    name: str
    change: Callable[[Path], None]
    check: str


MUTANTS: list[Mutant] = []


def mutant(name: str, *files: str, check: str = "graph", run: str = "plain") -> Callable[..., Any]:
    """Register a function that changes an opened file, or the file at a path, as a mutant of each of these files."""

    def register(change: Callable[[Any], None]) -> Callable[[Any], None]:
        [kind] = list(change.__annotations__.values())[:1]

        def corrupt(path: Path) -> None:
            if kind is Path:
                change(path)
            else:
                opened = kind(path)
                change(opened)
                opened.save()

        MUTANTS.extend(Mutant(run, file, name, corrupt, check) for file in files)
        return change

    return register


PACKAGES = ("coreml fp32", "coreml fp16")

# --- weights ---


def swapped(values: Array, axis: int, blocks: int, first: int, second: int) -> Array:
    """With two of the equal blocks along an axis in each other's place."""
    parts = np.split(values, blocks, axis)
    parts[first], parts[second] = parts[second], parts[first]
    return np.concatenate(parts, axis)


def lstm_inputs(file: Onnx) -> list[str]:
    """Names of the LSTM's weights, recurrent weights and biases."""
    return [file.name("LSTM", index) for index in (1, 2, 3)]


def swap_gates(file: Onnx, first: int, second: int) -> None:
    weights, recurrent, bias = lstm_inputs(file)
    for name in (weights, recurrent):
        file.set_constant(name, swapped(file.constant(name), 1, 4, first, second))
    halves = np.split(file.constant(bias), 2, axis=1)
    file.set_constant(bias, np.concatenate([swapped(half, 1, 4, first, second) for half in halves], axis=1))


@mutant("gates i and o swapped", "onnx fp32")
def _(file: Onnx) -> None:
    swap_gates(file, 0, 1)


@mutant("gates o and f swapped", "onnx fp32")
def _(file: Onnx) -> None:
    swap_gates(file, 1, 2)


@mutant("gates f and c swapped", "onnx fp32")
def _(file: Onnx) -> None:
    swap_gates(file, 2, 3)


PARTS = ("weight_ih", "weight_hh", "bias")


def swap_package_gates(file: Package, first: int, second: int) -> None:
    for part in PARTS:
        file.set("lstm", part, swapped(file.get("lstm", part), 0, 4, first, second))


@mutant("gates i and f swapped", "coreml fp16", check="weights")
def _(file: Package) -> None:
    swap_package_gates(file, 0, 1)


@mutant("gates o and z in torch's order", "coreml fp32")
def _(file: Package) -> None:
    swap_package_gates(file, 2, 3)


@mutant("bias of gates c and o swapped", "onnx fp32")
def _(file: Onnx) -> None:
    bias = file.name("LSTM", 3)
    file.set_constant(bias, swapped(swapped(file.constant(bias), 1, 8, 1, 3), 1, 8, 5, 7))


@mutant("bias of gates f and o swapped", "coreml fp32")
@mutant("bias of gates f and o swapped", "coreml fp16", check="weights")
def _(file: Package) -> None:
    file.set("lstm", "bias", swapped(file.get("lstm", "bias"), 0, 4, 1, 2))


@mutant("bias of the LSTM dropped", "onnx fp32", check="weights")
def _(file: Onnx) -> None:
    file.node("LSTM").input[3] = ""


@mutant("recurrent bias dropped", "onnx fp32", check="weights")
def _(file: Onnx) -> None:
    bias = file.name("LSTM", 3)
    values = file.constant(bias).copy()
    values[:, 200:] = 0
    file.set_constant(bias, values)


@mutant("bias of the LSTM dropped", "coreml fp32", check="weights")
def _(file: Package) -> None:
    file.set("lstm", "bias", np.zeros_like(file.get("lstm", "bias")))


@mutant("bias of one class dropped", "onnx fp32", check="weights")
def _(file: Onnx) -> None:
    bias = file.name("Gemm", 2)
    file.set_constant(bias, file.constant(bias) * np.array([1, 0, 1], np.float32))


@mutant("bias of one class dropped", *PACKAGES, check="weights")
def _(file: Package) -> None:
    file.set("linear", "bias", file.get("linear", "bias") * np.array([1, 0, 1]))


@mutant("last layer zeroed", "onnx fp32", check="weights")
def _(file: Onnx) -> None:
    weight = file.name("Gemm", 1)
    file.set_constant(weight, np.zeros_like(file.constant(weight)))


@mutant("last layer zeroed", "coreml fp16", check="weights")
def _(file: Package) -> None:
    file.set("linear", "weight", np.zeros_like(file.get("linear", "weight")))


@mutant("recurrent weights transposed", "onnx fp32")
def _(file: Onnx) -> None:
    weight = file.name("LSTM", 2)
    gates = [gate.swapaxes(1, 2) for gate in np.split(file.constant(weight), 4, axis=1)]
    file.set_constant(weight, np.concatenate(gates, axis=1))


@mutant("recurrent weights transposed", "coreml fp32")
def _(file: Package) -> None:
    gates = np.split(file.get("lstm", "weight_hh"), 4)
    file.set("lstm", "weight_hh", np.concatenate([gate.T for gate in gates]))


@mutant("recurrent weights zeroed", "onnx fp32", check="weights")
def _(file: Onnx) -> None:
    weight = file.name("LSTM", 2)
    file.set_constant(weight, np.zeros_like(file.constant(weight)))


def flip_largest(values: Array) -> Array:
    flat = values.flatten()
    flat[np.abs(flat).argmax()] *= -1
    return flat.reshape(values.shape)


@mutant("one recurrent weight's sign flipped", "onnx fp32", check="weights")
def _(file: Onnx) -> None:
    weight = file.name("LSTM", 2)
    file.set_constant(weight, flip_largest(file.constant(weight)))


@mutant("one recurrent weight's sign flipped", *PACKAGES, check="weights")
def _(file: Package) -> None:
    file.set("lstm", "weight_hh", flip_largest(file.get("lstm", "weight_hh")))


@mutant("weights rounded to half precision", "onnx fp32", check="weights")
def _(file: Onnx) -> None:
    for index in (1, 2):
        name = file.name("LSTM", index)
        file.set_constant(name, file.constant(name).astype(np.float16).astype(np.float32))


@mutant("weights rounded to half precision", "coreml fp32", check="weights")
def _(file: Package) -> None:
    for part in ("weight_ih", "weight_hh"):
        file.set("lstm", part, file.get("lstm", part).astype(np.float16))


@mutant("a weight is not a number", "onnx fp32", check="weights")
def _(file: Onnx) -> None:
    weight = file.name("Gemm", 1)
    values = file.constant(weight).copy()
    values[2, 0] = np.nan
    file.set_constant(weight, values)


@mutant("half precision overflows", "coreml fp16", check="weights")
def _(file: Package) -> None:
    file.set("linear", "weight", file.get("linear", "weight").astype(np.float32) * 1e6)


@mutant("output columns permuted", "onnx fp32")
def _(file: Onnx) -> None:
    for index in (1, 2):
        name = file.name("Gemm", index)
        file.set_constant(name, file.constant(name)[[1, 0, 2]])


@mutant("output columns permuted", "coreml fp32")
def _(file: Package) -> None:
    for argument in ("weight", "bias"):
        file.set("linear", argument, file.get("linear", argument)[[1, 0, 2]])


# --- what is done with them ---


@mutant("sequence read backwards", "onnx fp32")
def _(file: Onnx) -> None:
    file.set_attribute("LSTM", "direction", "reverse")


@mutant("sequence read backwards", "coreml fp16")
def _(file: Package) -> None:
    file.set_string("lstm", "direction", "reverse")


@mutant("tanh in the cell is a sigmoid", "onnx fp32")
def _(file: Onnx) -> None:
    file.set_attribute("LSTM", "activations", ["Sigmoid", "Sigmoid", "Tanh"])


@mutant("tanh in the cell is a sigmoid", "coreml fp32")
def _(file: Package) -> None:
    file.set_string("lstm", "cell_activation", "sigmoid")


@mutant("cell clipped", "onnx fp32", check="probes")
def _(file: Onnx) -> None:
    file.set_attribute("LSTM", "clip", 3.0)


@mutant("first state read instead of the last", "onnx fp32")
def _(file: Onnx) -> None:
    file.set_constant("first", np.array([0]))
    node = file.node("LSTM")
    state = node.output[1]
    node.output[0], node.output[1] = "states", ""
    gather = onnx.helper.make_node("Gather", ["states", "first"], ["at_first"], axis=0)
    squeeze = onnx.helper.make_node("Squeeze", ["at_first", "first"], [state])
    file.graph.node.insert(list(file.graph.node).index(node) + 1, gather)
    file.graph.node.insert(list(file.graph.node).index(gather) + 1, squeeze)


@mutant("last step left out", "onnx fp32")
def _(file: Onnx) -> None:
    for name, value in (("start", 0), ("end", 5), ("axis", 1)):
        file.set_constant(name, np.array([value]))
    file.prepend("Slice", "start", "end", "axis")


@mutant("initial state is not zero", "onnx fp32")
def _(file: Onnx) -> None:
    file.set_constant("state", np.full((1, 1, 50), 0.01, np.float32))
    file.set_constant("one", np.array([1], np.int64))
    file.set_constant("size", np.array([50], np.int64))
    nodes = [
        onnx.helper.make_node("Shape", ["sequence"], ["rows"], start=0, end=1),
        onnx.helper.make_node("Concat", ["one", "rows", "size"], ["state_shape"], axis=0),
        onnx.helper.make_node("Expand", ["state", "state_shape"], ["initial_c"]),
    ]
    for position, node in enumerate(nodes):
        file.graph.node.insert(position, node)
    file.node("LSTM").input.extend(["", "", "initial_c"])


@mutant("inputs clipped at what is rarely exceeded", "onnx fp32", check="probes")
def _(file: Onnx) -> None:
    file.set_constant("low", np.array(0, np.float32))
    file.set_constant("high", np.array(9.99, np.float32))
    file.prepend("Clip", "low", "high")


@mutant("what follows the end is added, which in the data is zero", "onnx fp32", check="padding", run="wide")
def _(file: Onnx) -> None:
    file.set_constant("nothing", np.array(0, np.float32))
    file.set_constant("over", np.array([1]))
    counts = file.name("Where", 0)
    file.graph.node.extend(
        [
            onnx.helper.make_node("Where", [counts, "nothing", "sequence"], ["after_the_end"]),
            onnx.helper.make_node("ReduceSum", ["after_the_end", "over"], ["of_each_feature"], keepdims=0),
            onnx.helper.make_node("ReduceSum", ["of_each_feature", "over"], ["leak"], keepdims=1),
        ]
    )
    file.append("Add", "leak")


@mutant("padding multiplied by zero instead of replaced", "onnx fp32", check="padding", run="wide")
def _(file: Onnx) -> None:
    file.set_constant("nothing", np.array(0, np.float32))
    file.set_constant("over", np.array([1]))
    file.graph.node.extend(
        [
            onnx.helper.make_node("ReduceSum", ["sequence", "over"], ["of_each_feature"], keepdims=0),
            onnx.helper.make_node("ReduceSum", ["of_each_feature", "over"], ["all"], keepdims=1),
            onnx.helper.make_node("Mul", ["all", "nothing"], ["leak"]),
        ]
    )
    file.append("Add", "leak")


@mutant("NaN where a sequence is all zeros", "onnx fp32", check="probes")
def _(file: Onnx) -> None:
    file.set_constant("over", np.array([1]))
    file.graph.node.extend(
        [
            onnx.helper.make_node("Abs", ["sequence"], ["size"]),
            onnx.helper.make_node("ReduceMax", ["size", "over"], ["largest"], keepdims=0),
            onnx.helper.make_node("Div", ["largest", "largest"], ["one"]),
        ]
    )
    file.append("Mul", "one")


@mutant("softmax appended", "onnx fp32")
def _(file: Onnx) -> None:
    file.append("Softmax", axis=1)


@mutant("log-softmax appended", "onnx fp32")
def _(file: Onnx) -> None:
    file.append("LogSoftmax", axis=1)


@mutant("dropout active", "onnx fp32", check="shapes")
def _(file: Onnx) -> None:
    file.set_constant("ratio", np.array(0.1, np.float32))
    file.set_constant("training", np.array(True))
    file.append("Dropout", "ratio", "training", seed=0)


@mutant("logits relative to the batch's mean", "onnx fp32", check="shapes")
def _(file: Onnx) -> None:
    file.append("MeanVarianceNormalization", axes=[0])


# --- shapes ---


def fix_batch(value: Any, size: int) -> None:
    value.type.tensor_type.shape.dim[0].dim_value = size


@mutant("batch fixed at 1", "onnx fp32", check="executed")
def _(file: Onnx) -> None:
    fix_batch(file.graph.input[0], 1)
    fix_batch(file.graph.output[0], 1)


@mutant("batch fixed at 1 in the declared output alone", "onnx fp32", check="interface")
def _(file: Onnx) -> None:
    fix_batch(file.graph.output[0], 1)


@mutant("initial state of the traced batch", "onnx fp32", check="executed")
def _(file: Onnx) -> None:
    file.set_constant("state", np.zeros((1, 3, 50), np.float32))
    file.node("LSTM").input.extend(["", "state"])


@mutant("initial state of the traced batch", "coreml fp32", check="executed")
def _(file: Package) -> None:
    first, batch, _ = file.op("concat").inputs["values"].arguments
    batch.CopyFrom(first)


@mutant("batch of at most 2", "coreml fp32", check="executed")
def _(file: Package) -> None:
    file.spec.description.input[0].type.multiArrayType.shapeRange.sizeRanges[0].upperBound = 2


@mutant("predicted class instead of logits", "onnx fp32", check="interface")
def _(file: Onnx) -> None:
    file.append("ArgMax", axis=1, keepdims=1)
    file.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    file.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1


@mutant("rows of logits transposed", "onnx fp32", check="executed")
def _(file: Onnx) -> None:
    file.append("Transpose", perm=[1, 0])
    del file.graph.output[0].type.tensor_type.shape.dim[:]


# --- names, types, classes ---


@mutant("classes in another order", "onnx fp32", check="interface")
def _(file: Onnx) -> None:
    file.metadata(classes=json.dumps(["2", "1", "0"]))


@mutant("classes in another order", "coreml fp32", check="interface")
def _(file: Package) -> None:
    file.metadata["classes"] = json.dumps(["2", "1", "0"])


@mutant("one class too few", "onnx fp32", check="interface")
def _(file: Onnx) -> None:
    file.metadata(classes=json.dumps(["0", "1"]))


@mutant("no classes", "coreml fp16", check="executed")
def _(file: Package) -> None:
    del file.metadata["classes"]


@mutant("features in another order", "onnx fp32", check="interface", run="wide")
def _(file: Onnx) -> None:
    file.metadata(features=json.dumps(["y", "x"]))


@mutant("features in another order", "coreml fp16", check="interface", run="wide")
def _(file: Package) -> None:
    file.metadata["features"] = json.dumps(["y", "x"])


@mutant("input named otherwise", "onnx fp32", check="interface")
def _(file: Onnx) -> None:
    file.prepend("Identity")
    file.graph.node[0].input[0] = file.graph.input[0].name = "x"


@mutant("output named otherwise", "onnx fp32", check="interface")
def _(file: Onnx) -> None:
    file.append("Identity")
    file.graph.node[-1].output[0] = file.graph.output[0].name = "y"


@mutant("output in half precision", "onnx fp32", check="interface")
def _(file: Onnx) -> None:
    file.append("Cast", to=onnx.TensorProto.FLOAT16)
    file.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


# --- several features, both directions, standardised inside, sequences of different lengths ---


@mutant("mean not subtracted", "onnx fp32", run="wide", check="weights")
def _(file: Onnx) -> None:
    name = file.name("Sub", 1)
    file.set_constant(name, np.zeros_like(file.constant(name)))


@mutant("mean not subtracted", "coreml fp32", run="wide", check="weights")
def _(file: Package) -> None:
    file.set("sub", "y", np.zeros(2))


@mutant("deviation of one feature lost", "onnx fp32", run="wide", check="weights")
def _(file: Onnx) -> None:
    name = file.name("Div", 1)
    file.set_constant(name, file.constant(name) * np.array([1, 2], np.float32))


@mutant("features swapped", "onnx fp32", run="wide")
def _(file: Onnx) -> None:
    file.set_constant("order", np.array([1, 0]))
    file.prepend("Gather", "order", axis=2)


@mutant("features swapped", "coreml fp16", run="wide", check="weights")
def _(file: Package) -> None:
    for direction in (0, 1):
        file.set("lstm", "weight_ih", file.get("lstm", "weight_ih", direction)[:, ::-1], direction)


@mutant("directions swapped", "onnx fp32", run="wide")
def _(file: Onnx) -> None:
    for name in lstm_inputs(file):
        file.set_constant(name, file.constant(name)[::-1])


@mutant("recurrent weights of the directions swapped", "coreml fp32", run="wide")
def _(file: Package) -> None:
    forward, backward = (file.get("lstm", "weight_hh", direction) for direction in (0, 1))
    file.set("lstm", "weight_hh", backward, 0)
    file.set("lstm", "weight_hh", forward, 1)


@mutant("bias of the backward direction is the forward one's", "onnx fp32", run="wide", check="weights")
def _(file: Onnx) -> None:
    bias = file.name("LSTM", 3)
    file.set_constant(bias, file.constant(bias)[[0, 0]])


@mutant("bias of the backward direction is the forward one's", "coreml fp16", run="wide", check="weights")
def _(file: Package) -> None:
    file.set("lstm", "bias", file.get("lstm", "bias", 0), 1)


@mutant("second layer has the first one's recurrent weights", "onnx fp32", run="wide", check="weights")
def _(file: Onnx) -> None:
    first, second = (node for node in file.graph.node if node.op_type == "LSTM")
    second.input[2] = first.input[2]


@mutant("lengths ignored", "onnx fp32", run="wide")
def _(file: Onnx) -> None:
    for node in file.graph.node:
        if node.op_type == "LSTM":
            node.input[4] = ""


@mutant("lengths ignored", "coreml fp32", run="wide")
def _(file: Package) -> None:
    file.set("clip", "alpha", np.full_like(file.get("clip", "alpha"), 5))


@mutant("last state read one step too early", "coreml fp16", run="wide")
def _(file: Package) -> None:
    file.set("equal", "x", file.get("equal", "x") + 1)


@mutant("one step of padding read", "onnx fp32", run="wide")
def _(file: Onnx) -> None:
    name = file.name("Less", 0)
    file.set_constant(name, file.constant(name) - 1)


@mutant("no input of lengths", "onnx fp32", check="interface", run="wide")
def _(file: Onnx) -> None:
    file.set_constant("all", np.array([5], np.int32))
    file.node("Max").input[0] = "all"
    for node in file.graph.node:
        if node.op_type == "LSTM":
            node.input[4] = ""
    del file.graph.input[1]


# --- compressed weights ---


@mutant("scales of 8-bit weights doubled", "coreml int8", check="weights")
def _(file: Package) -> None:
    file.set("constexpr_affine_dequantize", "scale", 2 * file.get("constexpr_affine_dequantize", "scale"))


@mutant("scale of one gate's 8-bit weights doubled", "coreml int8", check="weights")
def _(file: Package) -> None:
    scale = file.get("constexpr_affine_dequantize", "scale")
    file.set("constexpr_affine_dequantize", "scale", scale * np.repeat([1, 1, 1, 2], len(scale) // 4))


@mutant("8-bit weights read as if unsigned", "coreml int8", check="weights")
def _(file: Package) -> None:
    weights = file.get("constexpr_affine_dequantize", "quantized_data")
    file.set("constexpr_affine_dequantize", "quantized_data", np.minimum(weights.view(np.uint8), 127))


@mutant("two entries of the palette swapped", "coreml palette6", check="weights")
def _(file: Package) -> None:
    palette = file.get("constexpr_lut_to_dense", "lut")
    file.set("constexpr_lut_to_dense", "lut", palette[[63, *range(1, 63), 0]])


@mutant("entry of the palette is infinite", "coreml palette6", check="weights")
def _(file: Package) -> None:
    palette = file.get("constexpr_lut_to_dense", "lut").copy()
    palette[3] = np.inf
    file.set("constexpr_lut_to_dense", "lut", palette)


@mutant("weights beside their places", "coreml sparse50", check="weights")
def _(file: Package) -> None:
    weights = file.get("constexpr_sparse_to_dense", "nonzero_data")
    file.set("constexpr_sparse_to_dense", "nonzero_data", np.roll(weights, 1))


@mutant("scales of 8-bit weights doubled", "onnx int8", check="weights")
def _(file: Onnx) -> None:
    scale = file.name("DynamicQuantizeLSTM", 10)
    file.set_constant(scale, 2 * file.constant(scale))


@mutant("zero point of 8-bit weights shifted", "onnx int8", check="executed")
def _(file: Onnx) -> None:
    zero = file.name("DynamicQuantizeLSTM", 11)
    file.set_constant(zero, file.constant(zero) + np.int8(5))


@mutant("bias of gates c and o swapped", "onnx fp16", check="weights")
def _(file: Onnx) -> None:
    bias = file.name("LSTM", 3)
    file.set_constant(bias, swapped(swapped(file.constant(bias), 1, 8, 1, 3), 1, 8, 5, 7))


# --- compressed weights that are not the nearest ---


def nudged(values: Array, steps: int) -> Array:
    """With one element moved by some of the smallest steps that its type has."""
    flat = values.flatten()
    at = int(np.abs(flat.astype(np.float64)).argmin() if flat.dtype == np.int8 else np.abs(flat).argmax())
    for _ in range(steps):
        flat[at] = flat[at] + 1 if flat.dtype.kind == "i" else np.nextafter(flat[at], flat.dtype.type(0))
    return flat.reshape(values.shape)


def rounded_down(values: Array, source: Array) -> Array:
    """A source's values in the type of others, rounded towards zero instead of to the nearest."""
    nearest = source.astype(values.dtype)
    smaller = np.nextafter(nearest, values.dtype.type(0))
    return np.where(np.abs(nearest.astype(np.float32)) > np.abs(source), smaller, nearest)


def coarser(values: Array) -> tuple[Array, float]:
    """Integers of 8 bits in steps four times as large, each the nearest of them, and how much larger the scale is."""
    return np.round(values / 4).astype(np.int8), 4.0


@mutant("one weight nudged by two steps", "onnx fp32", "onnx fp16", check="weights")
def _(file: Onnx) -> None:
    weight = file.name("LSTM", 2)
    file.set_constant(weight, nudged(file.constant(weight), 2))


@mutant("one weight nudged by two steps", *PACKAGES, check="weights")
def _(file: Package) -> None:
    file.set("lstm", "weight_hh", nudged(file.get("lstm", "weight_hh"), 2))


@mutant("weights rounded down", "onnx fp16", check="weights")
def _(file: Onnx) -> None:
    source = Onnx(file.path.with_name("classifier-fp32.onnx"))
    weight = file.name("LSTM", 2)
    file.set_constant(weight, rounded_down(file.constant(weight), source.constant(source.name("LSTM", 2))))


@mutant("weights rounded down", "coreml fp16", check="weights")
def _(file: Package) -> None:
    source = Package(file.path.with_name("classifier-fp32.mlpackage"))
    values = rounded_down(file.get("lstm", "weight_hh"), source.get("lstm", "weight_hh"))
    file.set("lstm", "weight_hh", values)


@mutant("bias of the LSTM dropped", "onnx fp16", check="weights")
def _(file: Onnx) -> None:
    file.node("LSTM").input[3] = ""


@mutant("sequence read backwards", "onnx fp16")
def _(file: Onnx) -> None:
    file.set_attribute("LSTM", "direction", "reverse")


@mutant("sequence read backwards", "onnx int8")
def _(file: Onnx) -> None:
    file.set_attribute("DynamicQuantizeLSTM", "direction", "reverse")


@mutant("one integer nudged by two steps", "onnx int8", check="weights")
def _(file: Onnx) -> None:
    weight = file.name("DynamicQuantizeLSTM", 2)
    file.set_constant(weight, nudged(file.constant(weight), 2))


@mutant("one integer's sign flipped", "onnx int8", check="weights")
def _(file: Onnx) -> None:
    weight = file.name("MatMulInteger", 1)
    file.set_constant(weight, flip_largest(file.constant(weight)))


@mutant("scale of one class doubled", "onnx int8", check="weights")
def _(file: Onnx) -> None:
    scale = file.name("Mul", 1)
    file.set_constant(scale, file.constant(scale) * np.array([1, 2, 1], np.float32))


@mutant("bias of one class dropped", "onnx int8", check="weights")
def _(file: Onnx) -> None:
    bias = file.name("Add", 1)
    file.set_constant(bias, file.constant(bias) * np.array([1, 0, 1], np.float32))


@mutant("integers of too coarse a scale", "onnx int8", check="weights")
def _(file: Onnx) -> None:
    weight, scale = file.name("DynamicQuantizeLSTM", 2), file.name("DynamicQuantizeLSTM", 10)
    values, larger = coarser(file.constant(weight))
    file.set_constant(weight, values)
    file.set_constant(scale, file.constant(scale) * np.float32(larger))


@mutant("integers transposed among the gates", "onnx int8", check="weights")
def _(file: Onnx) -> None:
    weight = file.name("DynamicQuantizeLSTM", 2)
    file.set_constant(weight, swapped(file.constant(weight), 2, 4, 0, 1))


@mutant("one integer nudged by two steps", "coreml int8", check="weights")
def _(file: Package) -> None:
    weights = file.get("constexpr_affine_dequantize", "quantized_data")
    file.set("constexpr_affine_dequantize", "quantized_data", nudged(weights, 2))


@mutant("one integer's sign flipped", "coreml int8", check="weights")
def _(file: Package) -> None:
    weights = file.get("constexpr_affine_dequantize", "quantized_data")
    file.set("constexpr_affine_dequantize", "quantized_data", flip_largest(weights))


@mutant("integers of too coarse a scale", "coreml int8", check="weights")
def _(file: Package) -> None:
    values, larger = coarser(file.get("constexpr_affine_dequantize", "quantized_data"))
    file.set("constexpr_affine_dequantize", "quantized_data", values)
    scale = file.get("constexpr_affine_dequantize", "scale")
    file.set("constexpr_affine_dequantize", "scale", scale.astype(np.float32) * larger)


@mutant("tanh in the cell is a sigmoid", "coreml int8", "coreml palette6", "coreml sparse50")
def _(file: Package) -> None:
    file.set_string("lstm", "cell_activation", "sigmoid")


@mutant("bias of one class dropped", "coreml palette6", check="weights")
def _(file: Package) -> None:
    file.set("linear", "bias", file.get("linear", "bias") * np.array([1, 0, 1]))


@mutant("one weight has another entry of the palette", "coreml palette6", check="weights")
def _(file: Package) -> None:
    indices = file.get("constexpr_lut_to_dense", "indices").copy()
    indices[100] ^= 0b100
    file.set("constexpr_lut_to_dense", "indices", indices)


@mutant("an entry of the palette lies outside the weights' range", "coreml palette6", check="weights")
def _(file: Package) -> None:
    palette = file.get("constexpr_lut_to_dense", "lut").copy()
    palette[palette.argmax()] *= 1.5
    file.set("constexpr_lut_to_dense", "lut", palette)


@mutant("entries of the palette swapped", "coreml sparse50_palette4", check="weights")
def _(file: Package) -> None:
    palette = file.get("constexpr_lut_to_sparse", "lut")
    file.set("constexpr_lut_to_sparse", "lut", palette[:, :, [15, *range(1, 15), 0]])


@mutant("one kept weight nudged by two steps", "coreml sparse50", check="weights")
def _(file: Package) -> None:
    weights = file.get("constexpr_sparse_to_dense", "nonzero_data")
    file.set("constexpr_sparse_to_dense", "nonzero_data", nudged(weights, 2))


@mutant("the mask keeps one small weight and drops a large one", "coreml sparse50", check="weights")
def _(file: Package) -> None:
    mask = np.unpackbits(file.get("constexpr_sparse_to_dense", "mask"), bitorder="little")
    values = file.get("constexpr_sparse_to_dense", "nonzero_data").copy()
    largest = int(np.abs(values).argmax())
    place = int(np.flatnonzero(mask)[largest])
    other = place + int(np.flatnonzero(mask[place:] == 0)[0])
    mask[[place, other]] = mask[[other, place]]  # the largest takes the place of the next that was dropped
    file.set("constexpr_sparse_to_dense", "mask", np.packbits(mask, bitorder="little"))


@mutant("half of the kept weights are zero", "coreml sparse50", check="weights")
def _(file: Package) -> None:
    weights = file.get("constexpr_sparse_to_dense", "nonzero_data").copy()
    weights[::2] = 0
    file.set("constexpr_sparse_to_dense", "nonzero_data", weights)


# --- bytes ---


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])


@mutant("file cut", "onnx fp32", check="executed")
def _(path: Path) -> None:
    cut(path)


@mutant("weights cut", "coreml fp32", check="executed")
def _(path: Path) -> None:
    cut(path / "Data/com.apple.CoreML/weights/weight.bin")


@mutant("weights read from another offset", "coreml fp16", check="executed")
def _(file: Package) -> None:
    file.value("lstm", "weight_hh").blobFileValue.offset += 64


@mutant("weights zeroed on disk", "coreml fp32", check="executed")
def _(path: Path) -> None:
    weights = path / "Data/com.apple.CoreML/weights/weight.bin"
    weights.write_bytes(bytes(weights.stat().st_size))


@mutant("weights in a second file", "onnx fp32", check="executed")
def _(path: Path) -> None:
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights", size_threshold=0)


# --- the test ---


@pytest.mark.parametrize(
    "case", [pytest.param(each, id=f"{each.file}: {each.name} -> {each.check}") for each in MUTANTS]
)
def test_a_corrupted_file_is_rejected(
    case: Mutant,
    plain: Path,
    wide: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = {"plain": plain, "wide": wide}[case.run]
    file_format, variant = case.file.split()
    model, source = (f"models/{file_format}/classifier-{name}{SUFFIXES[file_format]}" for name in (variant, "fp32"))
    for kind in EXPORTED_FORMATS:
        (tmp_path / "models" / kind).mkdir(parents=True)
    for part in {"params.yaml", "data/prepared", "data/predictions/pytorch", "models/pytorch", model, source}:
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (original / part).is_dir() else shutil.copy2)(original / part, tmp_path / part)
    (tmp_path / "metrics").mkdir()

    case.change(tmp_path / model)
    rejected = rejections(Workspace(tmp_path, monkeypatch, capsys), file_format)
    assert rejected.keys() == {variant}
    assert rejected[variant].partition(":")[0] == case.check, rejected[variant]


def test_files_of_an_earlier_training_are_rejected(workspace: Workspace) -> None:
    """Of another seed: worth about as much on the task, and another model."""
    workspace.set("train.seed", 1)
    workspace.call("train")
    workspace.call("predict@pytorch")
    rejected = rejections(workspace, "onnx")
    assert rejected.keys() == {"fp32", "fp16", "int8"}
    assert rejected.pop("fp32").startswith("weights: ")
    assert set(rejected.values()) == {"graph: the float32 file that it is judged by is wrong itself"}
