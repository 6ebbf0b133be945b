"""The scale benchmark: it runs every stage, after those it reads from, and judges the figures."""

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from commands.bench_scale import (
    Usage,
    judge,
    kill,
    make_parts,
    measure,
    print_table,
    read_progress,
    stage_commands,
)
from tests.support import ROOT, Project, Workspace, clean_environment, command

import numpy as np
import pandas as pd
import psutil
import pytest


def test_every_stage_has_its_turn_after_those_that_it_reads_from(make_project: Callable[[str], Project]) -> None:
    project = make_project("scale")
    order = list(stage_commands(project.folder))
    assert sorted(order) == sorted(line.split()[0] for line in project.dvc("stage", "list").splitlines())
    for before, after in (("generate", "prepare"), ("prepare", "train"), ("export_onnx", "predict@onnx")):
        assert order.index(before) < order.index(after)


def test_time_and_peak_memory_are_those_of_the_command(
    make_project: Callable[[str], Project], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_project("scale").folder
    # From a small process, as in the benchmark: what is resident in this one would count.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        usage = pool.submit(
            measure, "python -c 'import time; data = b\"x\" * 500_000_000; time.sleep(0.2)'", folder
        ).result()
        pool.submit(measure, "python stages/prepare.py data/none.csv out", folder).result()
    assert usage.seconds > 0.2
    assert 500 < usage.memory < 540
    assert "prepare: error: data/none.csv: no such file" in capfd.readouterr().err


def test_a_training_that_is_ended_says_how_far_it_came(workspace: Workspace) -> None:
    """By the state that the next run goes on from."""
    for key, value in {"epochs": 1_000_000, "batch_size": 100, "checkpoint_seconds": 0.2}.items():
        workspace.set(f"train.{key}", value)
    _, script, *paths = command("train")
    started = time.time()
    with subprocess.Popen(
        [sys.executable, ROOT / script, *paths], cwd=workspace.folder, env=clean_environment()
    ) as training:
        while not (workspace.folder / "models/pytorch/.classifier.resume").exists() and training.poll() is None:
            time.sleep(0.1)
        kill(training.pid)
    progress = read_progress(workspace.folder, 100, started)
    assert progress.epoch == 200
    assert progress.sequences > 0
    assert progress.sequences % 100 == 0
    assert 0 < progress.seconds < time.time() - started
    assert f"{progress.sequences:,} of 200 sequences" in str(progress)


def test_what_is_ended_takes_with_it_all_that_it_has_started() -> None:
    """Also in a session of its own, as torchrun starts its processes."""
    with subprocess.Popen(["bash", "-c", "setsid sleep 60 & wait"]) as parent:
        deadline = time.monotonic() + 20
        while not (children := psutil.Process(parent.pid).children(recursive=True)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert kill(parent.pid) > 0
    assert children
    assert psutil.wait_procs(children, timeout=20)[1] == []


def test_a_stage_that_takes_too_long_is_ended(make_project: Callable[[str], Project]) -> None:
    usage = measure("python -c 'import time; time.sleep(60)'", make_project("scale").folder, minutes=0.01)
    assert usage.ended
    assert usage.seconds < 50
    assert usage.memory > 1


def test_a_table_in_parts_is_the_same_table(tmp_path: Path) -> None:
    table = pd.DataFrame({"x0": np.arange(950.0), "label": np.arange(950) % 3})
    table.to_parquet(tmp_path / "sequences.parquet", row_group_size=100)
    make_parts(tmp_path / "sequences.parquet", 4)
    parts = sorted((tmp_path / "sequences.parquet").iterdir())
    assert len(parts) == 4
    pd.testing.assert_frame_equal(pd.concat(map(pd.read_parquet, parts), ignore_index=True), table)
    assert [path.name for path in tmp_path.iterdir()] == ["sequences.parquet"]


def test_a_busy_machine_is_not_told_that_it_is_too_slow(capsys: pytest.CaptureFixture[str]) -> None:
    judge({10_000: {"prepare": Usage(1, 200)}, 100_000: {"prepare": Usage(20, 200)}}, busy=True)
    printed = capsys.readouterr().out
    assert printed.count("noisy: the machine was busy") == 2
    assert "NOT met" not in printed


@pytest.mark.parametrize(
    ("large", "verdicts"),
    [
        (Usage(10, 210), {"met": 4}),
        (Usage(13, 210), {"met": 3, "NOT met": 1}),
        (Usage(10, 1010), {"met": 2, "NOT met": 2}),
        (Usage(60, 210), {"met": 2, "NOT met": 2}),
    ],
)
def test_the_figures_are_held_to_the_targets(
    capsys: pytest.CaptureFixture[str], large: Usage, verdicts: dict[str, int]
) -> None:
    usages = {1_000_000: {"prepare": Usage(1, 200)}, 10_000_000: {"prepare": large}}
    print_table(usages)
    judge(usages)
    printed = capsys.readouterr().out
    for verdict, count in verdicts.items():
        assert printed.count(f": {verdict}\n") == count
