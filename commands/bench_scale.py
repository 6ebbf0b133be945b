"""Measure time and peak memory of every stage as the table grows: 10,000 sequences to 10,000,000, or the numbers given.

    python commands/bench_scale.py [SEQUENCES ...]
    python commands/bench_scale.py 100_000_000 --stages generate,prepare,train --train-minutes 10
    python commands/bench_scale.py 10_000_000 --stages generate,prepare,train --parts 10 --processes 2

A clone of the last commit in a temporary folder gets a Parquet table, a split of 80 : 10 : 10 and one epoch of
mini-batches. Then each stage's command runs as a process of its own, as DVC would start it, in an order that DVC could
choose. Peak memory is the most that was ever resident of the largest process of a stage; `predict` has one a core. Run
it on an otherwise idle machine; ten million sequences take some minutes and about 3 GB of disk, a hundred million ten
times that. (`verify` may fail, and say so: a model of one epoch decides by less.)

With `--parts` the table is a folder of so many files, with `--processes` that many train together, by torchrun. A
training that `--train-minutes` end is killed, as a machine's failure would, and the state that it left says how far it
came; with what it had done by then in how many seconds, an epoch's time is reckoned.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import psutil
from ruamel.yaml import YAML

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "stages"), str(PROJECT)]

from commands.benchmarks.judging import is_busy, load_in_words  # noqa: E402 - after the path to it
from commands.benchmarks.surroundings import clone_project, environment, machine_in_words  # noqa: E402

SEQUENCES = (10_000, 100_000, 1_000_000, 10_000_000)

MEMORY_TARGET_MB = 1000
FLAT_FROM = 1_000_000
FLAT_TARGET = 1.1  # the peak of a table may be this part of that of one ten times smaller
LINEAR_TARGET = 1.2  # and the time for each sequence: what a noisy machine adds
PREPARE_TARGET = 200_000  # sequences a second

Result = TypeVar("Result")

CHANGES: dict[str, dict[str, Any]] = {
    "prepare": {"train_size": 0.8, "validation_size": 0.1},
    "train": {"epochs": 1, "batch_size": 256, "learning_rate": 0.005},
}


@dataclass(frozen=True)
class Usage:
    """What a stage took: seconds, and peak memory in MB; and whether it was ended before it was done."""

    seconds: float
    memory: float
    ended: bool = False


@dataclass(frozen=True)
class Progress:
    """How far a training came: sequences, of how many an epoch has, and the seconds until it wrote that down."""

    sequences: int
    epoch: int
    seconds: float

    def __str__(self) -> str:
        share, speed = self.sequences / self.epoch, self.sequences / self.seconds
        return (
            f"{self.sequences:,} of {self.epoch:,} sequences ({share:.1%}) in {self.seconds:,.0f} s; "
            f"at {speed:,.0f} sequences/s an epoch takes {self.epoch / speed / 3600:.2f} hours"
        )


def make_clone(folder: Path) -> None:
    """The project at its last commit, with Parquet instead of CSV."""
    clone_project(folder)
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


def make_parts(table: Path, parts: int) -> None:
    """Let a folder of files take the place of a table, by whole row groups."""
    import pyarrow.parquet as pq

    whole = table.with_name("whole.parquet")
    table.rename(whole)
    table.mkdir()
    with pq.ParquetFile(whole, pre_buffer=False) as file:
        groups = file.num_row_groups
        for part in range(parts):
            with pq.ParquetWriter(table / f"part-{part:05}.parquet", file.schema_arrow) as writer:
                for group in range(part * groups // parts, (part + 1) * groups // parts):
                    writer.write_table(file.read_row_group(group))
    whole.unlink()


def read_progress(folder: Path, batch_size: int, started: float) -> Progress:
    """How far the training in a clone came that was ended; `started` is when it began, as `time.time` has it."""
    from shared.data.sequences import Prepared
    from shared.training.resume import state_path, unpack

    file = state_path(folder / "models" / "pytorch" / "classifier.pt")
    state = unpack(file.read_bytes())["state"]
    epoch = Prepared(folder / "data" / "prepared").schema.rows["train"]
    sequences = len(state["epochs"]) * epoch + state["step"] * batch_size
    return Progress(sequences, epoch, file.stat().st_mtime - started)


def elsewhere(function: Callable[..., Result], *args: Any) -> Result:
    """Call a function in a process of its own: what is resident here counts in every process started from here."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def measure(command: str, folder: Path, minutes: float | None = None) -> Usage:
    """Run a stage; one that fails is reported and does not end the benchmark, so that the others are measured.

    Args:
        command: Of the stage.
        folder: To run it in.
        minutes: After which it is killed, with all its processes; None: never.
    """
    start = time.perf_counter()
    resident: list[int] = []
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            shlex.split(command), cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=errors
        )
        timer = threading.Timer(60 * (minutes or 0), lambda: resident.append(kill(process.pid)))
        if minutes is not None:
            timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode and not resident:
            errors.seek(0)
            print(f"  {errors.read().decode().strip()}", file=sys.stderr)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, Linux in KiB
    memory = max(usage.ru_maxrss * unit, *resident, 0)
    return Usage(seconds, memory / 1e6, ended=bool(resident))


