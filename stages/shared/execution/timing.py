"""Time functions that take turns, so that a slow moment of the machine hits all of them alike."""

import random
import time
from collections.abc import Callable, Hashable, Mapping
from math import comb
from statistics import median
from typing import Protocol, TypeVar, runtime_checkable

from shared.execution.isolation import still_working
from shared.kit.stage import rounded

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
IDLE_SECONDS = 0.01  # a tick of the slowest kernels' clocks, at which Linux counts what a running thread has used
IDLE_SHARE = 0.1  # of a processor, below which a process counts as idle
LONGEST_PAUSE = 0.2
CONFIDENCE = 0.95


def alternate(
    functions: Mapping[Key, Call | TimesItself],
    rounds: int,
    turn_seconds: float = 0,
    seed: int = 0,
    group: Callable[[Key], Hashable] = lambda key: key,
    pause: bool = False,
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
        pause: Whether to wait before a group's turns until the threads of the one before have stopped spinning.
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
            if pause:
                wait_until_idle()
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


def wait_until_idle() -> None:
    """Sleep until no thread of this process computes: those of a runtime look for more work before they go to sleep."""
    stop = time.perf_counter() + LONGEST_PAUSE
    while time.perf_counter() < stop:
        start, used = time.perf_counter(), time.process_time()
        time.sleep(IDLE_SECONDS)
        if time.process_time() - used < IDLE_SHARE * (time.perf_counter() - start):
            return


def typical(seconds: Rounds) -> float:
    """The median over the rounds of a call's median seconds."""
    return median(float(np.median(calls)) for calls in seconds)


def per_round(seconds: Rounds, others: Rounds) -> list[float]:
    """One function's median time divided by another's in the same round, of each round."""
    return [float(np.median(ours) / np.median(other)) for ours, other in zip(seconds, others, strict=True)]


def median_interval(values: list[float]) -> tuple[float, float]:
    """Two of the values, between which lies the median of what they were drawn from, 95 times in 100 at least.

    However they are distributed: how many lie below that median follows the binomial distribution of their number and
    1/2 (Conover, Practical Nonparametric Statistics, 3rd ed., 1999, section 3.2). Six are the fewest that can promise
    it; of fewer, these are the lowest and the highest, which hold the median of five 94 times, of three 75 times.
    """
    ordered, count = sorted(values), len(values)
    left_out = 0  # at either end
    while 2 * sum(comb(count, below) for below in range(left_out + 2)) <= (1 - CONFIDENCE) * 2**count:
        left_out += 1
    return ordered[left_out], ordered[count - 1 - left_out]


def latency_ms(seconds: Rounds) -> dict[str, float]:
    """Percentiles of all calls, in milliseconds: `p50`, `p95`, `p99`; of `p50` the interval, by the rounds' medians."""
    p50, p95, p99 = np.percentile(np.concatenate(seconds), PERCENTILES)
    low, high = median_interval([float(np.median(calls)) for calls in seconds])
    figures = {"p50": p50, "p50_low": low, "p50_high": high, "p95": p95, "p99": p99}
    return {name: rounded(float(value) * 1e3, 3) for name, value in figures.items()}
