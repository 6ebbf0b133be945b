"""The ONNX file: the leanest graph, a batch axis that really is dynamic, and nothing of this machine in its bytes."""

import json
from pathlib import Path
from typing import Any

import export_onnx
from shared.conversion.canonical import canonical_onnx
from shared.kit.stage import StageError
from shared.network.model import Checkpoint
from tests.support import EXPORT_NAMES, ROOT, Workspace, classifier

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

STOCK = "data/stock.onnx"
TRAINING = {"validation_loss": 0.125}


def checkpoint(**options: Any) -> Checkpoint:
    return Checkpoint(classifier(hidden_size=16, **options), TRAINING)


@pytest.fixture(scope="module")
def plain() -> tuple[Checkpoint, bytes]:
    """A model of the default architecture, and its file."""
    model = checkpoint()
    return model, export_onnx.export_onnx(model, EXPORT_NAMES, 20).lean


def assert_parity(model: Checkpoint, content: bytes) -> None:
    """At batch sizes that were not traced, one of them 1."""
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    for batch in (1, 2, 5, 17):
        x = np.random.default_rng(batch).normal(size=(batch, 5, 2)).astype(np.float32)
        with torch.inference_mode():
            expected = model.model(torch.from_numpy(x)).numpy()
        [found] = session.run(["scores"], {"samples": x})
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_the_default_model_is_four_nodes(plain: tuple[Checkpoint, bytes], small_run: Path) -> None:
    default = onnx.load(small_run / "models" / "onnx" / "classifier-fp32.onnx")
    for model in (onnx.load_from_string(plain[1]), default):
        assert [node.op_type for node in model.graph.node] == ["Transpose", "LSTM", "Squeeze", "Gemm"]


def test_the_stock_file_has_the_same_tensors_and_the_graph_as_exported(workspace: Workspace) -> None:
    lean, stock = (onnx.load(workspace.folder / path) for path in ("models/onnx/classifier-fp32.onnx", STOCK))
    assert (stock.graph.input, stock.graph.output) == (lean.graph.input, lean.graph.output)
    assert len(stock.graph.node) > len(lean.graph.node)
    x = np.random.default_rng(0).random((7, 6, 1), np.float32)
    sessions = (ort.InferenceSession(model.SerializeToString()) for model in (lean, stock))
    [expected], [found] = (session.run(None, {session.get_inputs()[0].name: x}) for session in sessions)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_without_a_place_for_the_stock_file_there_is_none(workspace: Workspace) -> None:
    before = workspace.files()
    assert workspace.call("export_onnx", "models/pytorch/classifier.pt", "new.onnx") == ""
    assert workspace.files().keys() - before.keys() == {"new.onnx"}
    assert workspace.files()["new.onnx"] == before["models/onnx/classifier-fp32.onnx"]


def test_it_computes_what_torch_computes_at_every_batch_size(plain: tuple[Checkpoint, bytes]) -> None:
    assert_parity(*plain)


@pytest.mark.parametrize(("changes", "opset"), [({"bidirectional": True}, 20), ({"layers": 2}, 18)])
def test_deeper_models_keep_their_dynamic_batch_and_their_opset(changes: dict[str, Any], opset: int) -> None:
    model = checkpoint(**changes)
    content = export_onnx.export_onnx(model, EXPORT_NAMES, opset).lean
    assert_parity(model, content)
    assert {entry.version for entry in onnx.load_from_string(content).opset_import if entry.domain == ""} == {opset}


def test_names_and_axes_are_as_asked_for(plain: tuple[Checkpoint, bytes]) -> None:
    graph = onnx.load_from_string(plain[1]).graph
    assert {value.name: export_onnx.axes(value) for value in graph.input} == {"samples": ["batch", 5, 2]}
    assert {value.name: export_onnx.axes(value) for value in graph.output} == {"scores": ["batch", 3]}


def test_the_metadata_says_what_the_file_is(plain: tuple[Checkpoint, bytes]) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load_from_string(plain[1]).metadata_props}
    assert json.loads(metadata.pop("classes")) == ["on", "off", "none"]
    assert json.loads(metadata.pop("features")) == ["x", "y"]
    assert json.loads(metadata.pop("training")) == TRAINING
    assert json.loads(metadata.pop("architecture")) == {"name": "lstm", **plain[0].model.config.options}
    assert metadata == {"description": "A description", "version": "2.1.0"}


def test_no_path_of_this_machine_is_in_its_bytes(plain: tuple[Checkpoint, bytes]) -> None:
    for trace in (b"/", b"\\\\", b".py", b"stages", str(ROOT).encode()):
        assert trace not in without_weights(plain[1])


def without_weights(content: bytes) -> bytes:
    """The file's text: random floats hold any byte."""
    model = onnx.load_from_string(content)
    for tensor in model.graph.initializer:
        tensor.raw_data = b""
    text: bytes = model.SerializeToString()
    return text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"opset": 21}, "the exported graph has opset 20; export_onnx.opset asks for 21"),
        ({"time_steps": 6}, "the exported graph's tensors are"),
        ({"classes": ["on", "off"]}, "the exported graph's tensors are"),
    ],
)
def test_a_file_that_is_not_what_was_asked_for_is_refused(
    plain: tuple[Checkpoint, bytes], changes: dict[str, Any], message: str
) -> None:
    opset = changes.pop("opset", 20)
    config = plain[0].model.config.model_copy(update=changes)
    with pytest.raises(StageError, match=message):
        export_onnx.check(onnx.load_from_string(plain[1]), EXPORT_NAMES, config, opset)


def test_a_batch_axis_that_came_out_fixed_is_refused(plain: tuple[Checkpoint, bytes]) -> None:
    model = onnx.load_from_string(plain[1])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    with pytest.raises(StageError, match=r"tensors are \{'samples': \[3, 5, 2\].*expected .*'batch', 5, 2"):
        export_onnx.check(model, EXPORT_NAMES, plain[0].model.config, 20)


def test_an_invalid_graph_is_refused(plain: tuple[Checkpoint, bytes]) -> None:
    model = onnx.load_from_string(plain[1])
    model.graph.node[1].op_type = "NoSuchOp"
    with pytest.raises(StageError, match="the exported graph is not valid ONNX: "):
        export_onnx.check(onnx.load_from_string(canonical_onnx(model, {})), EXPORT_NAMES, plain[0].model.config, 20)
