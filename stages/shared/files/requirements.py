"""What a model file asks of the device that runs it, read from the file alone."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.files.aimodel import compatible_with
from shared.files.mlpackage import read_model
from shared.files.onnx_graph import all_nodes, read_onnx
from shared.files.pte import read_program

STANDARD = {"", "ai.onnx"}
"""The names of the standard's own domain of ops."""

APPLE_SYSTEMS = {
    4: (13, 10.15),
    5: (14, 11),
    6: (15, 12),
    7: (16, 13),
    8: (17, 14),
    9: (18, 15),
    10: (26, 26),
}
"""The oldest iOS and macOS by the specification version of a Core ML model: coremltools' `ct.target`, which names the
same versions `iOS13` and `macOS10_15` and so on."""

OPSETS = {18: "1.15", 19: "1.16", 20: "1.17", 21: "1.20", 22: "1.21", 23: "1.24", 24: "1.24", 25: "1.24", 26: "1.25"}
"""The oldest ONNX Runtime by opset: the first release of 1.15.1 to 1.32.0 with CPU kernels for all of 50 files: five
architectures, with and without lengths, in full precision and in each variant (below 20 without the transformer's
`Gelu`, which is not in them). A release may open an opset without the kernels for it, as 1.15 does with 19, 1.18 with
21 and 1.23 with 23. An older opset says 1.15, since no older release was tried:
https://onnxruntime.ai/docs/reference/compatibility.html has a table of those."""

IR_VERSIONS = {9: "1.15", 10: "1.18", 11: "1.23", 12: "1.24", 13: "1.24", 14: "1.32"}
"""The same by IR version: the first release that opened a model of one node in it."""

CONTRIB_OPS = {"DynamicQuantizeLSTM": "1.15"}
"""The same by op of ONNX Runtime's own domain, `com.microsoft`. This one is older than all that were tried: it came
with 1.6 (https://github.com/microsoft/onnxruntime/issues/5747)."""


def requirements_of(path: Path) -> dict[str, Any]:
    """What a file needs, by its format.

    - an `.mlpackage`: `specification_version`, and the oldest `ios` and `macos` that read it;
    - an `.onnx` file: `opset`, `ir_version`, `contrib_ops` (those outside the standard), and the oldest release of
      `onnxruntime` that has all of these;
    - an `.aimodel`: `compatible_with`, the release of Apple's systems that it was written for, and so the oldest `ios`
      and `macos` that read it;
    - a `.pte` file: the release of `executorch` that wrote it, the oldest of which it is known that it runs it, the
      `backends` it hands parts to, and the other `kernels` that it calls;
    - a checkpoint: nothing, since it is no file to ship.

    A version is None where no release is known to run the file.

    Raises:
        StageError: The file is damaged.
    """
    return READERS[path.suffix](path)


def _of_mlpackage(path: Path) -> dict[str, Any]:
    version = read_model(path).specificationVersion
    ios, macos = APPLE_SYSTEMS.get(version, (None, None))
    return {"specification_version": version, "ios": ios, "macos": macos}


def _of_onnx(path: Path) -> dict[str, Any]:
    model = read_onnx(path)
    nodes = list(all_nodes(model))
    opset = max((entry.version for entry in model.opset_import if entry.domain in STANDARD), default=0)
    own = sorted({node.op_type for node in nodes if node.domain not in STANDARD})
    return {
        "opset": opset,
        "ir_version": model.ir_version,
        "contrib_ops": own,
        "onnxruntime": oldest_runtime(opset, model.ir_version, own),
    }


def _of_aimodel(path: Path) -> dict[str, Any]:
    version = compatible_with(path)
    systems = version_numbers(version)[0] if re.fullmatch(r"\d+(\.\d+)*", version) else None
    return {"compatible_with": version, "ios": systems, "macos": systems}


def _of_pte(path: Path) -> dict[str, Any]:
    program = read_program(path)
    release = ".".join(program.metadata.get("executorch", "").split(".")[:2])
    return {
        "executorch": release or None,
        "backends": list(program.backends),
        "kernels": list(program.kernels),
    }


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".pt": lambda _: {},
    ".onnx": _of_onnx,
    ".mlpackage": _of_mlpackage,
    ".aimodel": _of_aimodel,
    ".pte": _of_pte,
}
"""What a file needs, by its suffix."""


def oldest_runtime(opset: int, ir_version: int, contrib_ops: list[str]) -> str | None:
    """The oldest release of ONNX Runtime that has all of these; None if none is known to."""
    needed = [
        OPSETS.get(max(opset, min(OPSETS))),
        IR_VERSIONS.get(max(ir_version, min(IR_VERSIONS))),
        *(CONTRIB_OPS.get(op) for op in contrib_ops),
    ]
    known = [name for name in needed if name is not None]
    return max(known, key=version_numbers) if len(known) == len(needed) else None


def version_numbers(version: str) -> tuple[int, ...]:
    """A version such as `1.17` as numbers that compare."""
    return tuple(int(part) for part in version.split("."))
