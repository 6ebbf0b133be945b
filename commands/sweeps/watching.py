"""Losses of a training under way -> whether it falls behind other trials, and then its end."""

import contextlib
import csv
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

LOSSES = Path("metrics/loss.csv")
UNFINISHED = LOSSES.with_name(f".{LOSSES.name}.unfinished")
"""Where `train` writes them epoch by epoch, until they are complete: see `shared.kit.stage.replacing`."""
COLUMN = "validation_loss"
MOST_LIMITS = 100
POLL_SECONDS = 0.2
GRACE_SECONDS = 10

Limits = dict[int, float]
"""Number of epochs to the loss that the best of so many must not be above."""


def limits_from(curves: Sequence[Sequence[float]], trials: int, epochs: int) -> Limits:
    """What the next training is held to, after those that are complete: the median of their losses after each epoch.

    It is the rule of Optuna's `MedianPruner`, which the worker can apply by itself.

    Args:
        curves: The losses of each, epoch by epoch.
        trials: How many must be complete.
        epochs: How many a training has in any case.
    """
    if len(curves) < trials:
        return {}
    longest = max(map(len, curves))
    numbers = range(epochs + 1, longest + 1, max(1, longest // MOST_LIMITS))
    return {number: median(curve[number - 1] for curve in curves if len(curve) >= number) for number in numbers}


def to_text(limits: Limits) -> str:
    """Limits as an argument of a command."""
    return ",".join(f"{number}:{limit!r}" for number, limit in limits.items())


def from_text(text: str) -> Limits:
    """The limits that an argument says.

    Raises:
        ValueError: It says none.
    """
    pairs = (pair.partition(":") for pair in text.split(","))
    return {int(number): float(limit) for number, _, limit in pairs}


def read_losses(text: str) -> list[float]:
    """The validation losses of a table, whose last line may be under way."""
    whole = text[: text.rfind("\n") + 1]
    return [float(row[COLUMN]) for row in csv.DictReader(whole.splitlines())]


def falls_behind(losses: Sequence[float], limits: Limits) -> str | None:
    """Why a training that has reached these losses is to end, in words; None if it is not."""
    for number, limit in limits.items():
        if number <= len(losses) and (best := min(losses[:number])) > limit:
            return f"ended in training: {COLUMN} {best:.6g} after {number} epochs, {limit:.6g} is the others' median"
    return None


class Watch:
    """A look at a training from time to time.

    Attributes:
        found: Why it was ended; None if it was not.
        table: Its losses so far, as CSV.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.found: str | None = None
        self.table = ""
        self._over = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within it, a child of this process that trains is ended when it falls behind."""
        shutil.rmtree(UNFINISHED, ignore_errors=True)  # of one that was killed
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        import psutil

        while self.limits and not self._over.wait(POLL_SECONDS):
            with contextlib.suppress(OSError):  # there is none before the training, and none after it
                self.table = (UNFINISHED / "new" / LOSSES.name).read_text(encoding="utf-8")
                self.found = falls_behind(read_losses(self.table), self.limits)
            if self.found:
                children = psutil.Process().children(recursive=True)
                for child in children:
                    with contextlib.suppress(psutil.Error):
                        child.terminate()  # Ray lets its workers, and all that they start, ignore Ctrl-C
                psutil.wait_procs(children, timeout=GRACE_SECONDS)
                return