def kill(process_id: int) -> int:
    """End a process and all that it has started, in whatever session; what was resident of the largest, in bytes."""
    process = psutil.Process(process_id)
    processes = [*process.children(recursive=True), process]
    resident: int = max(each.memory_info().rss for each in processes)
    for each in processes:
        each.kill()
    return resident


def print_table(usages: dict[int, dict[str, Usage]]) -> None:
    """A line a stage: seconds and MB at each size."""
    stages = list(next(iter(usages.values())))
    width = max(map(len, stages))
    print(f"\n{'':<{width}}" + "".join(f"{rows:>20,}" for rows in usages))
    for stage in stages:
        cells = (
            f"{'>' if usage[stage].ended else ''}{usage[stage].seconds:.1f} s{usage[stage].memory:5.0f} MB"
            for usage in usages.values()
        )
        print(f"{stage:<{width}}" + "".join(f"{cell:>20}" for cell in cells))


def judge(usages: dict[int, dict[str, Usage]], *, busy: bool = False) -> None:
    """Say whether time grows linearly or better, memory stays flat and small, and `prepare` is fast enough.

    Args:
        usages: By number of sequences, then by stage.
        busy: Whether the machine had other things to do: then a time that is too long says nothing.
    """
    sizes = list(usages)
    verdict = {True: "met", False: "NOT met"}
    of_time = {True: "met", False: "noisy: the machine was busy" if busy else "NOT met"}
    memory, stage, rows = max((usages[n][stage].memory, stage, n) for n in sizes for stage in usages[n])
    print(f"\npeak memory: {memory:.0f} MB, of {stage} at {rows:,}; target {MEMORY_TARGET_MB} MB: ", end="")
    print(verdict[memory <= MEMORY_TARGET_MB])
    for smaller, larger in pairwise(sizes):
        whole = [stage for stage in usages[larger] if not (usages[smaller][stage].ended or usages[larger][stage].ended)]
        growth, stage = max(
            (usages[larger][stage].seconds / usages[smaller][stage].seconds * smaller / larger, stage)
            for stage in whole
        )
        print(f"time for each sequence, {larger:,} against {smaller:,}: at most {growth:.2f}, of {stage}; ", end="")
        print(f"target {LINEAR_TARGET}: {of_time[growth <= LINEAR_TARGET]}")
        if smaller >= FLAT_FROM:
            growth, stage = max(
                (usages[larger][stage].memory / usages[smaller][stage].memory, stage) for stage in usages[larger]
            )
            print(f"peak memory, {larger:,} against {smaller:,}: at most {growth:.2f}, of {stage}; ", end="")
            print(f"target {FLAT_TARGET}: {verdict[growth <= FLAT_TARGET]}")
    if "prepare" in usages[sizes[-1]]:
        speed = sizes[-1] / usages[sizes[-1]]["prepare"].seconds
        print(f"prepare, Parquet: {speed:,.0f} sequences/s; target {PREPARE_TARGET:,}: ", end="")
        print(of_time[speed >= PREPARE_TARGET])


def main() -> None:
    """Read the arguments, run the stages at every size, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", nargs="*", type=int, default=SEQUENCES, help="how many, from few to many")
    parser.add_argument("--stages", type=lambda text: text.split(","), help="separated by commas (default: all)")
    parser.add_argument("--parts", type=int, help="files that the table is a folder of (default: it is one file)")
    parser.add_argument("--processes", type=int, default=1, help="that train together (default: %(default)s)")
    parser.add_argument("--train-minutes", type=float, help="after which the training is killed (default: never)")
    args = parser.parse_args()
    print(elsewhere(machine_in_words))
    print(load_in_words())
    busy = is_busy()
    usages: dict[int, dict[str, Usage]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as temporary:
        folder = Path(temporary) / "clone"
        make_clone(folder)
        for rows in args.sequences:
            set_rows(folder, rows)
            usages[rows] = {}
            commands = elsewhere(stage_commands, folder)
            if unknown := [stage for stage in args.stages or () if stage not in commands]:
                parser.error(f"no stage {unknown[0]!r}; there are {', '.join(commands)}")
            for stage in [stage for stage in commands if stage in (args.stages or commands)]:
                command, training = commands[stage], stage == "train"
                if training and args.processes > 1:
                    command = command.replace("python ", f"torchrun --nproc-per-node {args.processes} ", 1)
                started = time.time()
                usage = measure(command, folder, args.train_minutes if training else None)
                usages[rows][stage] = usage
                print(f"{rows:>12,}  {stage:<28}  {usage.seconds:8.1f} s  {usage.memory:6.0f} MB", flush=True)
                if usage.ended:
                    print(
                        f"{'':>14}ended: {elsewhere(read_progress, folder, CHANGES['train']['batch_size'], started)}",
                        flush=True,
                    )
                if stage == "generate" and args.parts:
                    elsewhere(make_parts, folder / "data" / "sequences.parquet", args.parts)
    print_table(usages)
    judge(usages, busy=busy)


if __name__ == "__main__":
    main()
