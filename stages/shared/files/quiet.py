"""Import libraries quickly, without what they would import for nothing; and use them without messages of no use."""

import contextlib
import importlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import IO

from shared.kit import importing

CONVERTERS_ONLY = ("torch", "sklearn")  # what coremltools imports for its converters alone: most of its own import time
TORCH_COMPRESSOR = "coremltools.optimize.torch"  # with most of torch.distributed: a fifth of an export's time
UNUSED = ("torchao",)  # it would import this too where Core AI's packages have brought it: seconds, and warnings

MOST_OVERHEARD = 65_536  # bytes


def import_coremltools() -> ModuleType:
    """Import and return coremltools; its later warnings are left alone.

    On import it warns that the Core ML framework is absent (everywhere but on macOS) and that it was not tested with
    the installed versions of torch and scikit-learn. Pinned versions and our own tests answer that.

    A process that has not imported torch by then converts nothing from it, so coremltools does not get to see it. What
    compresses nets of torch, nobody uses; `coremltools.optimize.torch` can still be imported afterwards.
    """
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    hides = () if "coremltools" in sys.modules else (*CONVERTERS_ONLY, *UNUSED)
    try:
        with importing(), hidden(*hides), passed_over(TORCH_COMPRESSOR):
            return importlib.import_module("coremltools")
    finally:
        logger.setLevel(level)


def import_onnxruntime_tools(name: str) -> ModuleType:
    """Import and return a module of `onnxruntime.tools`, which imports torch where it finds it, for one helper."""
    with hidden("torch"):
        return importlib.import_module(f"onnxruntime.tools.{name}")


@contextlib.contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Packages that this process has not imported are as if they were not installed."""
    hides = {name: None for name in names if name not in sys.modules}
    sys.modules.update(hides)  # type: ignore[arg-type]  # None: importing it fails
    try:
        yield
    finally:
        for name in hides:
            del sys.modules[name]


@contextlib.contextmanager
def passed_over(name: str) -> Iterator[None]:
    """A module that this process has not imported is an empty one to those that import it."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]


@contextlib.contextmanager
def without_messages(level: int) -> Iterator[None]:
    """Within it, Python's warnings, its standard error, and what is logged up to this level are dropped."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it, what native code of this process writes to its standard error is dropped: the runtime logs there."""
    with Path(os.devnull).open("wb") as nowhere, _diverted(nowhere):
        yield


@contextlib.contextmanager
def overheard() -> Iterator[Callable[[], str]]:
    """As `quiet`, but what is written is kept: a runtime logs what its exceptions do not say.

    Yields:
        What gives all that was written so far.
    """
    with tempfile.TemporaryFile() as file, _diverted(file):
        yield lambda: os.pread(file.fileno(), MOST_OVERHEARD, 0).decode(errors="replace")


@contextlib.contextmanager
def _diverted(file: IO[bytes]) -> Iterator[None]:
    """The descriptor, and Python's `sys.stderr`, which bindings may write to instead, whatever that is now."""
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        with open(file.fileno(), "w", buffering=1, closefd=False) as text, contextlib.redirect_stderr(text):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
