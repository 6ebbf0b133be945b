"""Whether a phone's accelerators would help an ONNX file, by ONNX Runtime's own mobile-usability checker.

It compares the ops of the graph with lists of what the runtime's providers for Android's NNAPI and for Core ML take,
and counts the parts that the graph falls into: `yes` is one part with most of the nodes. It is an estimate, runs on no
device, and is about these providers: a Core ML package needs none of them.
"""

import tempfile
from pathlib import Path

from shared.files.quiet import import_onnxruntime_tools
from shared.kit.stage import reading

PROVIDERS = {
    "nnapi": None,
    "coreml_program": "coreml_supported_mlprogram_ops.md",
    "coreml_neural_network": "coreml_supported_neuralnetwork_ops.md",
}
"""By the name in figures, the checker's list of ops of Core ML's two kinds of models."""


def accelerators(path: Path) -> dict[str, dict[str, str]]:
    """The verdict for each provider, `yes`, `maybe` or `no`: of the file `as_is`, and with `fixed_shapes`.

    Raises:
        StageError: ONNX Runtime cannot read the file.
    """
    checker = import_onnxruntime_tools("mobile_helpers.usability_checker")
    utilities = import_onnxruntime_tools("onnx_model_utils")
    with reading(path, "ONNX file"), tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / path.name  # as the checker does: what is constant is no node
        utilities.optimize_model(path, optimized, use_external_initializers=True)
        model = utilities.ModelProtoWithShapeInfo(optimized).model_with_shape_info

        def verdict(ops: str | None, *, fixed: bool) -> str:
            if ops:
                parts = checker.check_coreml_partitions(model, not fixed, ops)
            else:
                parts = checker.check_nnapi_partitions(model, not fixed)
            return str(parts.suitability().name).lower()

        return {
            name: {"as_is": verdict(ops, fixed=False), "fixed_shapes": verdict(ops, fixed=True)}
            for name, ops in PROVIDERS.items()
        }
