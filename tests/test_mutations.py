"""Files corrupted as real bugs corrupt them: `verify` rejects each, and says which check caught it.

Every mutant goes through the real stages: it is executed, evaluated and verified beside the files that are as exported,
which must pass.
"""

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.stage import run
from tests.edits import Array, Onnx, Package
from tests.support import EXPORTS_ONLY, ROOT, SMALL, Workspace, command, rejections, set_params

import numpy as np
import onnx
import pytest

FILES = {
    "onnx fp32": "models/onnx/classifier-fp32.onnx",
    "coreml fp32": "models/coreml/classifier-fp32.mlpackage",
    "coreml fp16": "models/coreml/classifier-fp16.mlpackage",
}
EXPORTED = ["train", "export_onnx", "export_coreml", "predict@pytorch", "predict@onnx", "predict@coreml", "evaluate"]


def call_stages(folder: Path, names: list[str]) -> None:
    """Run stages in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in names:
            _, script, *paths = command(name)
            patch.setattr(sys, "argv", [script, *paths])
            run(importlib.import_module(Path(script).stem).main)


@pytest.fixture(scope="session")
def plain(small_run: Path) -> Path:
    """An LSTM that reads one feature forwards, six steps."""
    return small_run


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers that read two features in both directions, five steps, and standardise raw values themselves."""
    folder = tmp_path_factory.mktemp("wide")
    shutil.copy2(ROOT / "params.yaml", folder)
    lstm = {"hidden_size": 8, "layers": 2, "bidirectional": True, "dropout": 0.0}
    set_params(
        folder,
        SMALL
        | EXPORTS_ONLY
        | {
            "train.standardize": True,
            "architecture.lstm": lstm,
            "verify.tolerance.coreml.fp16.relative_error": 3e-3,  # it rounds the raw values, too
        },
    )
    random = np.random.default_rng(0)
    x, y = random.normal(30, 20, (700, 5)), random.normal(-3, 0.5, (700, 5))
    labels = np.digitize((x - 30) / 20 @ [1, 0, 1, 0, 2] + (y + 3) @ [4, 2, 0, 0, 0], [-1, 1])
    header = ",".join([*(f"{name}_{step}" for name in "xy" for step in range(5)), "label"])
    (folder / "data").mkdir()
    np.savetxt(
        folder / "data/sequences.csv",
        np.column_stack([x, y, labels]), delimiter=",", header=header, comments="", fmt=["%.9g"] * 10 + ["%d"],
    )  # fmt: skip
    call_stages(folder, ["prepare", *EXPORTED, "verify"])
    return folder


@dataclass(frozen=True)
class Mutant:
    """A change of one file, and the check that must catch it."""

    run: str
    file: str
    name: str
    change: Callable[[Path], None]
    check: str


MUTANTS: list[Mutant] = []


def mutant(name: str, *files: str, check: str = "values", run: str = "plain") -> Callable[..., Any]:
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
        name = file.name("lstm", part)
        file.set_constant(name, swapped(file.constant(name), 0, 4, first, second))


@mutant("gates i and f swapped", *PACKAGES)
def _(file: Package) -> None:
    swap_package_gates(file, 0, 1)


@mutant("gates o and z in torch's order", *PACKAGES)
def _(file: Package) -> None:
    swap_package_gates(file, 2, 3)


@mutant("bias of gates c and o swapped", "onnx fp32")
def _(file: Onnx) -> None:
    bias = file.name("LSTM", 3)
    file.set_constant(bias, swapped(swapped(file.constant(bias), 1, 8, 1, 3), 1, 8, 5, 7))


@mutant("bias of gates f and o swapped", *PACKAGES)
def _(file: Package) -> None:
    bias = file.name("lstm", "bias")
    file.set_constant(bias, swapped(file.constant(bias), 0, 4, 1, 2))


@mutant("bias of the LSTM dropped", "onnx fp32")
def _(file: Onnx) -> None:
    file.node("LSTM").input[3] = ""


@mutant("recurrent bias dropped", "onnx fp32")
def _(file: Onnx) -> None:
    bias = file.name("LSTM", 3)
    values = file.constant(bias).copy()
    values[:, 200:] = 0
    file.set_constant(bias, values)


@mutant("bias of the LSTM dropped", *PACKAGES)
def _(file: Package) -> None:
    bias = file.name("lstm", "bias")
    file.set_constant(bias, np.zeros_like(file.constant(bias)))


@mutant("bias of one class dropped", "onnx fp32")
def _(file: Onnx) -> None:
    bias = file.name("Gemm", 2)
    values = file.constant(bias).copy()
    values[1] = 0
    file.set_constant(bias, values)


