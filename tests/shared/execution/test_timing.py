"""Functions that take turns: how often each is called, in which order, and what is made of the seconds."""

import threading
import time
from functools import partial
from typing import ClassVar

from shared.execution import timing
from shared.execution.timing import (
    CONFIDENCE,
    LONGEST_PAUSE,
    alternate,
    latency_ms,
    median_interval,
    per_round,
    typical,
    wait_until_idle,
)

import numpy as np
import pytest


def test_without_a_time_a_turn_is_one_untimed_and_one_timed_call() -> None:
    calls: list[str] = []
    seconds = alternate({name: partial(calls.append, name) for name in "abc"}, rounds=4)
    turns = ["".join(calls[start : start + 6]) for start in range(0, len(calls), 6)]
    assert len(turns) == 4
    assert all(sorted(turn[::2]) == ["a", "b", "c"] and turn[::2] == turn[1::2] for turn in turns)
    assert len(set(turns)) > 1, "the order changes"
    assert {name: [len(calls) for calls in rounds] for name, rounds in seconds.items()} == dict.fromkeys("abc", [1] * 4)


def test_the_order_follows_from_the_seed() -> None:
    def order(seed: int) -> list[int]:
        calls: list[int] = []
        alternate({number: partial(calls.append, number) for number in range(9)}, rounds=2, seed=seed)
        return calls

    assert order(0) == order(0)
    assert order(0) != order(1)


def test_a_group_s_functions_follow_each_other_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(timing, "wait_until_idle", partial(calls.append, "pause"))
    names = ("a1", "b1", "a2", "b2")

    alternate({name: partial(calls.append, name) for name in names}, 1, group=lambda name: name[0], pause=True)

    turns = [calls[0:5], calls[5:10]]
    assert sorted(turns) == [["pause", "a1", "a1", "a2", "a2"], ["pause", "b1", "b1", "b2", "b2"]]


def test_a_pause_ends_when_other_threads_stop_computing() -> None:
    done = threading.Event()

    def spin() -> None:
        end = time.thread_time() + 0.08  # of computing, however busy the machine is
        while time.thread_time() < end:
            pass
        done.set()

    spinning = threading.Thread(target=spin)
    spinning.start()
    start = time.perf_counter()
    wait_until_idle()
    assert done.is_set() or time.perf_counter() - start >= LONGEST_PAUSE
    spinning.join()


def test_a_turn_lasts_as_long_as_it_should_and_times_every_call() -> None:
    start = time.perf_counter()
    seconds = alternate({"sleep": lambda: time.sleep(0.002)}, rounds=2, turn_seconds=0.02)["sleep"]
    assert time.perf_counter() - start >= 2 * 0.02 * 1.25
    assert all(calls.sum() >= 0.018 for calls in seconds)
    assert all(len(calls) <= 10 for calls in seconds)
    assert 2 <= latency_ms(seconds)["p50"] < 4


def test_what_times_itself_is_asked_for_its_turns() -> None:
    class Elsewhere:
        asked: ClassVar[list[float]] = []

        def repeat(self, seconds: float) -> list[float]:
            self.asked.append(seconds)
            return [3.0, 4.0]

    seconds = alternate({"here": lambda: None, "elsewhere": Elsewhere()}, rounds=2, turn_seconds=0.004)
    assert Elsewhere.asked == [0.001, 0.004, 0.001, 0.004]
    assert [list(calls) for calls in seconds["elsewhere"]] == [[3.0, 4.0]] * 2


def test_figures_of_the_seconds() -> None:
    slow, fast = [np.array([4.0, 6.0, 5.0]), np.array([8.0])], [np.array([1.0]), np.array([2.0, 4.0, 3.0])]
    assert typical(slow) == 6.5
    assert per_round(slow, fast) == pytest.approx([5, 8 / 3])
    assert latency_ms([np.arange(0, 51) / 1e3, np.arange(51, 101) / 1e3]) == {
        "p50": 50, "p50_low": 25, "p50_high": 75.5, "p95": 95, "p99": 99
    }  # fmt: skip


def test_the_median_s_interval_leaves_out_as_many_values_as_it_may() -> None:
    """The ranks are those of the table of the sign test: of 6 to 8 values none, of 9 to 11 one, of 12 to 14 two."""
    for count, left_out in {1: 0, 3: 0, 6: 0, 8: 0, 9: 1, 11: 1, 12: 2, 14: 2, 15: 3, 20: 5, 25: 7}.items():
        values = list(map(float, range(count)))
        assert median_interval(values[::-1]) == (left_out, count - 1 - left_out)


@pytest.mark.parametrize("count", [6, 9, 20])
def test_the_median_s_interval_holds_it_as_often_as_it_says(count: int) -> None:
    """Of a skewed distribution, as times are: by 4000 experiments, whose share has a standard error of 0.0034."""
    random = np.random.default_rng(0)
    samples = random.lognormal(sigma=1, size=(4000, count))  # its median is 1
    intervals = [median_interval(sample.tolist()) for sample in samples]
    assert np.mean([low <= 1 <= high for low, high in intervals]) >= CONFIDENCE - 0.01
