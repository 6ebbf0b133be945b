"""What the first use of a model file costs, measured in a process that does nothing else."""

import multiprocessing
import platform
import re
import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from shared.execution.isolation import Apart, Limits, MachineError, Task, still_working
from shared.execution.runners import Batch, open_runner
from shared.execution.runtimes import import_runtimes
from shared.kit.stage import StageError, one_line

TIMEOUT_SECONDS = 300
"""For loading a file or for running a batch: far more than any takes that is of use on a phone."""
SIDE_BY_SIDE = 8  # processes: with torch or coremltools, each takes some hundred MB


@dataclass(frozen=True)
class ColdStart:
    """What loading and running took.

    Attributes:
        load_seconds: From the path to a model that can be called; the runtime is imported, the file in the page cache.
        peak_memory: Bytes by which the process's largest resident memory grew above that of importing the runtime,
            while it loaded the file with one thread and ran the batches.
    """

    load_seconds: float
    peak_memory: int


def cold_starts(paths: list[Path], batches: list[Batch], quiet: Callable[[], object]) -> list[ColdStart | StageError]:
    """Load each file and run batches, each in a new process, one at a time.

    Before, these processes import their runtimes, side by side: that is not measured, and takes longest.

    Args:
        paths: Of the files.
        batches: What each file runs.
        quiet: Waits until nothing else computes on this machine; called before the first file is needed.

    Returns:
        What each took, or why it could not be measured: it is damaged, fails on a batch, crashes or hangs.

    Raises:
        MachineError: A process could not be started, or was ended from outside.
    """
    # Spawned: a forked process would begin with this one's memory and threads.
    event = multiprocessing.get_context("spawn").Event
    limits = Limits(TIMEOUT_SECONDS)
    found: list[ColdStart | StageError] = []
    for first in range(0, len(paths), SIDE_BY_SIDE):
        with ExitStack() as processes:
            waiting = []
            for path in paths[first : first + SIDE_BY_SIDE]:
                turn = event()
                task = Task(_measure, (path, batches, turn), path)
                waiting.append((processes.enter_context(Apart(task, limits, start_method="spawn")), turn))
            quiet()
            for apart, _ in waiting:
                apart.wait_for_sign()
            for apart, turn in waiting:
                turn.set()
                try:
                    found.append(ColdStart(**apart.wait_for_result()))
                except MachineError:
                    raise
                except StageError as error:
                    found.append(error)
    return found


def _measure(path: Path, batches: list[Batch], turn: Event) -> dict[str, Any]:
    import_runtimes([path])
    still_working()
    turn.wait()
    before = peak_memory()
    start = time.perf_counter()
    runner = open_runner(path, threads=1)
    seconds = time.perf_counter() - start
    try:
        for batch in batches:
            runner.call(batch)()
    except Exception as error:  # what a runtime raises has no common base
        raise StageError(f"{path}: cannot be run: {one_line(error)}") from None
    return {"load_seconds": seconds, "peak_memory": peak_memory() - before}


def peak_memory() -> int:
    """The largest resident memory that this process has had, in bytes."""
    if platform.system() == "Linux":
        # getrusage would also count the process that started this one, before it was replaced.
        status = Path("/proc/self/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, flags=re.MULTILINE)
        assert found
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS gives bytes
