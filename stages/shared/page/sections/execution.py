"""Where each file was executed, and what the executors beside the formats' own runtimes make of it."""

from typing import Any

from shared.page.formatting import in_version
from shared.page.run import Run


def content(run: Run) -> dict[str, Any]:
    """Who executed which files, and on what kind of machine; and what came of it elsewhere, and from a witness."""
    found: dict[tuple[str, str], list[str]] = {}
    for file in run.exported:
        if file.parity and file.executor:
            executor = in_version(file.executor, file.parity["executor_version"])
            found.setdefault((executor, file.parity["platform"]), []).append(file.file)
    return {
        "executions": [
            {"executor": executor, "platform": platform, "files": files}
            for (executor, platform), files in found.items()
        ],
        "elsewhere": [
            {"file": file, "executor": in_version(name, figures.get("executor_version")), **figures}
            for file in run.exported
            for name, figures in file.elsewhere.items()
        ],
        "witnessed": [file for file in run.exported if file.parity and "witness" in file.parity],
    }
