"""Where each file was executed."""

from typing import Any

from shared.page.formatting import format_executor
from shared.page.run import Run


def content(run: Run) -> dict[str, Any]:
    """Who executed which files, and on what kind of machine."""
    found: dict[tuple[str, str], list[str]] = {}
    for file in run.exported:
        if file.parity and file.parity.get("executor"):
            found.setdefault((format_executor(file), file.parity["platform"]), []).append(file.file)
    return {
        "executions": [
            {"executor": executor, "platform": platform, "files": files}
            for (executor, platform), files in found.items()
        ]
    }
