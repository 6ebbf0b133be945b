"""Training artifacts: made, tried, and the net that comes back judged by our own stages.

What needs the training package, in the environment that uv makes, is run by `make test-training` alone.
"""

import json
import os
import shutil
from pathlib import Path

import training_artifacts
from shared.data.sequences import Prepared, SplitArrays, read_rows
from shared.kit.stage import StageError
from shared.network.model import Checkpoint, SequenceClassifier, save_checkpoint
from tests.support import EXPORT_NAMES, Workspace, classifier, rejections

import numpy as np
import pytest

PARAMS = training_artifacts.Params(optimizers=[], epochs=1, batch_size=16, learning_rate=0.002, seed=0)
ALL = bool(os.environ.get("TRAINING_TESTS"))
"""Set by `make test-training`, which installs uv."""
NEEDS_UV = pytest.mark.skipif(
    not ALL, reason="`make test-training` runs it: ONNX Runtime's training package is not here"
)


def test_a_gradient_that_is_not_pytorch_s_is_named() -> None:
    expected = {"a": np.array([1, 2], np.float32), "b": np.array([1e-9], np.float32)}
    rounded = {"a": np.array([1, 2.00002], np.float32), "b": np.array([0], np.float32)}
    assert training_artifacts.gradient_error(rounded, expected) == pytest.approx(1e-5, rel=0.05)
    with pytest.raises(StageError, match=r"the gradient of a is off by 0\.5 from PyTorch's"):
        training_artifacts.gradient_error(rounded | {"a": np.array([1, 1], np.float32)}, expected)
    with pytest.raises(StageError, match="the gradient of a is off by nan"):
        training_artifacts.gradient_error(rounded | {"a": np.array([1, np.nan], np.float32)}, expected)


def test_without_uv_one_line_says_what_to_install(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert workspace.refuses("training_artifacts@adamw").startswith("uv is not installed")


def test_an_unknown_optimizer_costs_one_line(workspace: Workspace) -> None:
    error = workspace.refuses("training_artifacts@adagrad")
    assert error == "models/training/adagrad: 'adagrad' is no optimizer; allowed: adamw, sgd"


@NEEDS_UV
@pytest.mark.parametrize(("optimizer", "learning_rate"), [("adamw", 0.005), ("sgd", 0.2)])
def test_the_artifacts_train_and_the_net_that_comes_back_passes_verify(
    optimizer: str, learning_rate: float, workspace: Workspace
) -> None:
    workspace.set("training_artifacts.learning_rate", learning_rate)
    workspace.set("training_artifacts.epochs", 60)
    workspace.call(f"training_artifacts@{optimizer}")
    made = workspace.folder / "models" / "training" / optimizer
    assert {path.name for path in made.iterdir()} == {
        "checkpoint", "eval_model.onnx", "optimizer_model.onnx", "training_model.onnx", "trial",
    }  # fmt: skip
    figures = json.loads((workspace.folder / "metrics" / f"training-{optimizer}.json").read_text())
    assert figures["gradient_error"] < 2e-5
    assert figures["accuracy"]["after"] > figures["accuracy"]["before"]

    for file_format in ("pytorch", "onnx", "coreml"):
        shutil.rmtree(workspace.folder / "models" / file_format)
        shutil.rmtree(workspace.folder / "data" / "predictions" / file_format)
    (workspace.folder / "models" / "coreml").mkdir()
    for file_format in ("pytorch", "onnx"):
        shutil.copytree(made / "trial" / file_format, workspace.folder / "models" / file_format)
    workspace.call("predict@pytorch")
    assert rejections(workspace, "onnx") == {}
    verified = json.loads((workspace.folder / "metrics" / "verify.json").read_text())
    assert verified["onnx"]["fp32"]["passed"]


@NEEDS_UV
def test_equal_runs_give_equal_bytes(workspace: Workspace) -> None:
    def made() -> dict[str, str]:
        workspace.call("training_artifacts@adamw")
        return {name: digest for name, digest in workspace.files().items() if "training" in name}

    assert made() == made()


@NEEDS_UV
@pytest.mark.parametrize("name", ["lstm", "gru", "cnn", "mlp", "transformer"])
@pytest.mark.parametrize("ragged", [False, True])
def test_every_architecture_trains_as_in_pytorch(name: str, ragged: bool, tmp_path: Path) -> None:
    checkpoint = Checkpoint(classifier(name, ragged=ragged, standardize=True), {})
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 6, 40, np.int32) if ragged else None
    rows = SplitArrays(generator.normal(size=(40, 5, 2)).astype(np.float32), np.arange(40) % 3, lengths)
    batches = training_artifacts.make(tmp_path, checkpoint, rows, EXPORT_NAMES, "adamw", PARAMS)
    expected = training_artifacts.torch_gradients(checkpoint.model, read_rows(rows, batches[0]))
    found = training_artifacts.read_tensors(tmp_path / "gradients.npz")
    assert 0 < training_artifacts.gradient_error(found, expected) < 5e-6


@NEEDS_UV
def test_a_net_without_gradients_costs_one_line(workspace: Workspace) -> None:
    model = classifier("lstm", time_steps=6, bidirectional=True)
    data = Prepared(workspace.folder / "data" / "prepared").schema
    config = model.config.model_copy(update={"features": data.features, "classes": data.classes})
    save_checkpoint(workspace.folder / "models/pytorch/classifier.pt", Checkpoint(SequenceClassifier(config), {}))
    assert workspace.refuses("training_artifacts@adamw") == (
        "ONNX Runtime 1.19.2 cannot train architecture 'lstm' with its options: LSTM and LSTMGrad kernel only supports "
        "the forward direction for now. Provided direction: 2; or training_artifacts.optimizers: []"
    )
