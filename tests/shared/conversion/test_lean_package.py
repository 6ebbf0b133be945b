"""A package in fewer bytes computes what it did, and Core ML's own tools open it."""

import re
from pathlib import Path
from typing import Any

import export_coreml
from shared.conversion.canonical import canonicalize_mlpackage
from shared.coreml_reference import CoreMLReference
from shared.files.mlpackage import read_model
from shared.network.model import Checkpoint
from tests.support import EXPORT_NAMES, EXPORT_PARAMS, classifier

import numpy as np
import pytest


def operations(block: Any) -> list[Any]:
    return [each for operation in block.operations for each in (operation, *nested(operation))]


def nested(operation: Any) -> list[Any]:
    return [each for block in operation.blocks for each in operations(block)]


@pytest.mark.parametrize("architecture", ["lstm", "gru", "transformer"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_computes_the_same_bits_in_fewer_bytes(architecture: str, precision: Any, tmp_path: Path) -> None:
    model = Checkpoint(classifier(architecture, ragged=True), {})
    package = export_coreml.export_coreml(model, EXPORT_NAMES, EXPORT_PARAMS, precision)
    before, after = tmp_path / "before.mlpackage", tmp_path / "after.mlpackage"
    package.save(str(before))
    package.save(str(after))
    canonicalize_mlpackage(after)

    x = np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float32)
    inputs = {"samples": x, "steps": np.array([5, 1, 3, 4], np.int32)}
    expected, found = (CoreMLReference(path).predict(inputs)["scores"] for path in (before, after))
    assert found.tobytes() == expected.tobytes()

    large, small = read_model(before), read_model(after)
    assert small.ByteSize() < 0.6 * large.ByteSize()
    program = small.mlProgram.functions["main"]
    block = program.block_specializations[program.opset]
    for operation in operations(block):
        assert "name" not in operation.attributes
        for output in operation.outputs:
            assert output.name == "scores" or re.fullmatch(rf"{operation.type}_\d+", output.name)
    kinds = [operation.type for operation in operations(block) if operation.type != "const"]
    program = large.mlProgram.functions["main"]
    assert kinds == [
        operation.type
        for operation in operations(program.block_specializations[program.opset])
        if operation.type != "const"
    ]
