"""The table at the end of `make repro`."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commands import show_metrics
from shared.files.artifacts import find_artifacts
from shared.files.formats import FORMATS
from shared.kit.stage import StageError
from tests.support import Project, Workspace

import pytest


def test_a_line_for_every_file(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(small_run)
    show_metrics.main()
    header, *lines = capsys.readouterr().out.splitlines()
    files = [file for name in FORMATS for file in find_artifacts(small_run / "models" / name)]
    *lines, note = [line for line in lines if not line.startswith("left out by ")]
    assert len(lines) == len(files)
    assert all(len(line) <= 132 for line in (header, *lines))
    size = json.loads((small_run / "metrics/size.json").read_text())["onnx"]["fp32"]["bytes"]
    [fp32] = [line for line in lines if line.startswith("onnx fp32")]
    assert f"{size / 1e3:.1f} kB" in fp32
    assert fp32.endswith("µs  fit")
    assert not [line for line in lines if line.startswith("coreml") and "µs" in line and " reference " in line]
    assert note.startswith("latency: median of one sequence, one thread, ")
    assert note.endswith("; 95% intervals: 0% below it to 0% above, at most")  # of one round


def test_it_names_every_executor_and_what_one_left_out_or_got_wrong(workspace: Workspace) -> None:
    file = workspace.folder / "metrics" / "verify.json"
    verified = json.loads(file.read_text())
    ran = {"executor_version": "1.30.0", "passed": True, "problems": []}
    reason = "LeakyLSTM is no operation of the ONNX standard"
    for figures in verified["onnx"].values():
        figures["executors"] = {"web": ran, "onnx_reference": {"left_out": reason}}
    wrong = ran | {"passed": False, "problems": ["graph: off"]}
    verified["onnx"]["int8"]["executors"] = {"web": wrong, "onnx_reference": ran}
    file.write_text(json.dumps(verified))
    workspace.patch.chdir(workspace.folder)
    workspace.capsys.readouterr()
    show_metrics.main()
    printed = workspace.capsys.readouterr().out.splitlines()
    lines = {line.split("  ")[0]: line for line in printed}
    assert "  onnxruntime, web  " in lines["onnx fp32"]
    assert "  onnxruntime, web, onnx_reference  " in lines["onnx int8"]
    assert lines["onnx int8"].endswith("; wrong in web: graph: off")
    assert f"left out by onnx_reference: onnx fp32, onnx fp16: {reason}" in printed


def test_before_the_first_run(workspace: Workspace) -> None:
    workspace.patch.chdir(workspace.folder)
    (workspace.folder / "metrics" / "size.json").unlink()
    with pytest.raises(StageError, match=r"^metrics/size\.json: no such file; `dvc repro` writes it$"):
        show_metrics.main()


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("evaluate", lambda text: text[:50], r"^metrics/evaluate\.json: not a readable JSON file: "),
        ("evaluate", lambda text: "[]", r"^metrics/evaluate\.json: found a JSON list; expected an object$"),
        (
            "evaluate",
            lambda text: '{"onnx": []}',
            r"^metrics/evaluate\.json: onnx = \[\]: input should be a valid dict",
        ),
        (
            "evaluate",
            lambda text: re.sub(r'"accuracy": [\d.]+', '"accuracy": null', text, count=1),
            r"^metrics/evaluate\.json: \w+\.fp32\.accuracy = None: input should be a valid number; `dvc repro` writes",
        ),
        ("size", lambda text: text.replace('"bytes"', '"octets"'), r"^metrics/size\.json: \w+\.\w+\.bytes is missing"),
        (
            "verify",
            lambda text: text.replace('"fit"', "1"),
            r"^metrics/verify\.json: .*outcome = 1: input should be ",
        ),
        (
            "benchmark",
            lambda text: text.replace('"cpu"', '"gpu"'),
            r"^metrics/benchmark\.json: machine\.cpu is missing",
        ),
    ],
)
def test_damaged_metrics_are_one_line(
    workspace: Workspace, name: str, edit: Callable[[str], str], message: str
) -> None:
    workspace.patch.chdir(workspace.folder)
    file = workspace.folder / "metrics" / f"{name}.json"
    file.write_text(edit(file.read_text()))
    with pytest.raises(StageError, match=message):
        show_metrics.main()


def test_figures_of_an_earlier_run_are_left_out(
    reproduced: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a run leaves them that failed before it came to them, at whichever stage."""
    monkeypatch.chdir(reproduced.folder)
    show_metrics.main()
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = [line for line in printed.out.splitlines() if not line.startswith("left out by ")]
    assert len(re.findall(r"\d\d%", "\n".join(lines[:-1]))) == printed.out.count(" kB") == len(lines) - 2

    reproduced.set("verify.accuracy_loss", 0.25)
    show_metrics.main()
    judged = capsys.readouterr()
    assert judged.err == (
        "show_metrics: warning: left out what verify found in an earlier run; `dvc repro` renews it\n"
    )
    assert (judged.out.count(" kB"), judged.out.count("fit"), judged.out.count("onnxruntime")) == (
        printed.out.count(" kB"), 0, 0
    )  # fmt: skip

    # All are made from the data, however far away.
    reproduced.set("generate.seed", 12345)
    show_metrics.main()
    nothing = capsys.readouterr()
    assert "left out what evaluate, verify, benchmark found" in nothing.err
    assert not re.findall(r"%| kB|fit", nothing.out)
    assert nothing.out.startswith("file ")
    assert "onnx fp32" in nothing.out


@pytest.mark.parametrize(
    ("name", "parity", "words"),
    [
        ("onnx fp16", {"outcome": "fit", "problems": [], "losses": []}, "fit"),
        ("onnx fp16", {"outcome": "wrong", "problems": ["values: far off"], "losses": []}, "wrong: values: far off"),
        ("onnx fp16", {"outcome": "too_lossy", "problems": [], "losses": ["much"]}, "too lossy: much"),
        ("pytorch fp32", {}, "the reference"),
        ("pytorch fp32", {"outcome": "wrong", "problems": ["padding: x"], "losses": []}, "wrong: padding: x"),
    ],
)
def test_the_verdict_is_in_words(name: str, parity: dict[str, Any], words: str) -> None:
    assert show_metrics.verdict(name, parity) == words
