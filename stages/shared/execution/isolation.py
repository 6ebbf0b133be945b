"""Call a function in a process of its own: whatever becomes of it, this process goes on, and says whose fault it was.

A model file runs native code on what somebody has made of it. It may crash, hang, or ask for more memory than there is;
then it is to blame, and no other file. A full disk, a missing permission, a kill from outside are the machine's.

On Linux the process is forked, from one that has imported the runtime by then: that costs some milliseconds. Elsewhere
it starts from nothing (Apple's libraries do not survive a fork) and imports the runtime itself. `all_apart` has several
at work at a time, and watches them from one thread: a process that has others is not safe to fork.
"""

import errno
import faulthandler
import json
import multiprocessing
import os
import platform
import re
import resource
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self

from shared.kit import begin_work
from shared.kit.stage import StageError, machine_fault, one_line

START_METHOD = "fork" if platform.system() == "Linux" else "spawn"
FROM_OUTSIDE = {signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGQUIT, signal.SIGTERM}
"""Signals that no process raises by what it computes. The system kills by SIGKILL when it runs out of memory."""
NO_MEMORY = re.compile("allocate memory|bad_alloc", re.IGNORECASE)  # in the words of ONNX Runtime, which has many types
SIGN_OF_LIFE_SECONDS = 0.2
LEAVING_SECONDS = 5
"""For a process to end that has answered: what goes wrong then makes no difference any more."""


class MachineError(StageError):
    """What ended a process and was not its own doing: it says nothing of the file that was run there."""


@dataclass(frozen=True)
class Limits:
    """What a process may take.

    Attributes:
        timeout_seconds: Until its next sign of life.
        memory_megabytes: Of memory, on top of what it has when it starts: on Linux alone. macOS has no such limit.
        section: Of params.yaml, where a person sets both; None if nobody does.
        mapped_bytes: Of files that it maps into memory: they are not counted.
    """

    timeout_seconds: float
    memory_megabytes: int | None = None
    section: str | None = None
    mapped_bytes: int = 0


