"""Whether a phone's accelerators would help an ONNX file, by ONNX Runtime's own mobile-usability checker.

It compares the ops of the graph with lists of what the runtime's providers for Android's NNAPI and for Core ML take,
and counts the parts that the graph falls into: `yes` is one part with most of the nodes. It is an estimate, runs on no
device, and is about these providers: a Core ML package needs none of them.
"""

import tempfile
from pathlib import Path

from shared.stage import reading

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
    from onnxruntime.tools.mobile_helpers.usability_checker import check_coreml_partitions, check_nnapi_partitions
    from onnxruntime.tools.onnx_model_utils import ModelProtoWithShapeInfo, optimize_model

    with reading(path, "ONNX file"), tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / path.name  # as the checker does: what is constant is no node
        optimize_model(path, optimized, use_external_initializers=True)
        model = ModelProtoWithShapeInfo(optimized).model_with_shape_info

        def verdict(ops: str | None, *, fixed: bool) -> str:
            parts = check_coreml_partitions(model, not fixed, ops) if ops else check_nnapi_partitions(model, not fixed)
            return str(parts.suitability().name).lower()

        return {
            name: {"as_is": verdict(ops, fixed=False), "fixed_shapes": verdict(ops, fixed=True)}
            for name, ops in PROVIDERS.items()
        }
