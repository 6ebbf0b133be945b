"""What the first use of a model file costs, measured in a process that does nothing else."""

import platform
import re
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.execution.isolation import Limits, call_apart
from shared.execution.runners import Batch, open_runner
from shared.execution.runtimes import import_runtimes
from shared.stage import StageError, one_line

TIMEOUT_SECONDS = 300
"""For loading a file or for running a batch: far more than any takes that is of use on a phone."""


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


def cold_start(path: Path, batches: list[Batch]) -> ColdStart:
    """Load a file and run batches in a new process.

    Raises:
        StageError: The file is damaged, fails on a batch, or crashes or hangs.
    """
    # Spawned: a forked process would begin with this one's memory and threads.
    limits = Limits(TIMEOUT_SECONDS)
    return ColdStart(**call_apart(_measure, path, batches, what=path, limits=limits, start_method="spawn"))


def _measure(path: Path, batches: list[Batch]) -> dict[str, Any]:
    import_runtimes([path])
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
