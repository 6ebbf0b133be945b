"""Equal inputs give equal bytes: in another folder, process, on another day, and with another CPU's kernels."""

import hashlib
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.kit import has_avx2
from tests.support import ROOT, Project, Workspace, clean_environment

import pytest

ANOTHER_DAY = """
'''Moves the clock of a stage's process by three years, and leaves a note that it did.'''
import ctypes, datetime, gc, os, sys, time

if any(argument.startswith("stages/") for argument in sys.orig_argv):
    real_time, real_localtime, real_gmtime = time.time, time.localtime, time.gmtime
    time.time = lambda: real_time() + 3 * 365 * 86400  # date.today() asks it too
    time.localtime = lambda seconds=None: real_localtime(time.time() if seconds is None else seconds)
    time.gmtime = lambda seconds=None: real_gmtime(time.time() if seconds is None else seconds)
    # A subclass would crash the libraries that know datetime's layout, so the type itself is changed.
    gc.get_referents(datetime.datetime.__dict__)[0]["now"] = classmethod(
        lambda cls, tz=None: cls.fromtimestamp(time.time(), tz)
    )
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))
    today = datetime.datetime.fromtimestamp(real_time())
    with open(os.environ["SHIFTED_CLOCKS"], "a") as notes:
        print((datetime.date.today() - today.date()).days, (datetime.datetime.now() - today).days, file=notes)
"""

TIMED = {"metrics/benchmark.json", "metrics/report.html"}
"""Timings are other figures at every run, and so is the page that shows them."""


def without_timings(lock: dict[str, Any]) -> dict[str, Any]:
    """The content of dvc.lock, without what it says of the files that hold timings."""

    def untimed(stage: dict[str, Any]) -> dict[str, Any]:
        kinds = ("deps", "outs")
        return stage | {kind: [each for each in stage.get(kind, []) if each["path"] not in TIMED] for kind in kinds}

    return lock | {"stages": {name: untimed(stage) for name, stage in lock["stages"].items()}}


def test_two_clones_write_the_same_bytes(
    first_repro: tuple[Project, list[str]], make_project: Callable[[str], Project], tmp_path: Path
) -> None:
    """The folder's name, the hash seed and the date differ."""
    first, ran = first_repro
    (tmp_path / "another day").mkdir()
    (tmp_path / "another day" / "sitecustomize.py").write_text(ANOTHER_DAY)
    notes = tmp_path / "notes"
    second = make_project("a folder with another name")

    second.repro(env={"PYTHONHASHSEED": "2", "PYTHONPATH": str(tmp_path / "another day"), "SHIFTED_CLOCKS": str(notes)})

    assert notes.read_text().split() == ["1095", "1095"] * len(ran), "every stage ran on another day"
    assert without_timings(second.lock()) == without_timings(first.lock())
    assert {"metrics/size.json", "models/onnx/classifier-fp32.onnx"} <= set(first.hashes()) - TIMED


def cpu_with_avx2() -> bool:
    return platform.system() == "Linux" and has_avx2()


@pytest.mark.skipif(not cpu_with_avx2(), reason="kernels are pinned on x86-64 with AVX2 under Linux alone")
@pytest.mark.parametrize(
    "cpu",
    [
        {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
        {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F"},
        {"MKL_DEBUG_CPU_TYPE": "5", "OMP_NUM_THREADS": "2"},
    ],
    ids=["MKL sees SSE4.2", "libc sees no AVX2", "two OpenMP threads"],
)
def test_a_cpu_with_other_instructions_trains_the_same_bytes(workspace: Workspace, cpu: dict[str, str]) -> None:
    """The variables make one machine's libraries choose what they would choose on another."""
    subprocess.run(
        [sys.executable, ROOT / "stages" / "train.py", "data/prepared", "other.pt", "train.json", "loss.csv"],
        cwd=workspace.folder, env=clean_environment() | cpu, check=True,
    )  # fmt: skip
    expected = (workspace.folder / "models/pytorch/classifier.pt").read_bytes()
    found = (workspace.folder / "other.pt").read_bytes()
    assert hashlib.sha256(found).hexdigest() == hashlib.sha256(expected).hexdigest()
