"""Variants of an mlpackage: they are what their names say, for every architecture, and compute nearly the same."""

import shutil
from pathlib import Path
from typing import Any

import compress_coreml
import export_coreml
from compress_coreml import Step
from shared.conversion.canonical import canonicalize_mlpackage
from shared.coreml_reference import CoreMLReference
from shared.files.inspection import inspect_file
from shared.network.architectures import ARCHITECTURES
from shared.network.model import Checkpoint
from tests.support import EXPORT_NAMES, EXPORT_PARAMS, Workspace, classifier

import numpy as np
import pytest

IOS17, IOS18 = 8, 9
STORED_AS = {
    "int8": ("affine_dequantize", IOS17),
    "int4": ("blockwise_shift_scale", IOS18),
    "palette6": ("lut_to_dense", IOS17),
    "sparse20": ("sparse_to_dense", IOS17),
    "sparse20_palette6": ("lut_to_sparse+sparse_to_dense", IOS18),
    "sparse20_int8": ("sparse_blockwise_shift_scale+sparse_to_dense", IOS18),
}
ERRORS = {"int8": 0.02, "int4": 0.3, "palette6": 0.05, "sparse20": 0.3, "sparse20_palette6": 0.3, "sparse20_int8": 0.3}


def compress(package: Path, variant: str, folder: Path) -> Path:
    steps = compress_coreml.parse_variant(variant)
    path = folder / f"classifier-{variant}.mlpackage"
    compress_coreml.compress(package, steps, smallest_tensor=100).save(str(path))
    canonicalize_mlpackage(path)
    form = compress_coreml.expected_form(steps, STORED_AS[variant][1])
    assert form == STORED_AS[variant][0]
    return path


def export(folder: Path, architecture: str, **options: Any) -> Path:
    path = folder / "classifier-fp16.mlpackage"
    model = Checkpoint(classifier(architecture, **options), {"validation_loss": 0.125})
    export_coreml.save(export_coreml.export_coreml(model, EXPORT_NAMES, EXPORT_PARAMS, "fp16"), path)
    return path


def check(package: Path, variant: str, folder: Path, inputs: dict[str, Any]) -> None:
    path = compress(package, variant, folder)
    before, after = CoreMLReference(package), CoreMLReference(path)
    form, version = STORED_AS[variant]
    facts = inspect_file(path)
    assert facts.weights == inspect_file(package).weights
    assert facts.share(form) > 0.8
    assert facts.bytes < inspect_file(package).bytes
    assert after.program.specification_version == version
    system = {IOS17: "iOS17", IOS18: "iOS18"}[version]
    assert after.user_defined_metadata == before.user_defined_metadata | {"deployment_target": system}
    assert after.inputs == before.inputs
    assert after.outputs == before.outputs
    expected, found = (model.predict(inputs)["scores"] for model in (before, after))
    assert found.dtype == np.float32
    assert np.sqrt(np.square(found - expected).mean()) < ERRORS[variant] * expected.std()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture(architecture: str, tmp_path: Path) -> None:
    """In two steps, for the second takes what the first left."""
    package = export(tmp_path, architecture, ragged=True)
    inputs = {
        "samples": np.random.default_rng(0).normal(size=(20, 5, 2)).astype(np.float32),
        "steps": np.arange(20, dtype=np.int32) % 5 + 1,
    }
    check(package, "sparse20_palette6", tmp_path, inputs)


def test_every_kind(tmp_path: Path) -> None:
    package = export(tmp_path, "lstm", bidirectional=True)
    inputs = {"samples": np.random.default_rng(0).normal(size=(20, 5, 2)).astype(np.float32)}
    for variant in STORED_AS:
        check(package, variant, tmp_path, inputs)


def test_the_same_bytes_again(tmp_path: Path) -> None:
    """k-means starts at the same places."""
    package = export(tmp_path, "mlp")
    first = compress(package, "palette6", tmp_path)
    content = {file: file.read_bytes() for file in first.rglob("*") if file.is_file()}
    shutil.rmtree(first)
    compress(package, "palette6", tmp_path)
    assert {file: file.read_bytes() for file in first.rglob("*") if file.is_file()} == content


def test_the_names_of_variants() -> None:
    assert compress_coreml.parse_variant("palette4") == [Step("palette", 4)]
    assert compress_coreml.parse_variant("sparse50_int8") == [Step("sparse", 50), Step("int", 8)]
    for name in ("", "int7", "palette5", "sparse0", "sparse100", "int8_sparse50", "palette4_int8", "int8_", "INT8"):
        with pytest.raises(ValueError, match=f"unknown variant '{name}'; known: sparse1 to sparse99, palette1, 2"):
            compress_coreml.parse_variant(name)


def test_the_default_model_takes_half_and_a_quarter(small_run: Path) -> None:
    """The size does not depend on the training."""
    fp32, fp16, palette6 = (
        inspect_file(small_run / f"models/coreml/classifier-{name}.mlpackage").bytes
        for name in ("fp32", "fp16", "palette6")
    )
    assert fp16 <= 0.55 * fp32
    assert palette6 <= 0.3 * fp32


def test_a_package_that_is_not_what_its_name_says_is_not_written(workspace: Workspace) -> None:
    workspace.set("compress_coreml.smallest_tensor", 10_001)
    assert workspace.refuses("compress_coreml@palette6") == (
        "palette6: 0.0% of the weights are stored as lut_to_dense; minimum_share asks for 90.0%; found 10553 float16; "
        "lower compress_coreml.smallest_tensor or minimum_share"
    )


def test_an_unknown_variant_is_refused(workspace: Workspace) -> None:
    files = ("models/coreml/classifier-fp16.mlpackage", "models/coreml/classifier-palette5.mlpackage")
    assert workspace.refuses("compress_coreml@palette6", *files).startswith(
        "models/coreml/classifier-palette5.mlpackage: unknown variant 'palette5'; known: sparse1 to sparse99"
    )
    workspace.set("compress_coreml.variants", ["palette5"])
    error = workspace.refuses("compress_coreml@palette5")
    assert "compress_coreml.variants = ['palette5']: unknown variant 'palette5'; known: " in error


def test_a_damaged_package_is_refused(workspace: Workspace) -> None:
    file = workspace.folder / "models/coreml/classifier-fp16.mlpackage/Data/com.apple.CoreML/model.mlmodel"
    file.write_bytes(file.read_bytes()[:-10])
    assert "model.mlmodel: not a readable Core ML model: " in workspace.refuses("compress_coreml@palette6")
