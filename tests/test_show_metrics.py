"""The table at the end of `make repro`."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from commands import show_metrics
from shared.stage import StageError
from tests.support import Project, Workspace

import pytest


def test_a_line_for_every_file(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(small_run)
    show_metrics.main()
    header, *lines, note = capsys.readouterr().out.splitlines()
    files = [path for folder in (small_run / "models").iterdir() for path in folder.iterdir()]
    assert len(lines) == len(files)
    assert all(len(line) <= 112 for line in (header, *lines))
    size = json.loads((small_run / "metrics/size.json").read_text())["onnx"]["fp32"]["bytes"]
    [fp32] = [line for line in lines if line.startswith("onnx fp32")]
    assert f"{size / 1e3:.1f} kB" in fp32
    assert fp32.endswith("µs  verified")
    assert not [line for line in lines if line.startswith("coreml") and "µs" in line and " reference " in line]
    assert note.startswith("latency: median of one sequence, one thread, ")


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
            lambda text: text.replace("true", "1"),
            r"^metrics/verify\.json: .* = 1: input should be a valid bool",
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


def test_figures_of_an_earlier_run_are_told(
    reproduced: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a run leaves them that failed in `verify`, before it came to `benchmark`."""
    monkeypatch.chdir(reproduced.folder)
    show_metrics.main()
    assert capsys.readouterr().err == ""
    for changed in ("models/onnx/classifier-fp32.onnx", "data/predictions/onnx/fp32.npy", "metrics/verify.json"):
        path = reproduced.folder / changed
        path.unlink()  # it may be a link into DVC's cache
        path.write_text(json.dumps({}))
    show_metrics.main()
    assert capsys.readouterr().err == (
        "show_metrics: warning: the figures of evaluate, benchmark are of an earlier run; `dvc repro` renews them\n"
    )
