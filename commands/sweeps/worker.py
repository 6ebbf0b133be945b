"""One trial on a Ray node: a clone that nobody else uses, and `trial.py` run in it by a process of its own.

Ray ships these functions to the nodes; a node needs Git and this project's requirements, and no checkout.
"""

import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commands.sweeps.trial import RUNNING, RemoteError, git, local_commit

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Ray sets the first of them for its workers, and libraries that do not read it take all cores."""
OWN_VARIABLES = re.compile(r"RAY_|PYTHONPATH$")
POLL_SECONDS = 0.1
GRACE_SECONDS = 60  # for a publication that is under way when the trial is told to end


class LostTrialError(Exception):
    """The trial's process was killed, by whatever: no fault of the trial, which runs again."""


@dataclass(frozen=True)
class Job:
    """What a node must know to run one trial.

    Attributes:
        name: The experiment's name, for the progress.
        url: The Git repository to clone from and to publish to.
        revision: The commit to clone.
        reference: Of the experiment: a clone that has it finished this trial before, and could not publish it.
        work: The folder of this node's clones.
        cache: DVC's cache that the trials share; None is a folder in `work`.
        config: What the clone's `.dvc/config.local` says besides: section to options.
        identity: Name and address of whoever runs the sweep.
        arguments: Of `trial.py`.
        threads: How many cores the trial has.
    """

    name: str
    url: str
    revision: str
    reference: str
    work: str
    cache: str | None
    config: dict[str, dict[str, str]]
    identity: tuple[str, str]
    arguments: list[str] = field(default_factory=list)
    threads: int = 1


class Board:
    """What the trials are doing; an actor, since they run in processes of their own."""

    def __init__(self) -> None:
        self._doing: dict[str, tuple[str, float]] = {}

    def report(self, name: str, doing: str) -> None:
        """Hear from a trial."""
        self._doing[name] = (doing, time.time())

    def read(self) -> dict[str, tuple[str, float]]:
        """Trial to what it is doing, and since when."""
        return self._doing


def run_on_node(job: Job, board: Any) -> dict[str, Any]:
    """The task of Ray: one trial on one node. Return its outcome; its status is `lost` if its process was killed."""

    def report(doing: str) -> None:
        board.report.remote(job.name, doing)

    try:
        return run(job, report)
    except LostTrialError as error:
        return {"status": "lost", "error": str(error)}
    except RemoteError as error:
        return {"status": "unpublished", "error": str(error)}


def run(job: Job, report: Callable[[str], None]) -> dict[str, Any]:
    """Run one trial; return its outcome, with the id of this node.

    Args:
        job: The trial.
        report: Is told what it is doing.

    Raises:
        LostTrialError: Its process was killed.
        RemoteError: The repository cannot be cloned.
    """
    report("clone")
    with open_clone(job) as clone, tempfile.TemporaryDirectory() as folder:
        outcome = Path(folder, "outcome.json")
        command = [sys.executable, "commands/sweeps/trial.py", *job.arguments]
        kept = {name: value for name, value in os.environ.items() if not OWN_VARIABLES.match(name)}
        process = subprocess.Popen(
            [*command, "--outcome", str(outcome), "--end-with-stdin"],
            cwd=clone,
            env=kept | dict.fromkeys(THREADS, str(job.threads)) | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        lines: deque[str] = deque(maxlen=20)
        report("start of DVC")

        def listen() -> None:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                if stage := RUNNING.match(lines[-1]):
                    report(stage[1])

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            # Ray cancels a task by an exception in this thread, which one that waits for a line would not notice.
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
        finally:
            end(process)
            listener.join(timeout=10)
        if not outcome.exists():
            if process.returncode < 0:
                raise LostTrialError(f"its process was ended by signal {-process.returncode}")
            raise RemoteError(" ".join(lines) or f"exit code {process.returncode}")
        return {**json.loads(outcome.read_text(encoding="utf-8")), "node": node_id()}


def end(process: "subprocess.Popen[str]") -> None:
    """Let a trial finish its publication, then end it with all its stages; nothing of it is left running."""
    if process.stdin:
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def node_id() -> str:
    """How Ray names this node."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


@contextlib.contextmanager
def open_clone(job: Job) -> Iterator[Path]:
    """Yield a clone at the revision that nobody else uses until this ends.

    The lock is of an open file, which the kernel lets go of whenever this process ends. A clone that was left in use by
    one that was killed is made anew: half-written files of DVC's and Git's may lie in it.

    Raises:
        RemoteError: The repository cannot be cloned.
    """
    work = Path(job.work).expanduser()
    work.mkdir(parents=True, exist_ok=True)
    clone, lock = take_free_slot(work, job.reference)
    busy = clone.with_suffix(".busy")
    try:
        if busy.exists():
            shutil.rmtree(clone, ignore_errors=True)
        busy.touch()
        prepare(clone, job)
        yield clone
        busy.unlink()
    except RemoteError:
        busy.unlink(missing_ok=True)
        raise
    finally:
        os.close(lock)


def take_free_slot(work: Path, reference: str) -> tuple[Path, int]:
    """Lock a slot: one whose clone has an experiment that waits for its publication, or the first that is free."""
    slots = [work / f"clone-{number}" for number in range(len(list(work.glob("clone-*.lock"))))]
    waiting = [slot for slot in slots if slot.is_dir() and local_commit(reference, slot)]
    others = (slot for number in itertools.count() if (slot := work / f"clone-{number}") not in waiting)
    for slot in itertools.chain(waiting, others):
        lock = os.open(slot.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return slot, lock
    raise AssertionError


def prepare(clone: Path, job: Job) -> None:
    """Bring a clone to the revision, with nothing of an earlier trial in it but its unpublished experiments.

    Raises:
        RemoteError: Git cannot.
    """
    if not (clone / ".git").exists():
        # gc.auto=0: Git's housekeeping deletes what DVC still means to read.
        git("clone", "--quiet", "--no-checkout", "--config", "gc.auto=0", job.url, str(clone), folder=clone.parent)
    git("remote", "set-url", "origin", job.url, folder=clone)
    if local_commit(job.revision, clone) is None:
        git("fetch", "--quiet", "origin", job.revision, folder=clone)
    git("checkout", "--quiet", "--force", "--detach", job.revision, folder=clone)
    # Files that Git ignores too: a variant's file of an earlier trial would be taken for one of this.
    git("clean", "--quiet", "-ffdx", "--exclude=/.dvc/config.local", "--exclude=/.dvc/tmp", folder=clone)
    for name, value in zip(("user.name", "user.email"), job.identity, strict=True):
        git("config", name, value, folder=clone)
    cache = job.cache if job.cache and Path(job.cache).is_dir() else clone.with_name("cache")
    core = {"site_cache_dir": str(clone / ".dvc" / "tmp" / "site"), **job.config.get("core", {})}
    sections = {**job.config, "core": core, "cache": {"dir": str(cache)}}
    lines = [
        line
        for section, options in sections.items()
        for line in (f"[{section}]", *(f"    {key} = {value}" for key, value in options.items()))
    ]
    file = clone / ".dvc" / "config.local"
    file.touch(mode=0o600)
    file.write_text("\n".join([*lines, ""]), encoding="utf-8")
