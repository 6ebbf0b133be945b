"""The speed benchmark: what it judges, and when it refuses to."""

from commands.benchmarks.judging import figure, print_ratio, ratio

import numpy as np
import pytest


def test_the_median_decides_where_the_rounds_agree() -> None:
    steady = figure([0.99, 1.0, 1.0, 1.0, 1.01])
    assert steady.verdict(1.02) == "met"
    assert steady.verdict(0.98) == "NOT met"
    assert steady.verdict(0.98, at_least=True) == "met"
    assert steady.verdict(1.02, at_least=True) == "NOT met"


def test_a_target_inside_widely_spread_rounds_is_not_judged() -> None:
    noisy = figure([0.5, 0.8, 1.0, 1.2, 1.5])
    assert (
        noisy.verdict(1.1)
        == noisy.verdict(1.1, at_least=True)
        == "noisy: the middle half of the rounds is 0.80 to 1.20"
    )


def test_a_target_far_from_widely_spread_rounds_is_judged() -> None:
    noisy = figure([0.5, 0.8, 1.0, 1.2, 1.5])
    assert noisy.verdict(2.0) == "met"
    assert noisy.verdict(0.4) == "NOT met"


def test_a_ratio_is_taken_within_each_round(capsys: pytest.CaptureFixture[str]) -> None:
    slow_moment = [np.array([1.0]), np.array([10.0]), np.array([1.0])]
    hits_both = [np.array([2.0]), np.array([20.0]), np.array([2.0])]
    print_ratio("ours / other", ratio(slow_moment, hits_both), 0.6)
    assert capsys.readouterr().out == "  ours / other: 0.50 (0.50 to 0.50)   target 0.6: met\n"
