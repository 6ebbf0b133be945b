"""Call a function in a process of its own: whatever becomes of it, this process goes on, and says whose fault it was.

A model file runs native code on what somebody has made of it. It may crash, hang, or ask for more memory than there is;
then it is to blame, and no other file. A full disk, a missing permission, a kill from outside are the machine's.

On Linux the process is forked, from one that has imported the runtime by then: that costs some milliseconds. Elsewhere
it starts from nothing (Apple's libraries do not survive a fork) and imports the runtime itself: to make up for that,
`for_each` has some at work at a time.
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
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from shared.stage import StageError, machine_fault, one_line

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


AT_A_TIME = 4

Item = TypeVar("Item")
Result = TypeVar("Result")

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


def call_apart(
    function: Callable[..., Any], *args: Any, what: Path | str, limits: Limits, start_method: str = START_METHOD
) -> Any:
    """Call a function in a new process, and return its result, which is plain data that JSON can hold.

    Args:
        function: At the top level of its module.
        args: Its arguments.
        what: The file that it runs, for the message.
        limits: Of memory and time.
        start_method: `fork`, or `spawn` for a process that has nothing of this one.

    Raises:
        StageError: The function raised an error, crashed, hung, or took too much memory.
        MachineError: The process could not be started, or was ended from outside.
        OSError: The function met an error of the machine, such as a full disk.
        MemoryError: The machine did not give it the memory that it may take.
    """
    if start_method == "fork" and not _forks:
        start_method = "spawn"
    context: Any = multiprocessing.get_context(start_method)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, args, limits), daemon=True)
    try:
        if start_method == "fork":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # that libraries have threads: they are idle
                process.start()
        else:
            process.start()
    except OSError as error:
        raise MachineError(f"{what}: no process to run it in: {error.strerror}") from error
    theirs.close()
    try:
        answer = _receive(ours, limits)
        if answer is None or "hangs" not in answer:
            process.join(LEAVING_SECONDS)
    finally:
        process.kill()
        process.join()
        ours.close()
    if answer is None:
        raise death(process.exitcode, what)
    return _result(answer, what, limits)


def for_each(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results, in order, of a function that uses `call_apart`."""
    if START_METHOD == "fork":
        yield from map(function, items)
    else:
        with ThreadPoolExecutor(min(AT_A_TIME, os.cpu_count() or 1)) as pool:
            yield from pool.map(function, items)


def death(exit_code: int, what: Path | str) -> StageError:
    """Why a process that ran something ended without an answer: a `MachineError` if it was not its own doing."""
    if exit_code >= 0:
        return StageError(f"{what}: the process that ran it ended itself, with exit code {exit_code}")
    killed_by = signal.Signals(-exit_code)
    if killed_by in FROM_OUTSIDE:
        why = " (as a system does that runs out of memory)" if killed_by == signal.SIGKILL else ""
        return MachineError(f"{what}: the process that ran it was ended from outside, by {killed_by.name}{why}")
    return StageError(f"{what}: crashes: the process that ran it was ended by {killed_by.name}")


def _receive(channel: Connection, limits: Limits) -> dict[str, Any] | None:
    """What the process answers; None if it ended without a word."""
    while channel.poll(limits.timeout_seconds + SIGN_OF_LIFE_SECONDS):
        try:
            message = channel.recv_bytes()
        except EOFError:
            return None
        if message:
            answer: dict[str, Any] = json.loads(message)
            return answer
    return {"hangs": True}


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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
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
