"""Every format opens behind the same face."""

import platform
from pathlib import Path

from shared.conversion.canonical import canonical_onnx
from shared.data.sequences import Prepared
from shared.execution.runtimes import open_runtime
from shared.files.artifacts import find_artifacts
from shared.kit.stage import StageError

import numpy as np
import onnx
import pytest

COREML_EXECUTOR = "coreml" if platform.system() == "Darwin" else "reference"
FILES = {
    "pytorch/classifier.pt": ("pytorch", "batch", None),
    "onnx/classifier-fp32.onnx": ("onnxruntime", "batch", None),
    "coreml/classifier-fp32.mlpackage": (COREML_EXECUTOR, "1..64", 64),
    "coreml/classifier-fp16.mlpackage": (COREML_EXECUTOR, "1..64", 64),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_what_it_declares_and_who_executes_it(small_run: Path, name: str) -> None:
    executor, batch, largest = FILES[name]
    runtime = open_runtime(small_run / "models" / name)
    interface = runtime.interface
    assert runtime.executor == executor
    assert interface.input_axes == [batch, 6, 1]
    assert interface.largest_batch == largest
    assert interface.dtypes == ["float32", "float32"]
    assert interface.classes == ["0", "1", "2"]
    if name.startswith("pytorch"):
        assert (interface.input_name, interface.output_name) == (None, None)
    else:
        assert (interface.input_name, interface.output_name) == ("sequence", "logits")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("batch", [1, 5])
def test_every_format_gives_pytorch_s_logits(small_run: Path, name: str, batch: int) -> None:
    sequences = Prepared(small_run / "data/prepared").split("test").sequences
    x = np.ascontiguousarray(sequences[:batch])
    expected = open_runtime(small_run / "models/pytorch/classifier.pt").logits(x)
    found = open_runtime(small_run / "models" / name).logits(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3 if "fp16" in name else 1e-5)


def test_files_are_found_by_their_precision(tmp_path: Path) -> None:
    for name in ("classifier-int8.onnx", "classifier.onnx", ".classifier-9.onnx", "notes.txt", "classifier-fp16.onnx"):
        (tmp_path / name).touch()
    assert {precision: path.name for precision, path in find_artifacts(tmp_path).items()} == {
        "fp16": "classifier-fp16.onnx",
        "int8": "classifier-int8.onnx",
        "fp32": "classifier.onnx",
    }


def test_a_file_of_no_known_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no runtime opens \.h5; known: \.pt, \.onnx, \.mlpackage"):
        open_runtime(tmp_path / "classifier.h5")


def test_an_onnx_file_with_two_outputs_is_refused(small_run: Path, tmp_path: Path) -> None:
    model = onnx.load(small_run / "models/onnx/classifier-fp32.onnx")
    model.graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["again"]))
    again = model.graph.output.add()
    again.CopyFrom(model.graph.output[0])
    again.name = "again"
    (tmp_path / "two.onnx").write_bytes(canonical_onnx(model, {"classes": "[]"}))
    with pytest.raises(
        StageError,
        match=r"two\.onnx: 1 inputs and 2 outputs; .*outputs logits, again$",
    ):
        open_runtime(tmp_path / "two.onnx")
