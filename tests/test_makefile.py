"""What make says before anything is installed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.support import ROOT

import pytest


def run_make(folder: Path, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    make = shutil.which("make")
    assert make is not None
    return subprocess.run(
        [make, *args], cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what make needs, and a space in its name."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("Makefile", *(file.name for file in ROOT.glob("requirements*")), "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_make_alone_explains_its_targets(checkout: Path) -> None:
    output = run_make(checkout).stdout
    for target in ("repro", "test", "bench", "format", "apple-tests"):
        assert f"\n  {target} " in output
    assert not (checkout / ".venv").exists()


def test_an_unsupported_python_gets_one_line(checkout: Path) -> None:
    programs = checkout / "bin"
    programs.mkdir()
    python = programs / "python3"
    python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.10.1" && exit 0\nexit 1\n')
    python.chmod(0o755)

    result = run_make(checkout, "repro", PATH=str(programs))

    assert result.returncode != 0
    [line, from_make] = result.stderr.splitlines()
    assert line.startswith("Python 3.11, 3.12 or 3.13 is needed; found Python 3.10.1.")
    assert "Error 1" in from_make
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("name", ["nowhere/python3.12", "an old python3"])
def test_a_python_that_was_asked_for_and_does_not_work_is_an_error(checkout: Path, name: str) -> None:
    """However many others there are that would."""
    python = checkout / name
    if name.startswith("an"):
        python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.10.1" && exit 0\nexit 1\n')
        python.chmod(0o755)
    result = run_make(checkout, f"PYTHON={python}", "repro")
    assert result.returncode != 0
    assert f"Python 3.11, 3.12 or 3.13 is needed; found {python}: " in result.stderr
    assert not (checkout / ".venv").exists()


def pins(name: str) -> dict[str, str]:
    """The versions that a file of requirements pins, by the package's normal name."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / name).read_text(), flags=re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found}


def test_the_files_with_hashes_hold_what_is_required_and_nothing_else() -> None:
    """`make lock` renews them."""
    required = pins("constraints.txt") | pins("requirements.txt")
    locked, torch = pins("requirements.lock"), pins("requirements-torch.lock")
    assert not locked.keys() & torch.keys()
    elsewhere = {"pywin32", "tzdata"}  # systems that uv resolves for as well
    assert {package: version for package, version in (locked | torch).items() if package not in elsewhere} == required
    assert "torch" in torch
    assert pins("requirements-coreai.lock") == pins("requirements-coreai.txt")
    assert not pins("requirements-coreai.txt").keys() & required.keys()
    for name in ("requirements.lock", "requirements-torch.lock", "requirements-coreai.lock"):
        blocks = re.split(r"^(?=[a-z])", (ROOT / name).read_text(), flags=re.MULTILINE)[1:]
        assert all("--hash=sha256:" in block for block in blocks)


def test_what_is_installed_is_not_installed_again(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "installed").touch()
    assert "up to date" in run_make(checkout, ".venv/installed").stdout
    os.utime(checkout / "requirements.txt", (2e9, 2e9))
    assert "pip install" in run_make(checkout, "--dry-run", ".venv/installed").stdout
