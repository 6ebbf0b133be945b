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
from typing import Any, Self

from shared.execution.isolation import START_METHOD, Apart, Limits, MachineError, Task, still_working
from shared.execution.runners import Batch, open_runner
from shared.execution.runtimes import import_runtimes
from shared.kit.stage import StageError, one_line

TIMEOUT_SECONDS = 300
"""For loading a file or for running a batch: far more than any takes that is of use on a phone."""
SIDE_BY_SIDE = 16  # processes: with torch or coremltools, each takes some hundred MB


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


class ColdStarts:
    """Each file is loaded and runs batches in a new process, one at a time.

    Before, these processes import their runtimes, side by side: that is not measured, and takes longest. They begin
    with this object, before this process imports a runtime: of one that has been imported, a forked process counts the
    pages that it touches again as its own. Those that are too many to begin so start from nothing.

    Args:
        paths: Of the files; one that occurs twice is loaded twice.
        batches: What each file runs.

    Raises:
        MachineError: A process could not be started.
    """

    def __init__(self, paths: list[Path], batches: list[Batch]) -> None:
        self._batches = batches
        self._processes = ExitStack()
        self._ahead = paths[SIDE_BY_SIDE:]
        self._waiting = self._begin(paths[:SIDE_BY_SIDE], START_METHOD)

    def _begin(self, paths: list[Path], start_method: str) -> list[tuple[Apart, Event]]:
        """Start a process for each file, which waits for its turn when it has its runtime."""
        event: Callable[[], Event] = multiprocessing.get_context(start_method).Event
        waiting = []
        for path in paths:
            turn = event()
            task = Task(_measure, (path, self._batches, turn), path)
            apart = Apart(task, Limits(TIMEOUT_SECONDS), start_method)
            waiting.append((self._processes.enter_context(apart), turn))
        return waiting

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    def measure(self) -> list[ColdStart | StageError]:
        """Let each process have its turn, once: nothing else should compute on this machine meanwhile.

        Returns:
            What each file took, or why it could not be measured: it is damaged, fails on a batch, crashes or hangs.

        Raises:
            MachineError: A process could not be started, or was ended from outside.
        """
        found: list[ColdStart | StageError] = []
        while self._waiting:
            for apart, _ in self._waiting:
                apart.wait_for_sign()
            for apart, turn in self._waiting:
                turn.set()
                try:
                    found.append(ColdStart(**apart.wait_for_result()))
                except MachineError:
                    raise
                except StageError as error:
                    found.append(error)
            self._waiting = self._begin(self._ahead[:SIDE_BY_SIDE], "spawn")
            self._ahead = self._ahead[SIDE_BY_SIDE:]
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
