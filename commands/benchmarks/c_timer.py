"""ONNX files on ONNX Runtime's C API, timed by latency.c: the program that an app's own calls are like."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from commands.on_device import compile_c

import numpy as np
from numpy.typing import NDArray

SOURCE = Path(__file__).with_name("latency.c")


@dataclass(frozen=True)
class CCall:
    """A call of one model in the program, which waits for its turns.

    Attributes:
        process: The program.
        place: Of the model among those that the program has opened.
        output: What the model wrote for the values that the program was given.
    """

    process: "subprocess.Popen[str]"
    place: int
    output: NDArray[np.float64]

    def repeat(self, seconds: float) -> list[float]:
        """See `shared.execution.timing.repeat`."""
        assert self.process.stdin
        print(self.place, round(seconds * 1e9), file=self.process.stdin, flush=True)
        return [int(word) * 1e-9 for word in read_line(self.process).split()]


def read_line(process: "subprocess.Popen[str]") -> str:
    """The next line that the program prints.

    Raises:
        RuntimeError: It ended instead; with what it said.
    """
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        _, errors = process.communicate()
        raise RuntimeError(errors.strip() or f"{process.args!r} ended")
    return line


@contextmanager
def open_in_c(models: list[tuple[str, Path]], values: NDArray[np.float32], scratch: Path) -> Iterator[list[CCall]]:
    """Compile the program, and have it open models.

    Args:
        models: Of each where its kernels' memory comes from (`arena`, `heap` or `pool`), and its file.
        values: What the models' inputs are filled with.
        scratch: An empty folder, for the program and what it reads.

    Raises:
        MissingError: This machine has no compiler or no headers.
        WrongError: The compiler refuses the program.
        RuntimeError: The program refuses a model.
    """
    program = compile_c(SOURCE, scratch)
    (scratch / "values").write_bytes(np.ascontiguousarray(values, np.float32).tobytes())
    words = [str(word) for model in models for word in model]
    with subprocess.Popen(
        [program, scratch / "values", *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        yield [CCall(process, place, np.array(read_line(process).split(), float)) for place in range(len(models))]
