"""How far a file's logits are from PyTorch's, in chunks: memory stays flat as the split grows."""

import heapq
from dataclasses import dataclass
from typing import Any, NamedTuple

from shared.data.chunks import chunks
from shared.kit.stage import StageError, rounded

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BIN_EDGES = np.array([0, *(float(f"{10 ** (third / 3):.3g}") for third in range(-27, 10))])
"""Of the histogram of absolute errors: three bins a decade from 1e-9 to 1e3, and one below."""

FLIPS_LISTED = 10  # of each file: the clearest


@dataclass(frozen=True)
class Scale:
    """What the errors are measured against: the standard deviation and the range of PyTorch's logits."""

    deviation: float
    range: float


class Flip(NamedTuple):
    """A row whose predicted class is not PyTorch's.

    Attributes:
        margin: How far PyTorch's two best logits are apart.
        row: Of the test split.
        expected: PyTorch's class, as an index.
        predicted: The file's class, as an index.
    """

    margin: float
    row: int
    expected: int
    predicted: int


@dataclass(frozen=True)
class Comparison:
    """What one pass over a file's logits gives.

    Attributes:
        figures: See `compare`.
        errors: How many absolute errors fall into each bin between `BIN_EDGES`; the last one takes all above, too.
        flips: The clearest flips, those of the largest margin first.
    """

    figures: dict[str, Any]
    errors: NDArray[np.int64]
    flips: list[Flip]


def measure(reference: Floats) -> Scale:
    """Deviation and range of PyTorch's logits.

    Raises:
        StageError: They are all equal, or not all finite.
    """
    low, high, total, squares = np.inf, -np.inf, 0.0, 0.0
    for (logits,) in chunks(reference):
        low, high = min(low, float(logits.min())), max(high, float(logits.max()))
        total += float(logits.sum(dtype=np.float64))
    if not (np.isfinite(total) and low < high):
        raise StageError("PyTorch's logits are all equal or not finite: there is nothing to measure an error against")
    for (logits,) in chunks(reference):
        squares += float(np.square(logits.astype(np.float64) - total / reference.size).sum())
    return Scale(float(np.sqrt(squares / reference.size)), high - low)


def compare(logits: Floats, reference: Floats, scale: Scale) -> Comparison:
    """Compare logits (rows, classes) with PyTorch's.

    The figures:
        - `max_absolute_error`, `mean_absolute_error`: over all logits.
        - `relative_error`: the root mean square of the error, divided by the standard deviation of PyTorch's logits.
          Unlike the largest error it does not grow with the number of rows.
        - `worst_class_error`: the same of the class whose logits are furthest off.
        - `largest_error`: of a single logit, divided by the same standard deviation.
        - `psnr_db`: 20 log10(range of PyTorch's logits / root mean square of the error); None if there is no error.
        - `argmax_agreement`: the share of rows with the same predicted class.
        - `flips`: the rows whose predicted class differs; `largest_flipped_margin`: how far PyTorch's two best logits
          are apart in the clearest of them; `flips_within_margin`: whether that is at most twice the largest error of
          the rows that did not flip, so that the rounding seen everywhere explains every flip.

    Raises:
        StageError: A logit is not finite; the message names its row.
    """
    first_row = flips = 0
    total = largest = largest_unflipped = 0.0
    squares = np.zeros(reference.shape[1])
    counts = np.zeros(len(BIN_EDGES) - 1, np.int64)
    clearest: list[Flip] = []
    for ours, theirs in chunks(logits, reference):
        finite = np.isfinite(ours).all(axis=1)
        if not finite.all():
            raise StageError(f"the logits of row {first_row + int(finite.argmin())} are not finite")
        error = np.abs(ours - theirs.astype(np.float64))
        total += float(error.sum())
        squares += np.square(error).sum(axis=0)
        largest = max(largest, float(error.max()))
        counts += np.bincount(np.searchsorted(BIN_EDGES[1:-1], error.ravel(), side="right"), minlength=len(counts))
        flipped = ours.argmax(axis=1) != theirs.argmax(axis=1)
        flips += int(flipped.sum())
        largest_unflipped = max(largest_unflipped, float(error[~flipped].max(initial=0)))
        clearest += flips_of(ours, theirs, flipped, first_row)
        clearest = heapq.nlargest(FLIPS_LISTED, clearest, key=lambda flip: (flip.margin, -flip.row))
        first_row += len(ours)
    rms = float(np.sqrt(squares.sum() / reference.size))
    margin = clearest[0].margin if clearest else 0.0
    figures = {
        "max_absolute_error": rounded(largest, 3),
        "mean_absolute_error": rounded(total / reference.size, 3),
        "relative_error": rounded(rms / scale.deviation, 3),
        "worst_class_error": rounded(float(np.sqrt(squares.max() / len(reference))) / scale.deviation, 3),
        "largest_error": rounded(largest / scale.deviation, 3),
        "psnr_db": rounded(20 * np.log10(scale.range / rms), 3) if rms else None,
        "argmax_agreement": rounded(1 - flips / len(reference)),
        "flips": flips,
        "largest_flipped_margin": rounded(margin, 3),
        "flips_within_margin": margin <= 2 * largest_unflipped,
    }
    return Comparison(figures, counts, clearest)


def flips_of(ours: Floats, theirs: Floats, flipped: NDArray[np.bool_], first_row: int) -> list[Flip]:
    """The clearest flips of a chunk, whose first row is the split's `first_row`."""
    rows = np.flatnonzero(flipped)
    best = np.sort(theirs[rows].astype(np.float64), axis=1)
    margins = best[:, -1] - best[:, -2]
    listed = np.argsort(-margins, kind="stable")[:FLIPS_LISTED]
    return [
        Flip(float(margins[i]), first_row + int(rows[i]), int(theirs[rows[i]].argmax()), int(ours[rows[i]].argmax()))
        for i in listed
    ]
