"""The formats a model is exported to, their precisions, and the names they give.

    models/<format>/classifier-<precision>.<suffix>    models/onnx/classifier-fp32.onnx
    data/predictions/<format>/<precision>.npy          its logits on the test split
    data/predictions/<format>/<precision>.json         how it was executed

Figures nest in the same order: `{"onnx": {"fp32": {"accuracy": 0.96}}}`.
"""

from pathlib import Path

SUFFIXES = {"pytorch": ".pt", "onnx": ".onnx", "coreml": ".mlpackage"}
REFERENCE = ("pytorch", "fp32")


def find_artifacts(folder: Path) -> dict[str, Path]:
    """Every file of a known format in a folder, by precision, sorted: a file without one in its name is fp32."""
    files = sorted(
        path for path in folder.iterdir() if path.suffix in SUFFIXES.values() and not path.name.startswith(".")
    )
    return {precision_of(path): path for path in files}


def precision_of(path: Path) -> str:
    """The precision in a file's name: `classifier-fp16.onnx` is `fp16`, `classifier.pt` is `fp32`."""
    _, _, precision = path.stem.partition("-")
    return precision or "fp32"
