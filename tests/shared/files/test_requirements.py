"""What a file asks of a device is read from the file, and from what its runtime is known to have."""

from pathlib import Path

from shared.files.requirements import oldest_runtime, requirements_of
from shared.kit.stage import StageError

import onnx
import pytest


def test_a_file_names_the_oldest_systems_that_run_it(small_run: Path) -> None:
    models = small_run / "models"
    assert requirements_of(models / "coreml/classifier-fp16.mlpackage") == {
        "specification_version": 8, "ios": 17, "macos": 14,
    }  # fmt: skip
    assert requirements_of(models / "coreml/classifier-sparse50_palette4.mlpackage") == {
        "specification_version": 9, "ios": 18, "macos": 15,
    }  # fmt: skip
    plain = {"opset": 20, "ir_version": 9, "contrib_ops": [], "onnxruntime": "1.17"}
    assert requirements_of(models / "onnx/classifier-fp16.onnx") == plain
    assert requirements_of(models / "onnx/classifier-int8.onnx") == plain | {"contrib_ops": ["DynamicQuantizeLSTM"]}
    assert requirements_of(models / "pytorch/classifier.pt") == {}


@pytest.mark.parametrize(
    ("opset", "ir_version", "contrib_ops", "oldest"),
    [
        (13, 7, [], "1.15"),
        (19, 9, [], "1.16"),
        (19, 10, [], "1.18"),
        (21, 10, ["DynamicQuantizeLSTM"], "1.20"),
        (25, 13, [], "1.24"),
        (20, 9, ["AnOpThatNobodyHasTried"], None),
        (99, 9, [], None),
        (20, 99, [], None),
    ],
)
def test_the_oldest_runtime_has_the_opset_and_the_ir_version_and_the_ops(
    opset: int, ir_version: int, contrib_ops: list[str], oldest: str | None
) -> None:
    assert oldest_runtime(opset, ir_version, contrib_ops) == oldest


def test_an_op_inside_a_branch_counts(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")],
        "branch", [], [value("y", onnx.TensorProto.FLOAT, [1])],
    )  # fmt: skip
    node = onnx.helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)
    inputs = [value("x", onnx.TensorProto.FLOAT, [1]), value("flag", onnx.TensorProto.BOOL, [])]
    graph = onnx.helper.make_graph([node], "graph", inputs, [value("y", onnx.TensorProto.FLOAT, [1])])
    path = tmp_path / "model.onnx"
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    found = requirements_of(path)
    assert found["contrib_ops"] == ["Gelu"]
    assert found["onnxruntime"] is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(StageError, match=r"model\.onnx: not a readable ONNX file"):
        requirements_of(path)
