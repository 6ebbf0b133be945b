"""A process that crashes, hangs, hoards or is killed: the caller goes on, and knows whose fault it was."""

import ctypes
import errno
import os
import platform
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from shared.execution.isolation import Limits, MachineError, Task, all_apart, at_a_time, call_apart, still_working
from shared.kit.stage import StageError

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]  # not from tests.support: processes that start from nothing import all that this does
FILE = Path("models/onnx/classifier-fp16.onnx")
LIMITS = Limits(timeout_seconds=20, memory_megabytes=500, section="predict")
on_linux = pytest.mark.skipif(platform.system() != "Linux", reason="macOS limits no process's memory")


def apart(function: Any, *args: Any, limits: Limits = LIMITS) -> Any:
    return call_apart(function, *args, what=FILE, limits=limits)


def add(a: int, b: int) -> dict[str, Any]:
    return {"sum": a + b, "process": os.getpid()}


def refuse() -> None:
    raise StageError(f"{FILE}: is no model")


def divide_by_zero() -> float:
    return 1 / 0


def read_address_zero() -> None:
    ctypes.string_at(0)


def end_by(signal_number: int) -> None:
    if signal_number != signal.SIGKILL:
        signal.signal(signal_number, signal.SIG_DFL)
    os.kill(os.getpid(), signal_number)
    time.sleep(60)


def leave() -> None:
    os._exit(3)


def sleep(seconds: float, *, signs: bool) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)
        if signs:
            still_working()
    return "awake"


def take(megabytes: int) -> int:
    return len(np.ones(megabytes * 10**6, np.uint8))


def fill_the_disk() -> None:
    """As a loader reports it that turns every error into one of its own."""
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        raise StageError(f"{FILE}: not a readable model") from None


def read_what_is_not_allowed() -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), FILE)


def test_a_result_comes_back_from_another_process() -> None:
    result = apart(add, 1, 2)
    assert result["sum"] == 3
    assert result["process"] != os.getpid()


def test_a_process_that_starts_from_nothing_answers_alike() -> None:
    """As on macOS."""
    started = partial(call_apart, what=FILE, limits=LIMITS, start_method="spawn")
    assert started(add, 1, 2)["sum"] == 3
    with pytest.raises(StageError, match=r"ended by SIGSEGV$"):
        started(read_address_zero)
    with pytest.raises(StageError, match=rf"^{FILE}: is no model$"):
        started(refuse)


def test_an_error_comes_back_in_words() -> None:
    with pytest.raises(StageError, match=rf"^{FILE}: is no model$"):
        apart(refuse)
    with pytest.raises(StageError, match=r"^ZeroDivisionError: division by zero$"):
        apart(divide_by_zero)


def test_a_crash_is_the_file_s_and_names_the_signal() -> None:
    with pytest.raises(StageError, match=rf"^{FILE}: crashes: the process that ran it was ended by SIGSEGV$"):
        apart(read_address_zero)
    for number in (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
        with pytest.raises(StageError, match=f"by {number.name}$") as raised:
            apart(end_by, number)
        assert not isinstance(raised.value, MachineError)
    with pytest.raises(StageError, match="ended itself, with exit code 3"):
        apart(leave)


def test_a_kill_from_outside_is_not_the_file_s() -> None:
    for number in (signal.SIGKILL, signal.SIGTERM):
        with pytest.raises(MachineError, match=f"ended from outside, by {number.name}"):
            apart(end_by, number)


INTERRUPTED_FROM_THE_START = """
import os, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        os.kill(os.getpid(), 2)
if "--multiprocessing-fork" in sys.argv:
    sys.meta_path.insert(0, Interrupt())
"""


@pytest.mark.parametrize("resource_tracker_is_there", [True, False])
def test_ctrl_c_is_for_the_process_that_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resource_tracker_is_there: bool
) -> None:
    """A terminal sends it to all of them; at no moment of its start does one of them end, or say anything."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED_FROM_THE_START)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    if not resource_tracker_is_there:  # it is started with the first process, and changes which signals are blocked
        monkeypatch.setattr(resource_tracker, "_resource_tracker", resource_tracker.ResourceTracker())
        monkeypatch.setattr(resource_tracker, "ensure_running", resource_tracker._resource_tracker.ensure_running)
        monkeypatch.setattr(resource_tracker, "getfd", resource_tracker._resource_tracker.getfd)
    started = partial(call_apart, what=FILE, limits=LIMITS, start_method="spawn")
    assert started(add, 2, 3)["sum"] == 5
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_hang_ends_and_a_long_work_that_goes_on_does_not() -> None:
    limits = Limits(timeout_seconds=0.5, memory_megabytes=500, section="predict")
    start = time.monotonic()
    with pytest.raises(StageError, match=r"hangs: no batch was done within 0\.5 seconds \(predict\.timeout_seconds\)"):
        call_apart(silent_sleep, what=FILE, limits=limits)
    assert time.monotonic() - start < 10
    assert call_apart(working_sleep, what=FILE, limits=limits) == "awake"


def silent_sleep() -> str:
    return sleep(60, signs=False)


def working_sleep() -> str:
    return sleep(1.5, signs=True)


@on_linux
def test_memory_is_limited_on_top_of_what_the_process_has() -> None:
    assert apart(take, 300) == 300 * 10**6
    with pytest.raises(
        StageError, match=r"runs out of memory: it asks for more than 500 MB \(predict\.memory_megabytes\)$"
    ):
        apart(take, 600)
    mapped = Limits(timeout_seconds=20, memory_megabytes=500, section="predict", mapped_bytes=300 * 10**6)
    assert apart(take, 600, limits=mapped) == 600 * 10**6


@on_linux
def test_memory_that_the_machine_does_not_have_is_not_the_file_s() -> None:
    script = """
