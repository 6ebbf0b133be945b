"""What a real machine does to a run: one line that names the path, old outputs kept, the same bytes afterwards."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support import ROOT, Workspace, clean_environment, command

import pytest

STAGES = {
    "generate": "data/sequences.csv",
    "prepare": "data/prepared",
    "export_onnx": "models/onnx/classifier-fp32.onnx",
    "export_coreml": "models/coreml/classifier-fp32.mlpackage",
    "predict@pytorch": "data/predictions/pytorch",
    "evaluate": "metrics/evaluate.json",
}
"""And what each writes first."""


def run_stage(
    folder: Path, stage: str, before: Callable[[], None] | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    _, script, *paths = command(stage)
    return subprocess.run(
        [sys.executable, ROOT / script, *paths], cwd=folder, env=clean_environment() | (env or {}),
        capture_output=True, text=True, preexec_fn=before, check=False,
    )  # fmt: skip


def assert_one_line(ended: subprocess.CompletedProcess[str], stage: str, path: str) -> None:
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"{stage.partition('@')[0]}: error: ")
    assert path in ended.stderr
    assert ended.stderr.count("\n") == 1


@contextmanager
def limited_files() -> Iterator[None]:
    """No file that this process writes grows beyond 2000 bytes. Python ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("stage", "path"), STAGES.items())
def test_a_file_that_cannot_grow(workspace: Workspace, stage: str, path: str) -> None:
    before = workspace.files()
    with limited_files():
        assert path in workspace.refuses(stage)
    workspace.call(stage)
    assert workspace.files() == before


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def copied(workspace: Workspace, disk: Path) -> Workspace:
    subprocess.run(["cp", "-a", f"{workspace.folder}/.", disk], check=True)
    return Workspace(disk, workspace.patch, workspace.capsys)


@pytest.mark.parametrize("stage", ["prepare", "export_onnx", "evaluate"])
def test_a_full_disk(workspace: Workspace, disk: Path, stage: str) -> None:
    small = copied(workspace, disk)
    before = small.files()
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert_one_line(run_stage(disk, stage), stage, STAGES[stage])
    filler.unlink()
    assert small.files() == before
    small.call(stage)
    assert small.files() == before


def test_a_read_only_disk(workspace: Workspace, disk: Path) -> None:
    small = copied(workspace, disk)
    before = small.files()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for stage in ("prepare", "evaluate"):
        assert_one_line(run_stage(disk, stage), stage, STAGES[stage])
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    small.call("evaluate")
    assert small.files() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(workspace: Workspace) -> None:
    before = workspace.files()
    metrics = workspace.folder / "metrics"
    metrics.chmod(0o555)
    ended = run_stage(workspace.folder, "evaluate")
    metrics.chmod(0o755)
    assert_one_line(ended, "evaluate", "metrics/evaluate.json")
    assert workspace.files() == before


@pytest.mark.parametrize(
    ("stage", "path"),
    [
        ("predict@pytorch", "data/prepared/test.npy"),
        ("evaluate", "data/predictions/onnx"),
        ("evaluate", "data/prepared"),
    ],
)
def test_data_that_may_not_be_read_are_no_file_s_fault(workspace: Workspace, stage: str, path: str) -> None:
    """Neither is what cannot be read taken for what is not there."""
    if os.getuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root reads everything, and there is no setpriv to take that from it")
    _, script, *paths = command(stage)
    forbidden, before = workspace.folder / path, workspace.files()
    mode = forbidden.stat().st_mode
    forbidden.chmod(0)
    without_rights = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.getuid() == 0 else []
    ended = subprocess.run(
        [*without_rights, sys.executable, ROOT / script, *paths], cwd=workspace.folder, env=clean_environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    forbidden.chmod(mode)
    assert_one_line(ended, stage, path)
    assert "Permission denied" in ended.stderr
    assert workspace.files() == before


def test_too_little_memory_for_a_net(workspace: Workspace) -> None:
    """Which would need 17 GB a matrix, in a process that may have 12."""
    workspace.set("architecture.name", "mlp")
    workspace.set("architecture.mlp.hidden_size", 65_536)
    before = workspace.files()
    ended = run_stage(
        workspace.folder, "train", lambda: resource.setrlimit(resource.RLIMIT_AS, (12_000_000_000, 12_000_000_000))
    )
    assert_one_line(ended, "train", "models/pytorch/classifier.pt: not written: not enough memory")
    assert workspace.files() == before


def test_a_clock_that_was_set_back(workspace: Workspace) -> None:
    """Everything there seems to be of the future."""
    before = workspace.files()
    for path in workspace.folder.rglob("*"):
        os.utime(path, (4e9, 4e9))
    for stage in ("prepare", "export_onnx", "evaluate"):
        workspace.call(stage)
    assert workspace.files() == before
