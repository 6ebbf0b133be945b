"""Rows that get another class from an exported file than from PyTorch."""

from typing import Any

from shared.page.run import Run

FLIPS_SHOWN = 2  # of each file: the clearest


def content(run: Run) -> dict[str, Any]:
    """The files with flips and those without any, and the clearest flips."""
    clearest = run.in_order(run.flips).groupby(["format", "variant"], sort=False)
    return {
        "flipped": [file for file in run.exported if file.parity and file.parity.get("flips")],
        "unflipped": [file for file in run.exported if file.parity and file.parity.get("flips") == 0],
        "flips": clearest.head(FLIPS_SHOWN).to_dict("records"),
    }
