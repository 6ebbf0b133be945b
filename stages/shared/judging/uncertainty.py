"""What a test split of so many rows can tell: intervals that hold an accuracy, or a difference of two, 95 times in 100.

Both are found by inverting a score test, which keeps its promise with few rows and near 0 % and 100 %, where the usual
"plus or minus two standard errors" does not. They are of the rows alone: as if these had been drawn at random from what
the model will see. Rows of the same person or device, or data from another year, make the truth wider.
"""

from collections.abc import Callable
from math import sqrt

Z = 1.959963984540054  # the standard normal distribution is within this on either side 95 times in 100
STEPS = 60  # of a bisection: far below the last digit that a metrics file shows

Interval = tuple[float, float]


def share_interval(rows: int, of: int) -> Interval:
    """The interval of a share, such as an accuracy: `rows` out of `of` (Wilson, JASA 22, 1927)."""
    share = rows / of
    center = (share + Z**2 / (2 * of)) / (1 + Z**2 / of)
    half = Z / (1 + Z**2 / of) * sqrt(share * (1 - share) / of + Z**2 / (4 * of**2))
    return (max(0.0, center - half), min(1.0, center + half))


def loss_interval(lost: int, gained: int, of: int) -> Interval:
    """The interval of how much less accurate a file is than another on the same rows (Tango, Stat. Med. 17, 1998).

    Only rows on which one is right and the other wrong tell the two apart. Zero is outside the interval exactly where
    McNemar's test finds a difference.

    Args:
        lost: Rows that the other one has right, and the file has not.
        gained: The other way round.
        of: All rows.

    Returns:
        The lowest and the highest loss, as shares of the rows; negative where the file gains.
    """
    estimate = (lost - gained) / of
    return (
        _root(lambda loss: _score(loss, lost, gained, of) - Z, -1.0, estimate),
        _root(lambda loss: _score(loss, lost, gained, of) + Z, estimate, 1.0),
    )


def loss_in_words(interval: Interval, rows: int) -> str:
    """What an interval of a loss says, as the rest of a sentence about the file."""
    low, high = interval
    if low > 0:
        return f"is less accurate than PyTorch by {_points(low)} to {_points(high)} points"
    if high < 0:
        return f"is more accurate than PyTorch by {_points(-high)} to {_points(-low)} points"
    return (
        f"is not worse than PyTorch as far as these {rows:,} rows can tell, which rule out a loss of more than "
        f"{_points(high)} points"
    )


def _points(share: float) -> str:
    return f"{100 * share:.2f}"


def _score(loss: float, lost: int, gained: int, of: int) -> float:
    """How many standard errors the rows are away from a supposed loss; falls as that rises."""
    distance = lost - gained - of * loss
    linear = (2 * of - lost + gained) * loss - lost - gained
    root = sqrt(max(0.0, linear**2 + 8 * of * gained * loss * (1 - loss)))
    likeliest = (root - linear) / (4 * of)  # the share that is gained, were that the loss
    variance = of * (2 * likeliest + loss * (1 - loss))
    if variance <= 0:
        return 0.0 if distance == 0 else float("inf") if distance > 0 else float("-inf")
    return distance / sqrt(variance)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero."""
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
