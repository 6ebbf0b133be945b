"""Time functions that take turns, so that a slow moment of the machine hits all of them alike."""

import random
import time
from collections.abc import Callable, Hashable, Mapping
from statistics import median
from typing import Protocol, TypeVar, runtime_checkable

from shared.execution.isolation import still_working
from shared.stage import rounded

import numpy as np
from numpy.typing import NDArray

Call = Callable[[], object]
Rounds = list[NDArray[np.float64]]
"""Seconds of one function's calls: an array a round, of at least one call."""
Key = TypeVar("Key", bound=Hashable)


@runtime_checkable
class TimesItself(Protocol):
    """A function that is called, and timed, in another process."""

    def repeat(self, seconds: float) -> list[float]:
        """See `repeat`."""


PERCENTILES = (50, 95, 99)
WARM_UP = 0.25  # of a turn: fills the caches that the others have emptied


def alternate(
    functions: Mapping[Key, Call | TimesItself],
    rounds: int,
    turn_seconds: float = 0,
    seed: int = 0,
    group: Callable[[Key], Hashable] = lambda key: key,
    pause_seconds: float = 0,
) -> dict[Key, Rounds]:
    """Seconds of every timed call of every function.

    In each round every function has a turn: untimed calls for a quarter of `turn_seconds`, then calls timed one by one
    for `turn_seconds`; at least one of each kind. The order of the turns is shuffled anew in each round.

    Args:
        functions: By name.
        rounds: How often each has its turn.
        turn_seconds: How long a turn is timed; zero for one call.
        seed: Of the order.
        group: Of a name. The turns of a group follow each other: its functions share threads, as those of one model do.
        pause_seconds: Slept before a group's turns, so that the threads of the one before have stopped spinning.
    """
    groups: dict[Hashable, list[Key]] = {}
    for key in functions:
        groups.setdefault(group(key), []).append(key)
    order = list(groups.values())
    shuffle = random.Random(seed).shuffle  # noqa: S311 - no secret
    seconds: dict[Key, Rounds] = {key: [] for key in functions}
    for _ in range(rounds):
        shuffle(order)
        for keys in order:
            time.sleep(pause_seconds)
            for key in keys:
                still_working()
                repeat(functions[key], turn_seconds * WARM_UP)
                seconds[key].append(np.array(repeat(functions[key], turn_seconds)))
    return seconds


def repeat(function: Call | TimesItself, seconds: float) -> list[float]:
    """Call a function until the time is over, once at least; seconds of each call."""
    if isinstance(function, TimesItself):
        return function.repeat(seconds)
    durations = []
    now = time.perf_counter()
    stop = now + seconds
    while True:
        function()
        start, now = now, time.perf_counter()
        durations.append(now - start)
        if now >= stop:
            return durations


def typical(seconds: Rounds) -> float:
    """The median over the rounds of a call's median seconds."""
    return median(float(np.median(calls)) for calls in seconds)


def per_round(seconds: Rounds, others: Rounds) -> list[float]:
    """One function's median time divided by another's in the same round, of each round."""
    return [float(np.median(ours) / np.median(other)) for ours, other in zip(seconds, others, strict=True)]


def latency_ms(seconds: Rounds) -> dict[str, float]:
    """Percentiles of all calls, in milliseconds: `p50`, `p95`, `p99`."""
    values = np.percentile(np.concatenate(seconds) * 1e3, PERCENTILES)
    return {f"p{percentile}": rounded(float(value), 3) for percentile, value in zip(PERCENTILES, values, strict=True)}
