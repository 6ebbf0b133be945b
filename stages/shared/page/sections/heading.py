"""What the model is, whether all is well, and the figures that matter most."""

from typing import Any

from shared.page.run import Run


def content(run: Run) -> dict[str, Any]:
    """What the template shows beside the run."""
    return {"failed": [file for file in run.exported if file.problems]}
