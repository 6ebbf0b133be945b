"""Intervals keep their promise: held to published values, to other tests of the same thing, and to simulated splits."""

from shared.judging.uncertainty import loss_in_words, loss_interval, share_interval

import numpy as np
import pytest
from scipy.stats import chi2


@pytest.mark.parametrize(
    ("rows", "of", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_of_a_share_is_as_published(rows: int, of: int, low: float, high: float) -> None:
    """Newcombe, Stat. Med. 17 (1998), table I, method 3."""
    assert share_interval(rows, of) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("lost", "gained", "of"), [(12, 2, 50), (9, 2, 60), (30, 17, 203), (30, 18, 203), (4, 0, 203)])
def test_zero_is_outside_where_mcnemar_finds_a_difference(lost: int, gained: int, of: int) -> None:
    found = (lost - gained) ** 2 / (lost + gained) > chi2.ppf(0.95, 1)
    low, high = loss_interval(lost, gained, of)
    assert (not low <= 0 <= high) == found


def test_gains_are_losses_turned_round() -> None:
    low, high = loss_interval(9, 2, 203)
    assert loss_interval(2, 9, 203) == pytest.approx((-high, -low), abs=1e-12)


def test_files_that_agree_everywhere_may_still_differ_on_rows_that_were_not_seen() -> None:
    """With nothing seen in n rows, the bound is about 3.84 / n."""
    low, high = loss_interval(0, 0, 10_000)
    assert high == pytest.approx(3.8415 / 10_003.84, rel=1e-4)
    assert low == pytest.approx(-high)


@pytest.mark.parametrize("rows", [1, 10, 1000])
def test_the_extremes_are_intervals_too(rows: int) -> None:
    for lost, gained in ((rows, 0), (0, rows), (0, 0)):
        low, high = loss_interval(lost, gained, rows)
        assert -1 <= low <= (lost - gained) / rows <= high <= 1
        assert low < high


@pytest.mark.parametrize(
    ("rows", "lost", "gained"), [(50, 0.1, 0.05), (203, 0.02, 0.02), (203, 0.05, 0.01), (1000, 0.01, 0.01)]
)
def test_ninety_five_of_a_hundred_splits_hold_the_true_loss(rows: int, lost: float, gained: float) -> None:
    drawn = np.random.default_rng(0).multinomial(rows, [lost, gained, 1 - lost - gained], 1000)
    intervals = (loss_interval(int(a), int(b), rows) for a, b, _ in drawn)
    assert 0.93 < np.mean([low <= lost - gained <= high for low, high in intervals]) < 0.975


def test_an_interval_says_what_the_rows_can_tell() -> None:
    assert loss_in_words((-0.0039, 0.0137), 1203) == (
        "is not worse than PyTorch as far as these 1,203 rows can tell, which rule out a loss of more than 1.37 points"
    )
    assert loss_in_words((0.0012, 0.006), 203) == "is less accurate than PyTorch by 0.12 to 0.60 points"
    assert loss_in_words((-0.006, -0.0012), 203) == "is more accurate than PyTorch by 0.12 to 0.60 points"