@mutant("bias of one class dropped", *PACKAGES)
def _(file: Package) -> None:
    bias = file.name("linear", "bias")
    values = file.constant(bias).copy()
    values[1] = 0
    file.set_constant(bias, values)


@mutant("last layer zeroed", "onnx fp32")
def _(file: Onnx) -> None:
    weight = file.name("Gemm", 1)
    file.set_constant(weight, np.zeros_like(file.constant(weight)))


@mutant("last layer zeroed", *PACKAGES)
def _(file: Package) -> None:
    weight = file.name("linear", "weight")
    file.set_constant(weight, np.zeros_like(file.constant(weight)))


@mutant("recurrent weights transposed", "onnx fp32")
def _(file: Onnx) -> None:
    weight = file.name("LSTM", 2)
    gates = [gate.swapaxes(1, 2) for gate in np.split(file.constant(weight), 4, axis=1)]
    file.set_constant(weight, np.concatenate(gates, axis=1))


@mutant("recurrent weights transposed", *PACKAGES)
def _(file: Package) -> None:
    weight = file.name("lstm", "weight_hh")
    file.set_constant(weight, np.concatenate([gate.T for gate in np.split(file.constant(weight), 4)]))


@mutant("recurrent weights zeroed", "onnx fp32")
def _(file: Onnx) -> None:
    weight = file.name("LSTM", 2)
    file.set_constant(weight, np.zeros_like(file.constant(weight)))


def flip_largest(values: Array) -> Array:
    flat = values.flatten()
    flat[np.abs(flat).argmax()] *= -1
    return flat.reshape(values.shape)


@mutant("one recurrent weight's sign flipped", "onnx fp32")
def _(file: Onnx) -> None:
    weight = file.name("LSTM", 2)
    file.set_constant(weight, flip_largest(file.constant(weight)))


@mutant("one recurrent weight's sign flipped", *PACKAGES)
def _(file: Package) -> None:
    weight = file.name("lstm", "weight_hh")
    file.set_constant(weight, flip_largest(file.constant(weight)))


@mutant("weights rounded to half precision", "onnx fp32")
def _(file: Onnx) -> None:
    for index in (1, 2):
        name = file.name("LSTM", index)
        file.set_constant(name, file.constant(name).astype(np.float16).astype(np.float32))


@mutant("weights rounded to half precision", "coreml fp32")
def _(file: Package) -> None:
    for part in ("weight_ih", "weight_hh"):
        name = file.name("lstm", part)
        file.set_constant(name, file.constant(name).astype(np.float16))


@mutant("weights in 8 bits", "coreml fp16")
def _(file: Package) -> None:
    name = file.name("lstm", "weight_hh")
    values = file.constant(name).astype(np.float64)
    scale = np.abs(values).max() / 127
    file.set_constant(name, np.round(values / scale) * scale)


@mutant("a weight is not a number", "onnx fp32")
def _(file: Onnx) -> None:
    weight = file.name("Gemm", 1)
    values = file.constant(weight).copy()
    values[2, 0] = np.nan
    file.set_constant(weight, values)


@mutant("half precision overflows", "coreml fp16")
def _(file: Package) -> None:
    weight = file.name("linear", "weight")
    file.set_constant(weight, file.constant(weight).astype(np.float32) * 1e5)


@mutant("output columns permuted", "onnx fp32")
def _(file: Onnx) -> None:
    for index in (1, 2):
        name = file.name("Gemm", index)
        file.set_constant(name, file.constant(name)[[1, 0, 2]])


@mutant("output columns permuted", *PACKAGES)
def _(file: Package) -> None:
    for argument in ("weight", "bias"):
        name = file.name("linear", argument)
        file.set_constant(name, file.constant(name)[[1, 0, 2]])


# --- what is done with them ---


@mutant("sequence read backwards", "onnx fp32")
def _(file: Onnx) -> None:
    file.set_attribute("LSTM", "direction", "reverse")


@mutant("sequence read backwards", *PACKAGES)
def _(file: Package) -> None:
    file.string("lstm", "direction", "reverse")


@mutant("tanh in the cell is a sigmoid", "onnx fp32")
def _(file: Onnx) -> None:
    file.set_attribute("LSTM", "activations", ["Sigmoid", "Sigmoid", "Tanh"])


@mutant("tanh in the cell is a sigmoid", *PACKAGES)
def _(file: Package) -> None:
    file.string("lstm", "cell_activation", "sigmoid")


