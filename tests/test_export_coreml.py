"""The mlpackages: precisions, targets, the range of the batch, and what they say of themselves."""

import json
from pathlib import Path
from typing import get_args

import export_coreml
from shared.coreml_reference import CoreMLReference, InputError
from shared.network.model import Checkpoint
from tests.support import EXPORT_NAMES, EXPORT_PARAMS, classifier

import numpy as np
import pytest
import torch

TRAINING = {"validation_loss": 0.125}
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def convert(
    model: Checkpoint, path: Path, precision: export_coreml.Precision = "fp32", target: str = "iOS17"
) -> CoreMLReference:
    params = export_coreml.Params.model_validate(
        {"deployment_target": target, "default_batch": 2, "largest_batch": 20, "largest_time": 30}
    )
    export_coreml.save(export_coreml.export_coreml(model, EXPORT_NAMES, params, precision), path)
    return CoreMLReference(path)


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    return Checkpoint(classifier(hidden_size=48), TRAINING)


@pytest.fixture(scope="module")
def packages(model: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, CoreMLReference]]:
    """Both precisions of the default architecture."""
    folder = tmp_path_factory.mktemp("packages")
    fp32, fp16 = folder / "fp32.mlpackage", folder / "fp16.mlpackage"
    return {"fp32": (fp32, convert(model, fp32)), "fp16": (fp16, convert(model, fp16, "fp16"))}


def assert_parity(model: Checkpoint, package: CoreMLReference, tolerance: float) -> None:
    """At batch sizes that were not traced, one of them 1."""
    for batch in (1, 5, 17):
        x = np.random.default_rng(batch).normal(size=(batch, 5, 2)).astype(np.float32)
        with torch.inference_mode():
            expected = model.model(torch.from_numpy(x)).numpy()
        found = package.predict({"samples": x})["scores"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("fp16", 2e-3)])
def test_it_computes_what_torch_computes_at_every_batch_size(
    model: Checkpoint, packages: dict[str, tuple[Path, CoreMLReference]], precision: str, tolerance: float
) -> None:
    assert_parity(model, packages[precision][1], tolerance)


@pytest.mark.parametrize("architecture", ["lstm", "gru", "transformer"])
def test_one_trace_serves_all_precisions(architecture: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(classifier(architecture), TRAINING)
    traced = export_coreml.trace(checkpoint, EXPORT_NAMES)
    for precision in get_args(export_coreml.Precision):
        again, alone = tmp_path / "again.mlpackage", tmp_path / "alone.mlpackage"
        package = export_coreml.convert(traced, checkpoint, EXPORT_NAMES, EXPORT_PARAMS, precision)
        export_coreml.save(package, again)
        export_coreml.save(export_coreml.export_coreml(checkpoint, EXPORT_NAMES, EXPORT_PARAMS, precision), alone)
        files = [path.relative_to(alone) for path in sorted(alone.rglob("*")) if path.is_file()]
        assert len(files) == 3
        assert [(again / file).read_bytes() for file in files] == [(alone / file).read_bytes() for file in files]


@pytest.mark.parametrize(("target", "version"), [("iOS15", 6), ("iOS18", 9)])
def test_the_oldest_and_the_newest_target(model: Checkpoint, tmp_path: Path, target: str, version: int) -> None:
    package = convert(model, tmp_path / "target.mlpackage", target=target)
    assert package.program.specification_version == version
    assert_parity(model, package, 1e-6)


def test_half_precision_halves_the_weights(packages: dict[str, tuple[Path, CoreMLReference]]) -> None:
    sizes = {precision: (path / WEIGHTS).stat().st_size for precision, (path, _) in packages.items()}
    assert sizes["fp16"] / sizes["fp32"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_interface_is_float32_with_a_ranged_batch(
    packages: dict[str, tuple[Path, CoreMLReference]], precision: str
) -> None:
    package = packages[precision][1]
    [source], [target] = package.inputs.values(), package.outputs.values()
    assert (source.name, str(source.dtype)) == ("samples", "float32")
    assert (target.name, str(target.dtype)) == ("scores", "float32")
    assert source.shape == (2, 5, 2)
    assert source.bounds == ((1, 20), (5, 5), (2, 2))


def test_a_batch_beyond_the_largest_is_refused(packages: dict[str, tuple[Path, CoreMLReference]]) -> None:
    package = packages["fp32"][1]
    assert package.predict({"samples": np.zeros((20, 5, 2), np.float32)})["scores"].shape == (20, 3)
    with pytest.raises(InputError):
        package.predict({"samples": np.zeros((21, 5, 2), np.float32)})


def test_the_metadata_says_what_the_file_is(packages: dict[str, tuple[Path, CoreMLReference]]) -> None:
    for _, package in packages.values():
        metadata = package.user_defined_metadata
        assert json.loads(metadata["classes"]) == ["on", "off", "none"]
        assert json.loads(metadata["features"]) == ["x", "y"]
        assert json.loads(metadata["training"]) == TRAINING
        assert metadata["version"] == "2.1.0"
        assert metadata["description"] == "A description"
