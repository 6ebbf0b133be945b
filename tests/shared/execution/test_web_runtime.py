"""What has to be installed before files run in WebAssembly, and where it is looked for."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from shared.execution import web_runtime
from shared.execution.runtimes import LeftOutError
from tests.support import ROOT, clean_environment

import pytest


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an experiment of DVC's queue runs, below the project's folder; with a node that says what `says` holds."""
    node = tmp_path / "bin" / "node"
    node.parent.mkdir()
    node.write_text(f'#!/bin/sh\nread version < "{tmp_path}/says"\necho $version\n')
    node.chmod(0o755)
    (tmp_path / "says").write_text("v20.11.1\n")
    monkeypatch.setenv("PATH", str(node.parent))
    folder = tmp_path / ".dvc" / "tmp" / "exps" / "tmp1"
    monkeypatch.setattr(web_runtime, "PROJECT", folder)
    return folder


def install(folder: Path, version: str) -> None:
    package = folder / "web" / web_runtime.PACKAGE / "package.json"
    package.parent.mkdir(parents=True)
    package.write_text(json.dumps({"version": version}))


def test_an_experiment_below_the_project_has_what_the_project_has(project: Path, tmp_path: Path) -> None:
    install(tmp_path, web_runtime.VERSION)
    assert web_runtime.find_node() == (str(tmp_path / "bin" / "node"), tmp_path / "web")
    install(project, "1.2.3")
    with pytest.raises(LeftOutError, match=r"^found onnxruntime-web 1\.2\.3: `make web` installs 1\.\d+\.\d+; then "):
        web_runtime.find_node()


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ("v20.11.1", "onnxruntime-web is not installed: `make web` installs it, with npm; "),
        ("v12.22.9", "found node v12.22.9: install Node.js 20 or newer, `make web`, "),
        ("", "found node without a version: install Node.js 20 or newer, `make web`, "),
    ],
)
@pytest.mark.usefixtures("project")
def test_what_is_not_there_is_named_and_what_to_do_about_it(tmp_path: Path, says: str, reason: str) -> None:
    (tmp_path / "says").write_text(f"{says}\n")
    with pytest.raises(LeftOutError) as left_out:
        web_runtime.find_node()
    assert str(left_out.value) == f"{reason}then `dvc repro --force --single-item predict@web` and `dvc repro`"


@pytest.mark.skipif(platform.system() != "Linux", reason="macOS limits no process's addresses")
@pytest.mark.skipif(
    not ((ROOT / "web" / "node_modules").exists() or os.environ.get("CI")),
    reason="onnxruntime-web is not installed; `make web` installs it, with npm",
)
def test_where_webassembly_does_not_start_no_file_is_to_blame(small_run: Path) -> None:
    script = (
        "import resource, sys, pathlib\n"
        "from shared.execution.runtimes import open_elsewhere, open_runtime\n"
        "resource.setrlimit(resource.RLIMIT_AS, (8 * 10**9, 8 * 10**9))\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "open_elsewhere(path, 'web', open_runtime(path))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, small_run / "models/onnx/classifier-fp32.onnx"],
        env=clean_environment() | {"PYTHONPATH": str(ROOT / "stages")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "LeftOutError: no available backend found" in ran.stderr