@mutant("sigmoid of the gates is a hard one", "coreml fp16")
def _(file: Package) -> None:
    file.string("lstm", "recurrent_activation", "sigmoid_hard")


@mutant("cell clipped", "onnx fp32")
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


@mutant("inputs clipped at what is rarely exceeded", "onnx fp32")
def _(file: Onnx) -> None:
    file.set_constant("low", np.array(0, np.float32))
    file.set_constant("high", np.array(9.99, np.float32))
    file.prepend("Clip", "low", "high")


@mutant("softmax appended", "onnx fp32")
def _(file: Onnx) -> None:
    file.append("Softmax", axis=1)


@mutant("log-softmax appended", "onnx fp32")
def _(file: Onnx) -> None:
    file.append("LogSoftmax", axis=1)


@mutant("dropout active", "onnx fp32")
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


@mutant("initial state of the traced batch", *PACKAGES, check="executed")
def _(file: Package) -> None:
    name = file.op("fill").inputs["shape"].arguments[0].name
    concat = next(op for op in file.block.operations if op.outputs[0].name == name)
    rows = concat.inputs["values"].arguments[1].name
    for op in file.block.operations:
        if op.outputs[0].name == rows:
            continue
    concat.inputs["values"].arguments[1].name = concat.inputs["values"].arguments[0].name


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


@mutant("features in another order", *PACKAGES, check="interface", run="wide")
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


# --- several features, both directions, standardised inside ---


@mutant("mean not subtracted", "onnx fp32", run="wide")
def _(file: Onnx) -> None:
    name = file.name("Sub", 1)
    file.set_constant(name, np.zeros_like(file.constant(name)))


@mutant("not divided by the deviation", "onnx fp32", run="wide")
def _(file: Onnx) -> None:
    name = file.name("Div", 1)
    file.set_constant(name, np.ones_like(file.constant(name)))


@mutant("features swapped", "onnx fp32", run="wide")
def _(file: Onnx) -> None:
    file.set_constant("order", np.array([1, 0]))
    file.prepend("Gather", "order", axis=2)


@mutant("directions swapped", "onnx fp32", run="wide")
def _(file: Onnx) -> None:
    for name in lstm_inputs(file):
        file.set_constant(name, file.constant(name)[::-1])


@mutant("bias of the backward direction is the forward one's", "onnx fp32", run="wide")
def _(file: Onnx) -> None:
    bias = file.name("LSTM", 3)
    file.set_constant(bias, file.constant(bias)[[0, 0]])


@mutant("second layer reads with the first one's recurrent weights", "onnx fp32", run="wide")
def _(file: Onnx) -> None:
    first, second = (node for node in file.graph.node if node.op_type == "LSTM")
    second.input[2] = first.input[2]


@mutant("bias of the backward direction is the forward one's", *PACKAGES, run="wide")
def _(file: Package) -> None:
    file.set_constant(file.name("lstm", "bias_back"), file.constant(file.name("lstm", "bias")))


@mutant("input weights of the directions swapped", *PACKAGES, run="wide")
def _(file: Package) -> None:
    names = [file.name("lstm", argument) for argument in ("weight_ih", "weight_ih_back")]
    values = [file.constant(name) for name in names]
    for name, value in zip(names, reversed(values), strict=True):
        file.set_constant(name, value)


# --- bytes ---


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])


@mutant("file cut", "onnx fp32", check="executed")
def _(path: Path) -> None:
    cut(path)


@mutant("weights cut", *PACKAGES, check="executed")
def _(path: Path) -> None:
    cut(path / "Data/com.apple.CoreML/weights/weight.bin")


@mutant("weights read from another offset", *PACKAGES, check="executed")
def _(file: Package) -> None:
    file.value(file.name("lstm", "weight_hh")).blobFileValue.offset += 64


@mutant("weights zeroed on disk", *PACKAGES, check="executed")
def _(path: Path) -> None:
    weights = path / "Data/com.apple.CoreML/weights/weight.bin"
    weights.write_bytes(bytes(weights.stat().st_size))


# --- the test ---


@pytest.mark.parametrize("case", [pytest.param(each, id=f"{each.file}: {each.name}") for each in MUTANTS])
def test_a_corrupted_file_is_rejected(
    case: Mutant,
    plain: Path,
    wide: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "workspace"
    shutil.copytree({"plain": plain, "wide": wide}[case.run], folder)
    case.change(folder / FILES[case.file])
    file_format, variant = case.file.split()
    rejected = rejections(Workspace(folder, monkeypatch, capsys), file_format)
    assert rejected.keys() == {variant}
    assert rejected[variant].partition(":")[0] == case.check, rejected[variant]
