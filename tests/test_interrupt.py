"""Ctrl-C in real processes, at any moment: one line, exit code 130, nothing half-written."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support import ROOT, Workspace, clean_environment, command

import pytest

WATCH = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == {moment!r}:
            os.kill(os.getpid(), 2)
sys.meta_path.insert(0, Watch())
"""
"""A `sitecustomize` that interrupts the process in the middle of its imports."""


def interrupt(folder: Path, stage: str, wait: float, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Start a stage as DVC does, interrupt it and its children after a while as a terminal does."""
    _, script, *paths = command(stage)
    process = subprocess.Popen(
        [sys.executable, ROOT / script, *paths], cwd=folder, env=clean_environment() | (env or {}),
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    time.sleep(wait)
    if env is None:
        os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=120)[1]
    return process.returncode, error


@pytest.mark.parametrize("moment", ["numpy", "torch", "pydantic", "shared.network.model", "torch.nn.modules.rnn"])
def test_while_libraries_are_imported(workspace: Workspace, tmp_path: Path, moment: str) -> None:
    """Some swallow KeyboardInterrupt, or make another error of it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WATCH.format(moment=moment))
    before = workspace.files()
    ended = interrupt(workspace.folder, "train", 0, {"PYTHONPATH": str(tmp_path / "site")})
    assert ended == (130, "train: interrupted\n")
    assert workspace.files() == before


@pytest.mark.parametrize(("stage", "wait"), [("train", 4), ("benchmark", 6), ("predict@onnx", 3)])
def test_while_a_stage_works(workspace: Workspace, stage: str, wait: float) -> None:
    """Some work in processes of their own, which hear of it as well."""
    workspace.set("train.epochs", 1_000_000)
    workspace.set("benchmark.turn_seconds", 5.0)
    workspace.set("predict.probe_batches", list(range(1, 3000)))
    before = workspace.files()
    code, error = interrupt(workspace.folder, stage, wait)
    assert (code, error) == (130, f"{stage.partition('@')[0]}: interrupted\n")
    assert workspace.files() == before


def test_the_gate_does_not_say_regression(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WATCH.format(moment="pydantic"))
    script = shlex.quote(str(ROOT / "commands" / "gate.py"))
    ended = subprocess.run(
        f"{shlex.quote(sys.executable)} {script}", shell=True, cwd=workspace.folder, check=False,
        env=clean_environment() | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (130, "gate: interrupted\n")


def test_a_library_that_is_missing_is_one_line(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch_cpu.so: failed to map segment')")
    _, script, *paths = command("train")
    ended = subprocess.run(
        [sys.executable, ROOT / script, *paths], cwd=workspace.folder, check=False,
        env=clean_environment() | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 1
    assert re.fullmatch(r"train: error: a library cannot be loaded: .*failed to map segment\n", ended.stderr)


@pytest.mark.parametrize("name", ["predict", "demo", "show_metrics"])
def test_commands_end_in_one_line_too(workspace: Workspace, tmp_path: Path, name: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(WATCH.format(moment="numpy" if name != "show_metrics" else "pydantic"))
    script = ROOT / "commands" / f"{name}.py"
    ended = subprocess.run(
        [sys.executable, script], cwd=workspace.folder, check=False, stdin=subprocess.DEVNULL,
        env=clean_environment() | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (130, f"{name}: interrupted\n")
