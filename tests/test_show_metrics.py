"""The table at the end of `make repro`."""

import json
from pathlib import Path

from commands import show_metrics
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
    with pytest.raises(SystemExit) as stopped:
        show_metrics.main()
    assert stopped.value.code == 1
    assert workspace.capsys.readouterr().err == (
        "show_metrics: error: metrics/size.json: no such file; `dvc repro` writes it\n"
    )


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
