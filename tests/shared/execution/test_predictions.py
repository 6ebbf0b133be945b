"""Records of executions are checked where they are read: who judges them relies on their form."""

import json
import shutil
from pathlib import Path
from typing import Any

from shared.execution.predictions import read_predictions
from shared.execution.runtimes import stored_names
from shared.kit.stage import StageError

import numpy as np
import pytest


@pytest.fixture
def folder(small_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_run / "data/predictions", tmp_path / "predictions")


def refusal(folder: Path) -> str:
    with pytest.raises(StageError) as caught:
        list(read_predictions(folder))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("; run `dvc repro`")
    return str(caught.value).removeprefix(f"{folder}/")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("executor", None, "executor: Input should be a valid string"),
        ("batches", {"-1": {"shape": [1, 3], "max_absolute_difference": 0.0}}, "batches.-1.[key]: String should match"),
        ("batches", {"2": {"shape": [2, 3]}}, "batches.2.max_absolute_difference: Field required"),
        ("interface.dtypes", 5, "interface.dtypes: Input should be a valid list"),
        ("interface.largest_batch", "many", "interface.largest_batch: Input should be a valid integer"),
        ("probes.zeros", {"time_steps": [6], "same_as": None}, "probes.zeros: Value error, either logits or a failure"),
        (
            "probes.zeros.logits",
            [[1.0], [1.0, 2.0]],
            "probes.zeros: Value error, logits should be rows of equal",
        ),
        ("failure", 5, "failure: Input should be a valid string"),
    ],
)
def test_a_record_of_another_form(folder: Path, path: str, value: Any, message: str) -> None:
    file = folder / "onnx" / "fp32.json"
    record = json.loads(file.read_text())
    *parts, key = path.split(".")
    holder = record
    for part in parts:
        holder = holder[part]
    holder[key] = value
    file.write_text(json.dumps(record))
    assert refusal(folder).startswith(f"onnx/fp32.json: not a readable prediction: {message}")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b'{"a":' * 100_000, b"{}"])
def test_a_record_that_is_none(folder: Path, content: bytes) -> None:
    (folder / "onnx" / "fp32.json").write_bytes(content)
    with pytest.raises(StageError, match=r"onnx/fp32\.json: "):
        list(read_predictions(folder))


def test_logits_of_another_type(folder: Path) -> None:
    np.save(folder / "onnx" / "fp32.npy", np.ones((3, 3), np.int64))
    assert (
        refusal(folder)
        == "onnx/fp32.npy: not a readable prediction: logits are int64; expected float32; run `dvc repro`"
    )


@pytest.mark.parametrize("text", ["5", "null", "{}", '["a", 1]', '["\\ud800"]', "[" * 100_000, "", '"abc"'])
def test_names_in_metadata_that_are_none(text: str) -> None:
    with pytest.raises(StageError, match=r"^m\.onnx: its metadata holds no list of classes$"):
        stored_names(Path("m.onnx"), {"classes": text}, "classes")
    with pytest.raises(StageError, match="its metadata holds no list of features"):
        stored_names(Path("m.onnx"), {"classes": text}, "features")
