"""The formats that a model is written in: what each is called, where its files lie, and what they can need.

One more format is one more entry of `FORMATS`. What a wing does with a file stands in a table of that wing, by the
file's suffix; docs/adding-a-format.md lists these tables, and a test holds each of them to this one.
"""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

Exported = Literal["onnx", "coreml", "coreai", "executorch"]
"""The names of those that the checkpoint is exported to, as params.yaml spells them."""


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        title: Its name, for people.
        suffix: Of its files; their folder is called as the format is.
        is_folder: Whether one of its "files" is a folder.
        files: What these are, in the plural.
        runtime: What runs them on a device.
        systems: What they can need a version of: see `SYSTEMS` in shared/judging/recommendation.py.
        exported: The variants that the stage `export_<format>` writes; `compress_<format>` writes the others.
        compressed: The names of the variants that only a list of params.yaml decides on; None if there are none.
    """

    title: str
    suffix: str
    is_folder: bool
    files: str
    runtime: str
    systems: tuple[str, ...]
    exported: tuple[str, ...]
    compressed: re.Pattern[str] | None


FORMATS: dict[str, Format] = {
    "pytorch": Format("PyTorch", ".pt", False, "checkpoints", "PyTorch", (), ("fp32",), None),
    "onnx": Format(
        "ONNX", ".onnx", False, "ONNX files", "ONNX Runtime", ("onnxruntime",), ("fp32",),
        re.compile(r"fp16|int8|int8_weights|int8_static"),
    ),
    "coreml": Format(
        "Core ML", ".mlpackage", True, "mlpackages", "Core ML", ("ios", "macos"), ("fp32", "fp16"),
        re.compile(r"(sparse\d+_)?(sparse|palette|int)\d+"),
    ),
    "coreai": Format(
        "Core AI", ".aimodel", True, "Core AI assets", "Core AI", ("ios", "macos"), ("fp32", "fp16"),
        re.compile(r"(sparse|palette|int)\d+"),
    ),
    "executorch": Format(
        "ExecuTorch", ".pte", False, "ExecuTorch programs", "ExecuTorch", ("executorch",), ("fp32",), None
    ),
}  # fmt: skip
"""By the name of the folder and of the keys in figures, in the order of the page; of the first the others are made."""

REFERENCE = ("pytorch", "fp32")
EXPORTED = [name for name in FORMATS if name != REFERENCE[0]]
SUFFIXES = {name: each.suffix for name, each in FORMATS.items()}


class Executor(NamedTuple):
    """Who runs files.

    Attributes:
        title: Its name, for people.
        format: Of the files.
        is_another: Whether it runs them beside the format's own runtime.
    """

    title: str
    format: str
    is_another: bool = False


EXECUTORS = {
    "pytorch": Executor("PyTorch", "pytorch"),
    "onnxruntime": Executor("ONNX Runtime", "onnx"),
    "web": Executor("ONNX Runtime in WebAssembly", "onnx", is_another=True),
    "onnx_reference": Executor("ONNX's evaluator", "onnx", is_another=True),
    "coreml": Executor("Core ML, macOS", "coreml"),
    "reference": Executor("reference evaluator", "coreml"),
    "coreai": Executor("Core AI, coreai-core", "coreai"),
    "executorch": Executor("ExecuTorch", "executorch"),
}
"""By the name in records, figures and params.yaml; of another one it is the folder of its predictions as well."""
OTHER_EXECUTORS = {name: executor.format for name, executor in EXECUTORS.items() if executor.is_another}


def format_of(suffix: str) -> Format | None:
    """The format whose files end so; None if there is none."""
    return next((each for each in FORMATS.values() if each.suffix == suffix), None)


def folders() -> dict[str, str]:
    """The folder of each format, as an argument of a stage that reads all: its name and what it is."""
    return {name: f"the folder of the {each.files}" for name, each in FORMATS.items()}
