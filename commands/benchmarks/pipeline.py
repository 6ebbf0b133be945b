"""Where the time of a cold `dvc repro` goes, and what an unchanged one costs."""

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
    """Where the time of a cold `dvc repro` goes, and what an unchanged one costs."""
    command = [sys.executable, "-m", "dvc", "repro"]
    starts: list[tuple[str, float]] = [("start of DVC", time.perf_counter())]
    with subprocess.Popen(
        [*command, "--force"], cwd=clone, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        starts += [
            (found[1], time.perf_counter())
            for line in process.stdout
            if (found := re.match(r"Running stage '(.+)'", line))
        ]
        end = time.perf_counter()
        errors = process.stderr.read() if process.stderr else ""
    if process.returncode:
        sys.exit(f"bench: error: dvc repro failed: {errors}")
    total = end - starts[0][1]
    print(f"Cold dvc repro, {os.cpu_count()} cores")
    width = max(len(name) for name, _ in starts)
    for (name, start), (_, stop) in zip(starts, [*starts[1:], ("", end)], strict=True):
        print(f"  {name:<{width}} {stop - start:6.1f} s")
    cold = figure([total])  # one run: how noisy it was cannot be told
    print(f"  {'total':<{width}} {total:6.1f} s   target {COLD_TARGET_SECONDS} s: {cold.verdict(COLD_TARGET_SECONDS)}")

    def unchanged() -> None:
        subprocess.run(command, cwd=clone, env=environment(), check=True, stdout=subprocess.DEVNULL)

    again = figure([float(np.median(calls)) for calls in alternate({"unchanged": unchanged}, rounds=7)["unchanged"]])
    print(f"\nUnchanged dvc repro\n  {again.median:.2f} s ({again.low:.2f} to {again.high:.2f})   ", end="")
    print(f"target {UNCHANGED_TARGET_SECONDS} s: {again.verdict(UNCHANGED_TARGET_SECONDS)}")
