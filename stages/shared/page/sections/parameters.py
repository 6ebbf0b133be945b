"""Every parameter of the run."""

from typing import Any

from shared.page.formatting import flatten
from shared.page.run import Run


def content(run: Run) -> dict[str, Any]:
    """What the template shows beside the run."""
    return {"sections": {name: list(flatten(section)) for name, section in run.parameters.items()}}
