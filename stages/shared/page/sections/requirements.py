"""What each file needs of the device that runs it."""

from typing import Any

from shared.page.run import Run


def content(run: Run) -> dict[str, Any]:
    """The files of which that is known, ONNX and Core ML apart: they need different things."""
    known = [file for file in run.exported if file.requires]
    return {name: [file for file in known if file.format == name] for name in ("onnx", "coreml")}
