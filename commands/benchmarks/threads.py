"""Mini-batches by one thread, by two, and by two processes of one thread each, for narrow and for wide nets.

And the default training, which takes all of its few rows at once.

    python commands/benchmarks/threads.py PREPARED WARM_UP [THREADS ...]     or the same under torchrun

is one process of it: a line of JSON for each case, its sequences a second.
"""

import json
import subprocess
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT / "stages"), str(PROJECT)]

import train  # noqa: E402 - after the path to it
from commands.benchmarks.judging import Figure, figure, print_ratio, print_times, ratio  # noqa: E402
from commands.benchmarks.training import repeat_rows  # noqa: E402
from shared.data.sequences import Prepared  # noqa: E402
from shared.execution.timing import Call, Rounds, alternate  # noqa: E402
from shared.kit.params import read_params  # noqa: E402
from shared.network.architectures import ArchitectureParams  # noqa: E402
from shared.training.devices import open_processes  # noqa: E402

from tabulate import tabulate  # noqa: E402

HIDDEN_SIZES = (50, 128, 256)
BATCH_SIZES = (256, 1024)
ROWS = 10_240
ROUNDS = 3
EPOCHS = 50
WAYS = {"1 thread": (1, 1), "2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}
"""How many processes, and how many threads of each."""


class Case(NamedTuple):
    """What is timed: an LSTM's hidden size, the rows of a batch over all processes, and a key of `WAYS`."""

    hidden_size: int
    batch_size: int
    way: str


def bench(clone: Path) -> None:
    """A table, and what the default training takes by the number of threads.

    Each round starts the processes anew, and times an epoch of every case in them, after a short one that is not timed.
    """
    prepared = Prepared(clone / "data" / "prepared")
    folders = [clone.parent / name for name in ("threads", "threads-warm-up")]
    for folder, rows in zip(folders, (ROWS, max(BATCH_SIZES)), strict=True):
        repeat_rows(prepared, folder, rows)
    speeds: dict[Case, list[float]] = {}
    for _ in range(ROUNDS):
        for processes in (1, 2):
            for case, speed in measure(folders, processes).items():
                speeds.setdefault(case, []).append(speed)
    figures = {case: figure(values) for case, values in speeds.items()}
    print(f"\nTraining an LSTM on {ROWS:,} sequences, sequences/s; * the fastest")
    print(draw(figures))
    seconds = default_training(prepared)
    print_times(f"The default training, {EPOCHS} epochs of all rows at once", seconds, {})
    one, two = seconds
    print_ratio(f"{two} / {one}", ratio(seconds[two], seconds[one]))


def measure(folders: list[Path], processes: int) -> dict[Case, float]:
    """Sequences a second of every case with so many processes."""
    threads = [str(threads) for count, threads in WAYS.values() if count == processes]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), __file__, *map(str, folders), *threads]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench: error: {' '.join(command)} failed: {done.stderr}")
    return {Case(*case): speed for case, speed in map(json.loads, done.stdout.splitlines())}


def draw(figures: dict[Case, Figure]) -> str:
    """A row for each net and batch size, a column for each way."""
    rows = []
    for hidden_size, batch_size in product(HIDDEN_SIZES, BATCH_SIZES):
        speeds = [figures[Case(hidden_size, batch_size, way)].median for way in WAYS]
        cells = [f"{'*' if speed == max(speeds) else ''}{speed:,.0f}" for speed in speeds]
        rows.append([str(hidden_size), f"{batch_size:,}", *cells])
    drawn: str = tabulate(
        [("hidden size", "batch size", *WAYS), *rows], tablefmt="plain", disable_numparse=True, stralign="right"
    )
    return drawn


def default_training(prepared: Prepared) -> dict[str, Rounds]:
    """Seconds of the default net's training with one thread and with two."""
    params = read_params("train", train.Params).model_copy(update={"epochs": EPOCHS})
    architecture = read_params("architecture", ArchitectureParams)
    calls: dict[str, Call] = {}
    for name, threads in {"1 thread": 1, "2 threads": 2}.items():
        calls[name] = partial(train.train, prepared, params.model_copy(update={"threads": threads}), architecture)
    return alternate(calls, rounds=7)


def main() -> None:
    """Time every case with the processes that were started, and each number of threads."""
    data, warm_up = (Prepared(Path(folder)) for folder in sys.argv[1:3])
    params = read_params("train", train.Params).model_copy(update={"epochs": 1})
    section: Any = read_params("architecture", ArchitectureParams)
    with open_processes("cpu") as processes:
        for hidden_size, batch_size, threads in product(HIDDEN_SIZES, BATCH_SIZES, map(int, sys.argv[3:])):
            changed = params.model_copy(update={"batch_size": batch_size, "threads": threads})
            net = section.model_copy(
                update={"name": "lstm", "lstm": section.lstm.model_copy(update={"hidden_size": hidden_size})}
            )
            train.train(warm_up, changed, net, processes)
            start = time.perf_counter()
            train.train(data, changed, net, processes)
            speed = len(data.split("train").labels) / (time.perf_counter() - start)
            way = next(name for name, numbers in WAYS.items() if numbers == (processes.count, threads))
            if processes.rank == 0:
                print(json.dumps([Case(hidden_size, batch_size, way), speed]), flush=True)


if __name__ == "__main__":
    main()
