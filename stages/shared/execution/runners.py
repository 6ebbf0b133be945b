"""A model file, opened -> a function that runs it once on a given batch: what is timed.

A runner holds no more than its runtime needs, so that the time is the runtime's: inputs are converted beforehand, and
nothing is checked.
"""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from shared.execution.runtimes import open_method, open_runtime, open_session, session_options
from shared.execution.timing import Call
from shared.files.pte import read_program
from shared.kit.stage import StageError, reading

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """Input of one call.

    Attributes:
        sequences: (batch, time, features), float32.
        lengths: (batch,), int32; None where all sequences are equally long.
    """

    sequences: NDArray[np.float32]
    lengths: NDArray[np.int32] | None

    def arrays(self) -> list[NDArray[Any]]:
        """The one input or both."""
        return [self.sequences] if self.lengths is None else [self.sequences, self.lengths]


class PyTorchRunner:
    """A checkpoint, run eagerly. The number of threads is the whole process's: that of the last runner opened."""

    def __init__(self, path: Path, threads: int) -> None:
        from shared.network.model import load_checkpoint

        import torch

        torch.set_num_threads(threads)
        self.model = load_checkpoint(path).model

    def call(self, batch: Batch) -> Call:
        """A function that runs the file on the batch and returns its logits."""
        import torch

        model, inputs = self.model, [torch.from_numpy(array) for array in batch.arrays()]

        def run() -> object:
            with torch.inference_mode():
                return model(*inputs)

        return run


class Bound(NamedTuple):
    """Memory that a session reads and writes in every call, and what tells it so; both have to live that long.

    Attributes:
        binding: For `run_with_iobinding`.
        inputs: By name, filled with those that it was made for.
        logits: The output.
    """

    binding: Any
    inputs: dict[str, Any]
    logits: Any


def bind(session: Any, feeds: dict[str, Any]) -> Bound:
    """Bind a session's inputs and its output to memory of their sizes."""
    inputs = {name: array.copy() for name, array in feeds.items()}
    logits = np.empty_like(session.run(None, feeds)[0])
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    [output] = session.get_outputs()
    binding.bind_output(output.name, "cpu", 0, logits.dtype, logits.shape, logits.ctypes.data)
    return Bound(binding, inputs, logits)


class OnnxRunner:
    """An ONNX file on ONNX Runtime's CPU provider.

    How it is called is what was found fastest (docs/latency.md).
    """

    def __init__(self, path: Path, threads: int, options: Any = None) -> None:
        self._path, self._threads, self._options = path, threads, options
        self.session = open_session(path, threads, options)

    def call(self, batch: Batch) -> Call:
        """A function that runs the file on the batch and returns its logits."""
        import onnxruntime as ort

        session, feeds = self.session, self.feeds(batch)
        names = [output.name for output in session.get_outputs()]
        options = ort.RunOptions()  # made once: without, the runtime takes longer over every call
        return lambda: session.run(names, feeds, options)[0]

    def bound_call(self, batch: Batch) -> Call:
        """As `call`, but with input and output in memory that is bound once: a call copies the batch there and runs.

        What else a call needs comes from the heap, unless options were given.
        """
        options = self._options
        if options is None:
            options = session_options(self._threads)
            options.enable_cpu_mem_arena = False
        session, feeds = open_session(self._path, self._threads, options), self.feeds(batch)
        bound = bind(session, feeds)
        binding, logits, copies = bound.binding, bound.logits, [(bound.inputs[name], feeds[name]) for name in feeds]

        def run() -> object:
            for buffer, array in copies:
                buffer[...] = array
            session.run_with_iobinding(binding)
            return logits

        return run

    def feeds(self, batch: Batch) -> dict[str, Any]:
        """The batch by the names of the file's inputs."""
        return {
            value.name: batch.lengths if value.type == "tensor(int32)" else batch.sequences
            for value in self.session.get_inputs()
        }


class CoreMLRunner:
    """An mlpackage on Apple's Core ML, macOS only; it has no say in the number of threads."""

    def __init__(self, path: Path) -> None:
        self._runtime = open_runtime(path)
        if self._runtime.executor != "coreml":
            raise RuntimeError(f"{path} would run on {self._runtime.executor!r}, which is never timed")
        self.largest_batch = self._runtime.interface.largest_batch

    def call(self, batch: Batch) -> Call:
        """A function that runs the file on the batch and returns its logits."""
        return lambda: self._runtime.logits(*batch.arrays())


class ExecuTorchRunner:
    """An ExecuTorch program on ExecuTorch's runtime."""

    def __init__(self, path: Path, threads: int) -> None:
        import torch

        self._execute = open_method(path, threads)
        self._path, self._tensor = path, torch.from_numpy

    @property
    def largest_batch(self) -> int:
        """That the program accepts. Asked for after it was timed: reading that is no part of loading it."""
        return read_program(self._path).inputs[0].sizes[0]

    def call(self, batch: Batch) -> Call:
        """A function that runs the file on the batch and returns its logits."""
        execute, inputs = self._execute, [self._tensor(array) for array in batch.arrays()]
        return lambda: execute(inputs)[0]


Runner = PyTorchRunner | OnnxRunner | CoreMLRunner | ExecuTorchRunner


@dataclass(frozen=True)
class Timing:
    """Who times the files of a format.

    Attributes:
        executor: Its name in the figures.
        open: Opens a file, to run with that many threads if it takes such a number; None if nobody times it.
        takes_threads: Whether it does.
        not_here: Why it cannot be timed on this machine, in words; None if it can.
    """

    executor: str
    open: Callable[[Path, int], Runner] | None
    takes_threads: bool = True
    not_here: str | None = None


TIMINGS = {
    ".pt": Timing("pytorch", PyTorchRunner),
    ".onnx": Timing("onnxruntime", OnnxRunner),
    ".mlpackage": Timing(
        "coreml",
        lambda path, _: CoreMLRunner(path),
        takes_threads=False,
        not_here=None if platform.system() == "Darwin" else "Core ML runs on macOS only",
    ),
    ".aimodel": Timing(
        "coreai", None, takes_threads=False, not_here="Core AI's runtime here is not the one that a device has"
    ),
    ".pte": Timing("executorch", ExecuTorchRunner),
}


def timing_of(path: Path) -> Timing:
    """Who times a file."""
    return TIMINGS[path.suffix]


def open_runner(path: Path, threads: int) -> Runner:
    """Open a file with the runner of its format.

    Raises:
        StageError: The file is damaged.
    """
    timing = timing_of(path)
    if timing.open is None:
        raise StageError(f"{path}: not timed: {timing.not_here}")
    with reading(path, "model"):
        return timing.open(path, threads)
