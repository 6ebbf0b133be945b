"""Rows that get another class from an exported file than from PyTorch."""

from collections import Counter
from typing import Any

from shared.judging.recommendation import Candidate
from shared.page.run import Run

ROUNDED_ONLY = ("fp32", "fp16")
"""The variants that hold the net's own weights, rounded: all others hold other weights, which no rounding explains."""
FLIPS_SHOWN = 2  # of each file: the clearest


def explained_by(file: Candidate) -> str | None:
    """What makes rows flip: rounding, or that the weights are not the net's; None if neither explains the clearest.

    Where the margin of a flip is more than twice the largest error of the rows that did not flip, something else is
    at work than what all rows show.
    """
    if not file.parity or not file.parity["flips_within_margin"]:
        return None
    return "rounding" if file.variant in ROUNDED_ONLY else "its weights"


def content(run: Run) -> dict[str, Any]:
    """The files with flips and those without any, and the clearest flips."""
    shown: Counter[tuple[str, str]] = Counter()
    flips = []
    for flip in run.in_order(run.flips):
        shown[flip.format, flip.variant] += 1
        if shown[flip.format, flip.variant] <= FLIPS_SHOWN:
            flips.append(flip)
    return {
        "flipped": [(file, explained_by(file)) for file in run.exported if file.parity and file.parity.get("flips")],
        "unflipped": [file for file in run.exported if file.parity and file.parity.get("flips") == 0],
        "flips": flips,
    }
