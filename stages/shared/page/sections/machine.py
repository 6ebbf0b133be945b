"""Versions and hardware of the machine that timed the files."""

from typing import Any

from shared.page.run import Run

MACHINE_NAMES = {
    "cpu": "CPU", "cores": "Cores", "memory_gb": "Memory", "system": "System", "python": "Python", "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime", "coremltools": "coremltools", "numpy": "NumPy",
}  # fmt: skip


def content(run: Run) -> dict[str, Any]:
    """Each fact by its name."""
    return {"machine": {MACHINE_NAMES.get(key, key): value for key, value in run.benchmark["machine"].items()}}