@dataclass(frozen=True)
class Task:
    """A function to be called in a process of its own.

    Attributes:
        function: At the top level of its module; its result is plain data that JSON can hold.
        args: Its arguments.
        what: The file that it runs, for the messages.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    what: Path | str


_channel: Connection | None = None
_last_sign = 0.0
_forks = START_METHOD == "fork"


def forks_no_more() -> None:
    """From now on this process starts others from nothing: it is about to have threads that a forked one lacks."""
    global _forks
    _forks = False


def still_working() -> None:
    """Within `call_apart`: a sign of life, so that there is time until the next one. Elsewhere it does nothing."""
    global _last_sign
    if _channel is not None and time.monotonic() - _last_sign > SIGN_OF_LIFE_SECONDS:
        _last_sign = time.monotonic()
        _channel.send_bytes(b"")


def at_a_time(memory_megabytes: int) -> int:
    """How many processes may compute at a time: one a core, and together no more memory than the machine has.

    The cores are those that this process may use (not all, under `taskset` or in many containers), and no more than
    `OMP_NUM_THREADS`, by which a sweep divides them among its trials.

    Args:
        memory_megabytes: That each may take.
    """
    allowed = os.sched_getaffinity(0) if sys.platform == "linux" else range(os.cpu_count() or 1)
    threads = os.environ.get("OMP_NUM_THREADS", "")
    cores = min(len(allowed), int(threads)) if threads.isdecimal() else len(allowed)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(cores, memory // (memory_megabytes * 10**6)))


def call_apart(
    function: Callable[..., Any], *args: Any, what: Path | str, limits: Limits, start_method: str = START_METHOD
) -> Any:
    """Call a function in a new process, and return its result.

    Args:
        function: See `Task`.
        args: See `Task`.
        what: See `Task`.
        limits: Of memory and time.
        start_method: `fork`, or `spawn` for a process that has nothing of this one.

    Raises:
        StageError: The function raised an error, crashed, hung, or took too much memory.
        MachineError: The process could not be started, or was ended from outside.
        OSError: The function met an error of the machine, such as a full disk.
        MemoryError: The machine did not give it the memory that it may take.
    """
    [result] = all_apart([Task(function, args, what)], limits, start_method=start_method)
    if isinstance(result, StageError):
        raise result
    return result


def all_apart(tasks: Sequence[Task], limits: Limits, processes: int = 1, start_method: str = START_METHOD) -> list[Any]:
    """Call each function in a new process, some at a time, in order.

    Args:
        tasks: What to call.
        limits: Of each.
        processes: How many are at work at a time.
        start_method: See `call_apart`.

    Returns:
        The results, in order; of a function at fault, its `StageError` in place of the result.

    Raises:
        MachineError, OSError, MemoryError: As `call_apart`; the other processes are ended.
    """
    waiting = deque(enumerate(tasks))
    results: list[Any] = [None] * len(tasks)
    at_work: dict[int, Apart] = {}
    leaving: list[Apart] = []
    try:
        while waiting or at_work:
            while waiting and len(at_work) < processes:
                number, task = waiting.popleft()
                at_work[number] = Apart(task, limits, start_method)
            wait([each.channel for each in at_work.values()], min(each.patience() for each in at_work.values()))
            for number in [number for number, each in at_work.items() if each.is_done()]:
                leaving.append(at_work.pop(number))
                try:
                    results[number] = leaving[-1].result()
                except MachineError:
                    raise
                except StageError as error:
                    results[number] = error
        for each in leaving:
            each.leave()
    finally:
        for each in (*at_work.values(), *leaving):
            each.end()
    return results


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits until this ends; a process that is started meanwhile never hears of it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Apart:
    """A function in a process of its own, from its start to its end: that of the `with` block, if there is one.

    Raises:
        MachineError: The process cannot be started.
    """

    def __init__(self, task: Task, limits: Limits, start_method: str = START_METHOD) -> None:
        if start_method == "fork" and not _forks:
            start_method = "spawn"
        self._what, self._limits = task.what, limits
        self._answer: dict[str, Any] = {}
        context: Any = multiprocessing.get_context(start_method)
        self.channel, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_answer, args=(theirs, task.function, task.args, limits), daemon=True)
        try:
            if start_method != "fork":
                resource_tracker.ensure_running()  # or it is started with the first process, and lets Ctrl-C through
            with _without_interrupts(), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # that libraries have threads: they are idle
                self._process.start()
        except OSError as error:
            raise MachineError(f"{task.what}: no process to run it in: {error.strerror}") from error
        theirs.close()
        self._hear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def wait_for_sign(self) -> None:
        """Wait until the function gives a sign of life, or has ended."""
        wait([self.channel], self.patience())

    def wait_for_result(self) -> Any:
        """Wait for the function's result, once; errors as in `call_apart`."""
        while not self.is_done():
            wait([self.channel], self.patience())
        self.leave()
        return self.result()

    def _hear(self) -> None:
        self._deadline = time.monotonic() + self._limits.timeout_seconds + SIGN_OF_LIFE_SECONDS

    def patience(self) -> float:
        """Seconds until its next sign of life is due."""
        return max(0.0, self._deadline - time.monotonic())

    def is_done(self) -> bool:
        """Take what it has sent, if anything; whether it has answered, ended or been silent for too long."""
        if not self.channel.poll():
            if self.patience():
                return False
            self._answer = {"hangs": True}
            return True
        try:
            message = self.channel.recv_bytes()
        except EOFError:
            self._answer = {"ended": True}
            return True
        self._hear()
        self._answer = json.loads(message or "{}")
        return bool(message)

    def result(self) -> Any:
        """The function's result, or its error raised here; see `call_apart`."""
        if "ended" in self._answer:
            self.leave()
            self.end()
            raise death(self._process.exitcode, self._what)
        return _result(self._answer, self._what, self._limits)

    def leave(self) -> None:
        """Give it the time to end by itself, unless it hangs."""
        if "hangs" not in self._answer:
            self._process.join(LEAVING_SECONDS)

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.join()
        self.channel.close()


