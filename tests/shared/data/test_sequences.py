"""Prepared data that do not hold what their schema says are refused, before anything indexes by them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.data.sequences import SPLITS, Prepared, SplitArrays
from shared.kit.stage import StageError
from tests.support import write_prepared

import numpy as np
import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six rows of five steps, two features and three classes, in each split."""
    rows = SplitArrays(np.ones((6, 5, 2), np.float32), np.arange(6) % 3, np.arange(1, 7, dtype=np.int32).clip(max=5))
    write_prepared(tmp_path / "prepared", dict.fromkeys(SPLITS, rows), ["x", "y"], ["a", "b", "c"])
    return tmp_path / "prepared"


def refusal(folder: Path) -> str:
    with pytest.raises(StageError) as caught:
        Prepared(folder).split("test")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{folder}/")


def test_sound_data_are_read(folder: Path) -> None:
    split = Prepared(folder).split("test")
    assert split.labels.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("test_labels", np.array([0, 1, 3, 0, 1, 2]), "test_labels.npy: found 3; expected 0 to 2; run `dvc repro`"),
        ("test_labels", np.array([0, 1, -1, 0, 1, 2]), "test_labels.npy: found -1; expected 0 to 2"),
        ("test_lengths", np.array([1, 2, 3, 4, 5, 6], np.int32), "test_lengths.npy: found 6; expected 1 to 5"),
        ("test_lengths", np.array([0, 2, 3, 4, 5, 5], np.int32), "test_lengths.npy: found 0; expected 1 to 5"),
        (
            "test",
            np.ones((6, 5, 3), np.float32),
            "test.npy: found float32 (6, 5, 3); the schema says float32 (6, 5, 2)",
        ),
        ("test", np.ones((6, 5, 2)), "test.npy: found float64 (6, 5, 2); the schema says float32 (6, "),
        ("test", np.array([{}]), "test.npy: not a readable array: "),
    ],
)
def test_arrays_of_other_values_shapes_or_types(folder: Path, name: str, values: Any, message: str) -> None:
    np.save(folder / f"{name}.npy", values)
    assert refusal(folder).startswith(message)


def archive(file: Path) -> None:
    with file.open("wb") as stream:
        np.savez(stream, a=np.ones(2))


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("damage", [Path.unlink, archive, pipe, lambda file: file.write_bytes(b"")])
def test_files_that_are_no_arrays(folder: Path, damage: Callable[[Path], object]) -> None:
    damage(folder / "test.npy")
    assert refusal(folder).startswith("test.npy: not a readable array: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 5}, "classes: Input should be a valid array"),
        ({"classes": None}, "classes: Input should be a valid array"),
        ({"classes": ["a", "a", "b"]}, "Value error, classes should be names, each once"),
        ({"features": []}, "Value error, features should be names, each once"),
        ({"time_steps": -1}, "time_steps: Input should be greater than 0"),
        ({"rows": {"train": 6}}, "Value error, rows and class_rows should be given for train, validation, test"),
        ({"rows": dict.fromkeys(SPLITS, 7)}, "Value error, class_rows of train should have a count for each class, 7"),
        ({"mean": [0.0]}, "Value error, mean and deviation should have a value for each of the features"),
        ({"mean": [float("nan"), 0.0]}, "mean.0: Input should be a finite number"),
        ({"deviation": [-1.0, 1.0]}, "deviation.0: Input should be greater than or equal to 0"),
    ],
)
def test_a_schema_that_contradicts_itself(folder: Path, changes: dict[str, Any], message: str) -> None:
    file = folder / "schema.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    assert refusal(folder).startswith(f"schema.json: not a readable schema: {message}")


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b"null", b'{"classes": ["\\ud800"]}'])
def test_a_schema_that_is_none(folder: Path, content: bytes) -> None:
    (folder / "schema.json").write_bytes(content)
    assert refusal(folder).startswith("schema.json: not a readable schema: ")