import resource
from tests.shared.execution.test_isolation import *
has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (has + 200 * 10**6, resource.RLIM_INFINITY))
try:
    apart(take, 400)
except MemoryError as error:
    print("the machine:", error)
"""
    paths = f"{ROOT}{os.pathsep}{ROOT / 'stages'}"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == (
        f"the machine: {FILE} may take 500 MB, as predict.memory_megabytes says, and the machine does not give it "
        "that much\n"
    )


def test_an_error_of_the_system_stays_one_whatever_a_loader_makes_of_it() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        apart(fill_the_disk)
    with pytest.raises(PermissionError) as raised:
        apart(read_what_is_not_allowed)
    assert raised.value.filename == str(FILE)


def wait_for(folder: Path, name: str, other: str) -> str:
    """Says that it is here, and waits for another one that does the same."""
    (folder / name).touch()
    while not (folder / other).exists():
        time.sleep(0.01)
    return name


def occupy(folder: Path, number: int) -> float:
    """How many are here at once, this one among them."""
    (folder / f"{number}").touch()
    time.sleep(0.1)
    here = len(list(folder.iterdir()))
    (folder / f"{number}").unlink()
    return here


def all_of(*calls: tuple[Any, ...], processes: int) -> list[Any]:
    return all_apart([Task(function, tuple(args), FILE) for function, *args in calls], LIMITS, processes)


def test_two_at_a_time_work_side_by_side_and_answer_in_order(tmp_path: Path) -> None:
    """The first one waits for the second."""
    assert all_of((wait_for, tmp_path, "a", "b"), (wait_for, tmp_path, "b", "a"), processes=2) == ["a", "b"]


def test_no_more_are_at_work_than_may_be(tmp_path: Path) -> None:
    for processes in (1, 3):
        assert max(all_of(*((occupy, tmp_path, number) for number in range(7)), processes=processes)) <= processes


def test_one_at_fault_takes_nothing_from_those_beside_it() -> None:
    crashed, added, refused = all_of((read_address_zero,), (add, 1, 2), (refuse,), processes=3)
    assert (str(crashed), added["sum"]) == (f"{FILE}: crashes: the process that ran it was ended by SIGSEGV", 3)
    assert isinstance(refused, StageError)
    assert str(refused) == f"{FILE}: is no model"


def write_own_id_and_sleep(file: Path) -> None:
    file.write_text(str(os.getpid()))
    sleep(60, signs=True)


def fill_the_disk_after(file: Path) -> None:
    while not (file.exists() and file.read_text()):
        time.sleep(0.01)
    fill_the_disk()


def test_a_fault_of_the_machine_ends_those_beside_it(tmp_path: Path) -> None:
    file, start = tmp_path / "id", time.monotonic()
    with pytest.raises(OSError, match="No space left on device"):
        all_of((write_own_id_and_sleep, file), (fill_the_disk_after, file), processes=2)
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


def test_cores_and_memory_say_how_many_compute_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0)) if platform.system() == "Linux" else os.cpu_count()
    assert at_a_time(memory_megabytes=1) == cores
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 10**6
    assert at_a_time(memory_megabytes=memory) == 1
    assert at_a_time(memory_megabytes=3 * memory) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert at_a_time(memory_megabytes=1) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1000")
    assert at_a_time(memory_megabytes=1) == cores


def test_the_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    script = f"""
from tests.shared.execution.test_isolation import *
def tell():
    Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
    sleep(60, signs=True)
apart(tell)
"""
    paths = f"{ROOT}{os.pathsep}{ROOT / 'stages'}"
    file = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": paths}) as parent:
        deadline = time.monotonic() + 60
        while not (file.exists() and file.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        parent.kill()
    child, deadline = int(file.read_text()), time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
