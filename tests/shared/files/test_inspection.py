"""What a file is said to hold is what is in it: weights wherever they are, in whatever form."""

import shutil
from pathlib import Path

import export_coreml
from shared.files.inspection import inspect_file
from shared.kit.stage import StageError
from shared.network.model import Checkpoint
from tests.support import EXPORT_NAMES, EXPORT_PARAMS, classifier

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def constant(name: str, dtype: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def branch(op: str, weight: onnx.TensorProto) -> onnx.GraphProto:
    nodes = [
        helper.make_node("Constant", [], [weight.name], value=weight),
        helper.make_node(op, ["x", weight.name], ["result"]),
    ]
    return helper.make_graph(nodes, op, [], [helper.make_tensor_value_info("result", TensorProto.FLOAT, [3])])


def test_onnx_weights_are_found_everywhere_and_nothing_else_is_taken_for_one(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero_point"], ["restored"], axis=0),
        helper.make_node("DequantizeLinear", ["bias", "scale"], ["restored_bias"], axis=0),
        helper.make_node("DynamicQuantizeLinear", ["x"], ["x8", "x_scale", "x_zero_point"]),
        helper.make_node("Mul", ["x_scale", "product_scale"], ["y_scale"]),
        helper.make_node("Reshape", ["half", "shape"], ["reshaped"]),
        helper.make_node("Mul", ["x", "factor"], ["z"]),
        helper.make_node(
            "If",
            ["flag"],
            ["y"],
            then_branch=branch("Add", constant("then", "float32", 7)),
            else_branch=branch("Sub", constant("else", "float32", 9)),
        ),
    ]
    weights = [
        constant("integers", "int8", 4, 5),
        constant("scale", "float32", 4),
        constant("zero_point", "int8", 4),
        constant("bias", "int32", 4),
        constant("product_scale", "float32", 3),
        constant("half", "float16", 6),
        constant("shape", "int64", 2),
        constant("factor", "float32"),
    ]
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, [3]), value("flag", TensorProto.BOOL, [])]
    graph = helper.make_graph(nodes, "graph", inputs, [value("y", TensorProto.FLOAT, [3])], weights)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), path)

    facts = inspect_file(path)

    assert facts.stored_as == {"float16": 6, "float32": 16, "int32": 4, "int8": 20}
    assert facts.weights == 46
    assert facts.compressed_share == 26 / 46
    assert facts.share("int8") == 20 / 46
    assert facts.weight_bytes == 20 + 4 * 4 + 4 + 4 * 4 + 3 * 4 + 6 * 2 + 16 * 4
    assert facts.ops == {
        "Add": 1, "DequantizeLinear": 2, "DynamicQuantizeLinear": 1, "If": 1, "Mul": 2, "Reshape": 1, "Sub": 1
    }  # fmt: skip
    assert facts.bytes == path.stat().st_size


@pytest.mark.parametrize(
    ("name", "form", "share"),
    [
        ("pytorch/classifier.pt", "float32", 1),
        ("onnx/classifier-fp32.onnx", "float32", 1),
        ("onnx/classifier-fp16.onnx", "float16", 1),
        ("onnx/classifier-int8.onnx", "int8", 10350 / 10753),
        ("coreml/classifier-fp32.mlpackage", "float32", 1),
        ("coreml/classifier-fp16.mlpackage", "float16", 1),
        ("coreml/classifier-palette6.mlpackage", "lut_to_dense", 10000 / 10553),
        ("coreml/classifier-sparse50_palette4.mlpackage", "lut_to_sparse+sparse_to_dense", 10000 / 10553),
    ],
)
def test_every_variant_holds_the_weights_of_the_checkpoint(small_run: Path, name: str, form: str, share: float) -> None:
    facts = inspect_file(small_run / "models" / name)
    assert facts.weights == (10553 if "coreml" in name else 10753)  # Core ML's LSTM has one bias where torch has two
    assert facts.share(form) == share
    assert facts.compressed_share == (0 if "fp32" in name or ".pt" in name else share if "int8" in name else 1)
    assert facts.weight_bytes < facts.bytes < facts.weight_bytes + 6000
    assert facts.compressed_bytes < facts.bytes


def test_the_weights_of_a_loop_are_found(tmp_path: Path) -> None:
    """A GRU is a loop over time in Core ML."""
    model = Checkpoint(classifier("gru", hidden_size=8), {})
    path = tmp_path / "gru.mlpackage"
    export_coreml.save(export_coreml.export_coreml(model, EXPORT_NAMES, EXPORT_PARAMS, "fp16"), path)
    facts = inspect_file(path)
    assert facts.stored_as == {"float16": sum(parameter.numel() for parameter in model.model.parameters())}
    assert facts.ops["while_loop"] == 1
    assert facts.ops["tanh"] == 1


def test_a_file_that_cannot_be_read_is_named(small_run: Path, tmp_path: Path) -> None:
    damaged = {
        ".onnx": "not a readable ONNX file",
        ".pt": "not a readable checkpoint",
        ".mlpackage": "not a readable manifest of a package",
    }
    for suffix, message in damaged.items():
        path = tmp_path / f"model{suffix}"
        path.write_bytes(b"nothing")
        with pytest.raises(StageError, match=message):
            inspect_file(path)
    truncated = tmp_path / "truncated.mlpackage"
    shutil.copytree(small_run / "models/coreml/classifier-fp32.mlpackage", truncated)
    model = truncated / "Data/com.apple.CoreML/model.mlmodel"
    model.write_bytes(model.read_bytes()[:-10])
    with pytest.raises(StageError, match=r"model\.mlmodel: not a readable Core ML model"):
        inspect_file(truncated)
    with pytest.raises(StageError, match="not a model file; known: "):
        inspect_file(tmp_path / "model.tflite")
    with pytest.raises(StageError, match="no such file or folder"):
        inspect_file(tmp_path / "absent.onnx")
