"""What every stage is made with: arguments, errors and outputs (`stage`), parameters (`params`), words (`text`).

Importing anything of `shared` comes here first, and pins which numeric kernels the libraries choose, because the last
bits of a result depend on them. They are read from the environment when torch, numpy and their BLAS load, so every file
imports `shared` before them (the import order that `ruff` enforces here). On x86-64 the floor is AVX2, which every such
CPU has had since about 2013; a variable that is already set is left alone. Elsewhere (arm64) nothing is pinned, and
equal bytes are promised on the same kind of machine only.

In the process of a stage it also sees to it that Ctrl-C, too little memory for the libraries, and one that cannot be
loaded, cost one line each: from here on, and so while the libraries are imported too; and that Python looks for no
garbage in what these bring.
"""

import atexit
import functools
import gc
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

NEEDED_MEMORY = 2**31
"""Bytes of addresses: torch, ONNX Runtime and coremltools in one process take three quarters of it."""

AVX2_KERNELS = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "MKL_CBWR": "COMPATIBLE",  # torch's BLAS: the only code path that MKL takes on every vendor's CPU
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # torch's LSTM
    "OPENBLAS_CORETYPE": "HASWELL",  # numpy's BLAS: the AVX2 kernels
    "OPENBLAS_NUM_THREADS": "1",  # how the work is divided changes the order of the sums
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",  # numpy's exp, tanh...
}


def has_avx2() -> bool:
    """Whether this is an x86-64 machine whose CPU has AVX2 (asked of Linux; no torch 2.13 exists for an Intel Mac)."""
    cpuinfo = Path("/proc/cpuinfo")
    return os.uname().machine == "x86_64" and cpuinfo.exists() and " avx2 " in cpuinfo.read_text()


if has_avx2():
    for variable, value in AVX2_KERNELS.items():
        os.environ.setdefault(variable, value)


def end_in_one_line(exit_code: int = 1) -> None:
    """From now on, end this process by one line on stderr where Python would print a traceback of no use to anyone.

    - Ctrl-C: exit code 130, without raising KeyboardInterrupt. Libraries swallow that while they are imported, or turn
      it into something else.
    - A library that is missing or cannot be loaded, such as for lack of memory: `exit_code`.
    - A limit of memory (`ulimit -v`) below what the libraries take: `exit_code`, at once. numpy's BLAS would ask for
      its memory again and again, for ever.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < NEEDED_MEMORY:
        print(
            f"{Path(sys.argv[0]).stem}: error: this process may use {limit / 1e6:.0f} MB of memory (ulimit -v); the "
            f"libraries need {NEEDED_MEMORY / 1e6:.0f}",
            file=sys.stderr,
        )
        sys.exit(exit_code)
    signal.signal(signal.SIGINT, _interrupted)
    sys.excepthook = functools.partial(_uncaught, exit_code)


def _interrupted(*_: object) -> None:
    """Tidy up as at any other end, say so, and end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # pressed again: it is on its way
    multiprocessing: Any = sys.modules.get("multiprocessing")
    is_child = multiprocessing is not None and multiprocessing.parent_process() is not None
    if not is_child:
        for child in multiprocessing.active_children() if multiprocessing else ():
            child.kill()
        line_break = "\n" if sys.stderr.isatty() else ""  # after a progress bar
        os.write(2, f"{line_break}{Path(sys.argv[0]).stem}: interrupted\n".encode(errors="backslashreplace"))
    release = getattr(sys.modules.get("shared.kit.stage"), "release_outputs", None)
    if release:
        release()
    atexit._run_exitfuncs()  # temporary folders
    os._exit(130)


def _uncaught(exit_code: int, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback, but one line of what the machine lacks."""
    if isinstance(error, ImportError | MemoryError):
        what = " ".join(str(error).split()) or "not enough memory"
        print(f"{Path(sys.argv[0]).stem}: error: a library cannot be loaded: {what}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
    sys.exit(exit_code)


def leave_libraries_alone() -> None:
    """From now on, and until `begin_work`, Python looks for no garbage; and at the end of this process for none at all.

    Libraries bring hundreds of thousands of objects that stay. To go through them again and again while more come, and
    three times at the end, is a quarter of a stage's time.
    """
    gc.disable()
    atexit.register(gc.freeze)


def begin_work() -> None:
    """The libraries are there: Python looks for garbage again, in what is made from now on."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """For what is imported in the midst of work: Python looks for no garbage until it is there, nor in it later."""
    works, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if works and len(sys.modules) > before:
            begin_work()
        elif works:
            gc.enable()


if Path(sys.argv[0]).resolve().parent == Path(__file__).resolve().parents[2]:
    end_in_one_line()
    leave_libraries_alone()
