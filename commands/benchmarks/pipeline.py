"""Where the time of a cold `dvc repro` goes, what an unchanged one costs, and what of both is DVC's own."""

import functools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from commands.benchmarks.judging import figure
from commands.benchmarks.surroundings import environment
from shared.execution.timing import alternate

import numpy as np

COLD_TARGET_SECONDS = 35
UNCHANGED_TARGET_SECONDS = 1.0


def bench(clone: Path) -> None:
    """Where the time of a cold `dvc repro` goes, and what an unchanged one costs.

    Beside them stands what DVC takes for a pipeline of as many stages that have next to nothing to do: the least that
    stages of ours could come to.
    """
    steps = [("start of DVC", time.perf_counter())]
    steps += reproduce(clone, "--force")
    end = time.perf_counter()
    total = end - steps[0][1]
    copies = make_copies(clone.parent / "copies", len(steps) - 1)
    start = time.perf_counter()
    reproduce(copies)
    bare = time.perf_counter() - start
    print(f"Cold dvc repro, {os.cpu_count()} cores")
    width = max(len(name) for name, _ in steps)
    for (name, start), (_, stop) in zip(steps, [*steps[1:], ("", end)], strict=True):
        print(f"  {name:<{width}} {stop - start:6.1f} s")
    cold = figure([total])  # one run: how noisy it was cannot be told
    print(f"  {'total':<{width}} {total:6.1f} s   target {COLD_TARGET_SECONDS} s: {cold.verdict(COLD_TARGET_SECONDS)}")
    print(f"  DVC takes {bare:.1f} s for as many stages that copy a file each")

    folders = {"ours": clone, "copies": copies}
    turns = alternate({name: functools.partial(reproduce, folder) for name, folder in folders.items()}, rounds=7)
    ours, bare_again = (figure([float(np.median(calls)) for calls in turns[name]]) for name in folders)
    print(f"\nUnchanged dvc repro\n  {ours.median:.2f} s ({ours.low:.2f} to {ours.high:.2f})   ", end="")
    print(f"target {UNCHANGED_TARGET_SECONDS} s: {ours.verdict(UNCHANGED_TARGET_SECONDS)}")
    print(f"  DVC takes {bare_again.median:.2f} s for as many stages that copy a file each")


def reproduce(folder: Path, *options: str) -> list[tuple[str, float]]:
    """Run `dvc repro` there; each stage that ran, and when it began.

    Raises:
        SystemExit: It fails.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", *options],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        assert process.stderr
        started = [
            (found[1], time.perf_counter())
            for line in process.stdout
            if (found := re.match(r"Running stage '(.+)'", line))
        ]
        errors = process.stderr.read()
    if process.returncode:
        sys.exit(f"bench: error: dvc repro failed: {errors}")
    return started


def make_copies(folder: Path, count: int) -> Path:
    """A DVC pipeline of so many stages that copy one file."""
    folder.mkdir()
    (folder / "original").write_text("one line\n")
    stages = {f"copy_{i}": {"cmd": f"cp original {i}", "deps": ["original"], "outs": [str(i)]} for i in range(count)}
    (folder / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=folder, check=True)
    return folder
