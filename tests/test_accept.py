"""The last stage: it fails on a wrong file, after the page is written, and on a lossy one only where asked to."""

import json
from typing import Any

from tests.support import Workspace

import pytest


def change(workspace: Workspace, file_format: str, variant: str, **values: Any) -> None:
    file = workspace.folder / "metrics/verify.json"
    verdicts = json.loads(file.read_text())
    verdicts[file_format][variant] |= values
    file.write_text(json.dumps(verdicts))


def test_what_is_right_is_accepted(workspace: Workspace) -> None:
    assert workspace.call("accept") == ""


def test_wrong_files_are_named_with_the_checks_that_found_it_on_one_line(workspace: Workspace) -> None:
    change(workspace, "onnx", "int8", outcome="wrong", problems=["weights: w is not", "weights: v is not", "graph: x"])
    change(workspace, "coreml", "fp16", outcome="wrong", problems=["executed: signal 11"])
    assert workspace.refuses("accept") == (
        "onnx int8 is wrong (weights, graph); coreml fp16 is wrong (executed): metrics/report.html shows more"
    )


def test_a_wrong_source_net_is_named_too(workspace: Workspace) -> None:
    file = workspace.folder / "metrics/verify.json"
    verdicts = json.loads(file.read_text())
    verdicts["pytorch"] = {"fp32": {"outcome": "wrong", "problems": ["padding: it matters"], "losses": []}}
    file.write_text(json.dumps(verdicts))
    assert workspace.refuses("accept") == "pytorch fp32 is wrong (padding): metrics/report.html shows more"


@pytest.mark.parametrize("fails", [False, True])
def test_a_lossy_file_fails_only_where_asked_to(workspace: Workspace, fails: bool) -> None:
    workspace.set("verify.fail_if_too_lossy", fails)
    change(workspace, "onnx", "int8", outcome="too_lossy", losses=["accuracy_loss: 0.2 of the rows are lost"])
    if fails:
        assert workspace.refuses("accept") == (
            "onnx int8 is too lossy (accuracy_loss: 0.2 of the rows are lost): metrics/report.html shows more"
        )
    else:
        assert workspace.call("accept") == ""


@pytest.mark.parametrize("content", ["{}", "[]", '{"onnx": {"fp32": {}}}', '{"onnx": 1}'])
def test_without_verdicts_nothing_is_accepted(workspace: Workspace, content: str) -> None:
    (workspace.folder / "metrics/verify.json").write_text(content)
    assert workspace.refuses("accept")
