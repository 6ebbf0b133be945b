"""Names that steer whatever shows them, from the table to the page: seen, and harmless."""

import csv
import json
import unicodedata
from pathlib import Path

from shared.kit.text import FORMULA, NUMBER, STEERING
from tests.support import Workspace

import pandas as pd
import pytest

CLASSES = ["=cmd|' /C calc'!A0", "wa\x1b[2Jlk", "run\u202eexe"]
FEATURE = "x\u2066y\x9b"
STAGES = ("prepare", "train", "export_onnx", "predict@pytorch", "predict@onnx", "evaluate", "verify", "report")


@pytest.fixture
def renamed(workspace: Workspace) -> Path:
    """A run over a table with such names."""
    file = workspace.folder / "data" / "sequences.csv"
    table = pd.read_csv(file)
    table["label"] = table["label"].map(dict(enumerate(CLASSES)))
    table.columns = pd.Index([name.replace("x", f"{FEATURE}.") for name in table.columns])
    table.to_csv(file, index=False)
    for stage in STAGES:
        workspace.call(stage)
    return workspace.folder


def test_names_are_kept_in_data_and_models_and_escaped_where_they_are_shown(
    renamed: Path, workspace: Workspace
) -> None:
    schema = json.loads((renamed / "data" / "prepared" / "schema.json").read_text())
    assert (schema["classes"], schema["features"]) == (sorted(CLASSES), [FEATURE])
    record = json.loads((renamed / "data" / "predictions" / "onnx" / "fp32.json").read_text())
    assert record["interface"]["classes"] == sorted(CLASSES)
    assert json.loads((renamed / "metrics" / "verify.json").read_text())["onnx"]["fp32"]["problems"] == []

    shown = ["'=cmd|' /C calc'!A0", r"run\u202eexe", r"wa\x1b[2Jlk"]
    evaluated = json.loads((renamed / "metrics" / "evaluate.json").read_text())
    assert list(evaluated["onnx"]["fp32"]["recall"]) == shown
    confusion = pd.read_csv(renamed / "metrics" / "confusion.csv")
    assert list(confusion["actual"].unique()) == shown
    page = (renamed / "metrics" / "report.html").read_text()
    assert r"wa\x1b[2Jlk" in page
    assert r"run\u202eexe" in page
    assert r"x\u2066y\x9b" in page

    for file in sorted((renamed / "metrics").iterdir()):
        if file.suffix == ".png":
            continue
        text = file.read_text(encoding="utf-8")
        strings = json.dumps(json.loads(text), ensure_ascii=False) if file.suffix == ".json" else text
        steering = {character for character in strings if unicodedata.category(character) in STEERING} - {"\n"}
        assert not steering, f"{file.name}: {steering}"
        if file.suffix == ".csv":
            cells = [cell for row in csv.reader(text.splitlines()) for cell in row]
            assert not [cell for cell in cells if FORMULA.search(cell) and not NUMBER.fullmatch(cell)], file.name


def test_a_message_about_such_a_name_is_one_harmless_line(workspace: Workspace) -> None:
    file = workspace.folder / "data" / "sequences.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0].replace("x5", "\x1b]0;owned\x07"), *lines[1:], ""]))
    error = workspace.refuses("prepare")
    assert r"column '\x1b]0;owned\x07' is neither the label nor named" in error
