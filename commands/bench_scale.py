"""Measure time and peak memory of every stage as the table grows: 10,000 sequences to 10,000,000, or the numbers given.

    python commands/bench_scale.py [SEQUENCES ...]

A clone of the last commit in a temporary folder gets a Parquet table, a split of 80 : 10 : 10 and one epoch of
mini-batches. Then each stage's command runs as a process of its own, as DVC would start it, in an order that DVC could
choose. Peak memory is the most that was ever resident of that process. Run it on an otherwise idle machine; the largest
table takes some minutes and about 3 GB of disk. (`verify` may fail, and say so: a model of one epoch decides by less.)
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

PROJECT = Path(__file__).resolve().parents[1]
SEQUENCES = (10_000, 100_000, 1_000_000, 10_000_000)

MEMORY_TARGET_MB = 1000
FLAT_FROM = 1_000_000
FLAT_TARGET = 1.1  # the peak of a table may be this part of that of one ten times smaller
LINEAR_TARGET = 1.2  # and the time for each sequence: what a noisy machine adds
PREPARE_TARGET = 200_000  # sequences a second

CHANGES: dict[str, dict[str, Any]] = {
    "prepare": {"train_size": 0.8, "validation_size": 0.1},
    "train": {"epochs": 1, "batch_size": 256, "learning_rate": 0.005},
}


@dataclass(frozen=True)
class Usage:
    """What a stage took: seconds, and peak memory in MB."""

    seconds: float
    memory: float


def make_clone(folder: Path) -> None:
    """The project at its last commit, with Parquet instead of CSV."""
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(folder)], check=True)
    pipeline = folder / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("data/sequences.csv", "data/sequences.parquet"))


def set_rows(folder: Path, rows: int) -> None:
    """Change what the benchmark needs in params.yaml."""
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    for section, values in (CHANGES | {"generate": {"rows": rows}}).items():
        params[section].update(values)
    yaml.dump(params, folder / "params.yaml")


def stage_commands(folder: Path) -> dict[str, str]:
    """Every stage and its command, inputs before those who read them."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        graph = repo.index.graph
        order = TopologicalSorter({stage: list(graph[stage]) for stage in graph}).static_order()
        return {stage.addressing.rpartition(":")[2]: stage.cmd for stage in order}


def measure(command: str, folder: Path) -> Usage:
    """Run a stage; one that fails is reported and does not end the benchmark, so that the others are measured."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    start = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            shlex.split(command), cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            print(f"  {errors.read().decode().strip()}", file=sys.stderr)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, Linux in KiB
    return Usage(seconds, usage.ru_maxrss * unit / 1e6)


def print_table(usages: dict[int, dict[str, Usage]]) -> None:
    """A line a stage: seconds and MB at each size."""
    stages = list(next(iter(usages.values())))
    width = max(map(len, stages))
    print(f"\n{'':<{width}}" + "".join(f"{rows:>20,}" for rows in usages))
    for stage in stages:
        cells = (f"{usage[stage].seconds:10.1f} s{usage[stage].memory:5.0f} MB" for usage in usages.values())
        print(f"{stage:<{width}}" + "".join(f"{cell:>20}" for cell in cells))


def judge(usages: dict[int, dict[str, Usage]]) -> None:
    """Say whether time grows linearly or better, memory stays flat and small, and `prepare` is fast enough."""
    sizes = list(usages)
    verdict = {True: "met", False: "NOT met"}
    memory, stage, rows = max((usages[n][stage].memory, stage, n) for n in sizes for stage in usages[n])
    print(f"\npeak memory: {memory:.0f} MB, of {stage} at {rows:,}; target {MEMORY_TARGET_MB} MB: ", end="")
    print(verdict[memory <= MEMORY_TARGET_MB])
    for smaller, larger in pairwise(sizes):
        growth, stage = max(
            (usages[larger][stage].seconds / usages[smaller][stage].seconds * smaller / larger, stage)
            for stage in usages[larger]
        )
        print(f"time for each sequence, {larger:,} against {smaller:,}: at most {growth:.2f}, of {stage}; ", end="")
        print(f"target {LINEAR_TARGET}: {verdict[growth <= LINEAR_TARGET]}")
        if smaller >= FLAT_FROM:
            growth, stage = max(
                (usages[larger][stage].memory / usages[smaller][stage].memory, stage) for stage in usages[larger]
            )
            print(f"peak memory, {larger:,} against {smaller:,}: at most {growth:.2f}, of {stage}; ", end="")
            print(f"target {FLAT_TARGET}: {verdict[growth <= FLAT_TARGET]}")
    speed = sizes[-1] / usages[sizes[-1]]["prepare"].seconds
    print(f"prepare, Parquet: {speed:,.0f} sequences/s; target {PREPARE_TARGET:,}: {verdict[speed >= PREPARE_TARGET]}")


def main() -> None:
    """Read the arguments, run every stage at every size, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", nargs="*", type=int, default=SEQUENCES, help="how many, from few to many")
    sizes = parser.parse_args().sequences
    usages: dict[int, dict[str, Usage]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as temporary:
        folder = Path(temporary) / "clone"
        make_clone(folder)
        for rows in sizes:
            set_rows(folder, rows)
            usages[rows] = {}
            # DVC is loaded in a process of its own: what is resident here counts in every process started from here.
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                commands = pool.submit(stage_commands, folder).result()
            for stage, command in commands.items():
                usages[rows][stage] = usage = measure(command, folder)
                print(f"{rows:>12,}  {stage:<28}  {usage.seconds:8.1f} s  {usage.memory:6.0f} MB", flush=True)
    print_table(usages)
    judge(usages)


if __name__ == "__main__":
    main()
