"""What the model is, whether all is well, and the figures that matter most."""

from typing import Any

from shared.page.run import Run


def content(run: Run) -> dict[str, Any]:
    """The files that are wrong, and those that are right but cost too much."""
    return {
        "wrong": [file for file in run.exported if file.problems],
        "lossy": [file for file in run.exported if file.parity and file.parity.get("outcome") == "too_lossy"],
        "net_is_wrong": bool((run.reference.parity or {}).get("problems")),
    }