def death(exit_code: int, what: Path | str) -> StageError:
    """Why a process that ran something ended without an answer: a `MachineError` if it was not its own doing."""
    if exit_code >= 0:
        return StageError(f"{what}: the process that ran it ended itself, with exit code {exit_code}")
    killed_by = signal.Signals(-exit_code)
    if killed_by in FROM_OUTSIDE:
        why = " (as a system does that runs out of memory)" if killed_by == signal.SIGKILL else ""
        return MachineError(f"{what}: the process that ran it was ended from outside, by {killed_by.name}{why}")
    return StageError(f"{what}: crashes: the process that ran it was ended by {killed_by.name}")


def _result(answer: dict[str, Any], what: Path | str, limits: Limits) -> Any:
    """The function's result, or its error raised here."""
    if "result" in answer:
        return answer["result"]
    if "hangs" in answer:
        key = f" ({limits.section}.timeout_seconds)" if limits.section else ""
        raise StageError(f"{what}: hangs: no batch was done within {limits.timeout_seconds:g} seconds{key}")
    if "machine" in answer:
        raise MachineError(answer["machine"])
    if "os_error" in answer:
        raise OSError(*answer["os_error"])
    if "no_memory" in answer:
        if limits.memory_megabytes is None:
            raise MemoryError(f"{what}: not enough memory")
        if answer["granted"]:
            raise StageError(
                f"{what}: runs out of memory: it asks for more than {limits.memory_megabytes} MB "
                f"({limits.section}.memory_megabytes)"
            )
        raise MemoryError(
            f"{what} may take {limits.memory_megabytes} MB, as {limits.section}.memory_megabytes says, and the "
            "machine does not give it that much"
        )
    raise StageError(answer["error"])


# --- In the new process ---


def _answer(channel: Connection, function: Callable[..., Any], args: tuple[Any, ...], limits: Limits) -> None:
    """Call the function; send its result, or whose fault it is that there is none."""
    global _channel
    begin_work()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    faulthandler.disable()  # the signal's name says enough
    threading.Thread(target=_end_with_parent, daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _channel = channel
    usual = resource.getrlimit(resource.RLIMIT_AS)
    granted = _limit_memory(limits)
    try:
        answer = {"result": function(*args)}
    except Exception as error:  # what a runtime raises has no common base
        resource.setrlimit(resource.RLIMIT_AS, usual)
        answer = _explain(error, granted)
    channel.send_bytes(json.dumps(answer).encode())


def _explain(error: Exception, granted: bool) -> dict[str, Any]:
    """An error as plain data: of the system, of too little memory, or any other."""
    if isinstance(error, MachineError):
        return {"machine": str(error)}
    fault = machine_fault(error)
    if isinstance(fault, OSError) and fault.errno != errno.ENOMEM:
        name = fault.filename if isinstance(fault.filename, str | bytes | Path) else None
        return {"os_error": [fault.errno, fault.strerror, name and os.fsdecode(name)]}
    if fault or NO_MEMORY.search(str(error)):
        return {"no_memory": True, "granted": granted}
    return {"error": str(error) if isinstance(error, StageError) else f"{type(error).__name__}: {one_line(error)}"}


def _limit_memory(limits: Limits) -> bool:
    """Let this process take no more memory than it may; whether it may take all of that."""
    if (
        limits.memory_megabytes is None or platform.system() != "Linux"
    ):  # macOS takes such a limit, and does not keep it
        return True
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    wanted = has + limits.mapped_bytes + limits.memory_megabytes * 10**6
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = min([wanted, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    return allowed == wanted


def _end_with_parent() -> None:
    """Whatever ends the process that started this one, nobody waits for an answer any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
