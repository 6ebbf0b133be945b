"""The recall of each class in each file."""

from typing import Any

from shared.page.run import Run


def content(run: Run) -> dict[str, Any]:
    """What the template shows beside the run."""
    return {"judged": [file for file in run.candidates if file.task]}
