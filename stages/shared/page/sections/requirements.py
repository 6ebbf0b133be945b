"""What each file needs of the device that runs it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from shared.files.formats import FORMATS
from shared.judging.recommendation import Candidate
from shared.page.formatting import format_requirement
from shared.page.run import Run


class Column(NamedTuple):
    """A column: its title, what stands in it of a file, whether that is text, and whether it is bad."""

    title: str
    of: Callable[[Candidate], object]
    is_text: bool = True
    is_bad: Callable[[Candidate], bool] = lambda _: False


def integer_sums(file: Candidate) -> dict[str, Any]:
    """What is proved of a file's integer sums; nothing where it has none."""
    sums: dict[str, Any] = (file.size or {}).get("integer_sums", {})
    return sums


def sums_in_words(file: Candidate) -> str:
    """Whether they can overflow; a dash where there are none."""
    sums = integer_sums(file)
    return "\N{EN DASH}" if not sums else "exact on every processor" if sums["exact"] else "can overflow"


ACCELERATORS = {
    "nnapi": "NNAPI",
    "coreml_program": "Core ML program",
    "coreml_neural_network": "Core ML neural network",
}


def accelerators_in_words(file: Candidate) -> str:
    """Which of ONNX Runtime's providers for accelerators would help, as ONNX Runtime's checker estimates."""
    found: dict[str, dict[str, str]] | None = (file.size or {}).get("accelerators")
    if not found:
        return "\N{EN DASH}"
    helpful = []
    for name, title in ACCELERATORS.items():
        as_is, fixed = found[name]["as_is"], found[name]["fixed_shapes"]
        if as_is != "no":
            helpful.append(f"{title}: {as_is}")
        elif fixed != "no":
            helpful.append(f"{title}: {fixed}, with fixed shapes")
    return "; ".join(helpful) or "none: the CPU is best"


TABLES = {
    "onnx": [
        Column("ONNX Runtime", lambda file: file.requires["onnxruntime"] or "not known"),
        Column("Opset", lambda file: file.requires["opset"], is_text=False),
        Column("IR version", lambda file: file.requires["ir_version"], is_text=False),
        Column("Ops of its own", lambda file: ", ".join(file.requires["contrib_ops"]) or "\N{EN DASH}"),
        Column("Accelerators", accelerators_in_words),
        Column("Integer sums", sums_in_words, is_bad=lambda file: not integer_sums(file).get("exact", True)),
    ],
    "coreml": [
        Column("Systems", lambda file: format_requirement(file.requires)),
        Column("Specification", lambda file: file.requires["specification_version"], is_text=False),
    ],
    "coreai": [
        Column("Systems", lambda file: format_requirement(file.requires)),
        Column("Written for", lambda file: file.requires["compatible_with"], is_text=False),
    ],
    "executorch": [
        Column("ExecuTorch", lambda file: file.requires["executorch"] or "not known"),
        Column("Backends", lambda file: ", ".join(file.requires["backends"])),
        Column("Other kernels", lambda file: ", ".join(file.requires["kernels"]) or "\N{EN DASH}"),
    ],
}
"""The columns of each format: they need different things."""


def content(run: Run) -> dict[str, Any]:
    """A table for each format with files of which that is known."""
    known = [file for file in run.exported if file.requires]
    return {
        "tables": [
            (FORMATS[name].title, columns, files)
            for name, columns in TABLES.items()
            if (files := [file for file in known if file.format == name])
        ]
    }
