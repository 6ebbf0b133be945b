"""Whether a target is met: by a ratio of two functions that took turns, or by a figure that was measured some times.

A figure comes with the interval that holds the middle half of its rounds. Where that is wide, and its target lies
inside it, this machine cannot tell: the answer is "noisy", not a guess.
"""

import os
from dataclasses import dataclass

from shared.execution.timing import Rounds, per_round, typical

import numpy as np

NOISY_SPREAD = 0.1
"""The middle half of the rounds, relative to their median, above which nothing is judged that lies inside of it."""
BUSY_LOAD = 0.25
"""Processes that wanted a core in the last minute, for each core, above which the machine is not idle."""


@dataclass(frozen=True)
class Figure:
    """What some rounds gave: their median, and the quartiles below and above it."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """The middle half of the rounds, relative to the median."""
        return (self.high - self.low) / self.median if self.median else 0.0

    def verdict(self, target: float, *, at_least: bool = False) -> str:
        """`met`, `NOT met`, or `noisy`.

        Args:
            target: The largest value that is good enough.
            at_least: The target is the smallest one instead.
        """
        if self.spread > NOISY_SPREAD and self.low <= target <= self.high:
            return f"noisy: the middle half of the rounds is {self.low:.2f} to {self.high:.2f}"
        return "met" if (self.median >= target if at_least else self.median <= target) else "NOT met"


def figure(values: list[float]) -> Figure:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return Figure(float(middle), float(low), float(high))


def ratio(seconds: Rounds, others: Rounds) -> Figure:
    """One function's time divided by another's in the same round."""
    return figure(per_round(seconds, others))


def print_ratio(what: str, value: Figure, target: float | None = None, *, at_least: bool = False) -> None:
    """Print a ratio with its interval, and the verdict if it has a target."""
    judged = ""
    if target is not None:
        judged = f"   target {'at least ' if at_least else ''}{target}: {value.verdict(target, at_least=at_least)}"
    print(f"  {what}: {value.median:.2f} ({value.low:.2f} to {value.high:.2f}){judged}")


def print_times(title: str, seconds: dict[str, Rounds], targets: dict[tuple[str, str], float]) -> None:
    """Print the typical times, and the ratio of two of them where it has a target."""
    print(f"\n{title}")
    width = max(map(len, seconds))
    for name, rounds in seconds.items():
        print(f"  {name:<{width}}  {typical(rounds) * 1e3:9.3f} ms")
    for (name, other), target in targets.items():
        print_ratio(f"{name} / {other}", ratio(seconds[name], seconds[other]), target)


def is_busy() -> bool:
    """Whether the machine had other things to do in the last minute."""
    return os.getloadavg()[0] > BUSY_LOAD * (os.cpu_count() or 1)


def load_in_words() -> str:
    """What else the machine does: the load of the last minute, and a warning where that is too much."""
    warning = ": BUSY, times are too long and ratios noisy" if is_busy() else ""
    return f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores{warning}"
