"""ONNX Runtime's mobile-usability checker, of a net that its providers for accelerators take and of one they do not."""

from pathlib import Path

import export_onnx
from shared.files.accelerators import accelerators
from shared.kit.stage import StageError
from shared.network.model import Checkpoint
from tests.support import EXPORT_NAMES, classifier

import pytest


def exported(net: str, folder: Path) -> Path:
    path = folder / f"classifier-{net}.onnx"
    path.write_bytes(export_onnx.export_onnx(Checkpoint(classifier(net), {}), EXPORT_NAMES, 20).lean)
    return path


def test_a_recurrent_net_has_no_accelerator_and_a_perceptron_has_all_once_its_shapes_are_fixed(tmp_path: Path) -> None:
    none, all_of_them = accelerators(exported("lstm", tmp_path)), accelerators(exported("mlp", tmp_path))
    assert set(none) == set(all_of_them) == {"nnapi", "coreml_program", "coreml_neural_network"}
    assert all(verdict == {"as_is": "no", "fixed_shapes": "no"} for verdict in none.values())
    assert all(verdict == {"as_is": "no", "fixed_shapes": "yes"} for verdict in all_of_them.values())


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "classifier-fp32.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(StageError, match=r"classifier-fp32\.onnx: not a readable ONNX file"):
        accelerators(path)
