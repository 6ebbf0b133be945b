"""What the committed settings of DVC do about a remote that has gone bad, and what `make repro` says of a cut lock."""

import shutil
import subprocess
import sys
from pathlib import Path

from commands.check_lock import is_whole
from shared.kit.stage import UNFINISHED
from tests.support import ROOT, Project, clean_environment

import pytest


def test_a_bit_that_flipped_in_the_remote_is_not_pulled(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.folder.mkdir()
    shutil.copytree(ROOT / ".dvc", project.folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "*.local"))
    (project.folder / "model.onnx").write_bytes(bytes(50_000))
    project.git("init", "--quiet")
    project.dvc("add", "model.onnx")
    project.dvc("remote", "modify", "storage", "url", str(tmp_path / "store"))
    project.dvc("push")
    project.commit()
    [stored] = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]

    def pull(name: str) -> tuple[Project, subprocess.CompletedProcess[str]]:
        clone = Project(tmp_path / name)
        project.git("clone", "--quiet", ".", str(clone.folder))
        command = [sys.executable, "-m", "dvc", "pull"]
        return clone, subprocess.run(
            command, cwd=clone.folder, env=clean_environment(), capture_output=True, text=True, check=False
        )

    assert pull("before")[1].returncode == 0
    mode = stored.stat().st_mode
    stored.chmod(0o644)
    content = bytearray(stored.read_bytes())
    content[20_000] ^= 1
    stored.write_bytes(content)
    stored.chmod(mode)
    clone, pulled = pull("after")
    assert pulled.returncode != 0
    assert "failed to pull" in pulled.stderr
    assert not (clone.folder / "model.onnx").exists()


@pytest.mark.parametrize("share", [0, 0.001, 0.025, 0.1, 0.3, 0.5, 0.77, 0.9, 0.999])
def test_a_lock_that_is_cut_off_is_told_from_a_whole_one(share: float) -> None:
    text = (ROOT / "dvc.lock").read_text()
    assert is_whole(text)
    assert not is_whole(text[: int(len(text) * share)].rstrip("\n"))


@pytest.mark.parametrize("lost", ["      md5: ", "    cmd: "])
def test_a_lock_that_ends_with_a_line_but_before_the_hash_is_cut_off(lost: str) -> None:
    text = (ROOT / "dvc.lock").read_text()
    assert not is_whole(text[: text.rindex(lost)])


@pytest.mark.parametrize(("committed", "repair"), [(True, "git checkout dvc.lock"), (False, "rm dvc.lock")])
def test_the_repair_of_a_cut_lock_is_said(tmp_path: Path, committed: bool, repair: str) -> None:
    project = Project(tmp_path)
    project.git("init", "--quiet")
    if committed:
        shutil.copy(ROOT / "dvc.lock", tmp_path)
    (tmp_path / "README.md").touch()
    project.commit()
    text = (ROOT / "dvc.lock").read_text()
    (tmp_path / "dvc.lock").write_text(text)
    assert say(tmp_path) == ""
    (tmp_path / "dvc.lock").write_text(text[:1000])
    said = say(tmp_path)
    assert f"`{repair}`, then `make repro`" in said
    assert said.count("\n") == 1


def say(folder: Path) -> str:
    command = [sys.executable, str(ROOT / "commands" / "check_lock.py")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize("output", ["data/predictions/onnx", "models/onnx/classifier-fp32.onnx", "metrics/verify.json"])
def test_what_is_in_progress_is_seen_by_neither_dvc_nor_git(tmp_path: Path, output: str) -> None:
    project = Project(tmp_path)
    project.git("init", "--quiet")
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "*.local"))
    for name in (".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    path = tmp_path / output
    left = path.with_name(f".{path.name}{UNFINISHED}") / "new" / path.name
    left.parent.mkdir(parents=True)
    left.touch()
    relative = str(left.relative_to(tmp_path))
    assert relative in project.dvc("check-ignore", relative)
    assert relative in project.git("check-ignore", relative)
