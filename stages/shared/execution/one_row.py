"""Open a file that was just written, and run one row, before anybody calls it done."""

from pathlib import Path

from shared.execution.isolation import Limits, call_apart
from shared.execution.runtimes import open_runtime
from shared.kit.stage import StageError

import numpy as np

LIMITS = Limits(timeout_seconds=300)
ANY_TIME = 4  # steps, where a file takes any number


def run_one_row(file: Path, name: Path) -> None:
    """Run a sequence of zeros in a process of its own, which a damaged file may crash.

    Args:
        file: Where it lies now.
        name: What it will be called.

    Raises:
        StageError: It cannot be opened, crashes, or gives no row of logits.
    """
    try:
        call_apart(_run, str(file), what=name, limits=LIMITS)
    except StageError as error:
        raise type(error)(str(error).replace(str(file), str(name))) from None


def _run(file: str) -> None:
    runtime = open_runtime(Path(file))
    _, time, features = runtime.interface.input_axes
    steps = time if isinstance(time, int) else ANY_TIME
    sequence = np.zeros((1, steps, int(features)), np.float32)
    lengths = None if runtime.interface.lengths_name is None else np.full(1, steps, np.int32)
    logits = runtime.logits(sequence, lengths)
    expected = (1, len(runtime.interface.classes))
    if logits.shape != expected:
        raise StageError(f"{file}: one row gave logits of shape {list(logits.shape)}; expected {list(expected)}")
