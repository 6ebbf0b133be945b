# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = [
#   "numpy==2.2.6",
#   "onnx==1.16.2",
#   "onnxruntime-training-cpu==1.19.2",
# ]
# ///
"""Make training artifacts of an ONNX file, and train with them: run by uv in an environment of its own.

    uv run --script stages/shared/device_training/make_artifacts.py FOLDER

FOLDER holds `model.onnx`, `settings.json` and the training rows, `inputs-0.npy` ... and `labels.npy`. Written into it:

    artifacts/training_model.onnx, eval_model.onnx, optimizer_model.onnx, checkpoint
    gradients.npz   of the first batch, by the names of the weights
    weights.npz     after the last batch
    personalised.onnx   the model for inference with these weights
    failure.txt     instead of them: why the net cannot be trained
"""

import importlib.util
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx

LONGEST_REASON = 200


def import_training() -> tuple[Any, Any]:
    """The parts of the training package that need no torch: the package's own `__init__` imports others that do."""
    package = types.ModuleType("onnxruntime.training")
    found = importlib.util.find_spec("onnxruntime")
    assert found is not None
    assert found.origin is not None
    package.__path__ = [str(Path(found.origin).parent / "training")]
    sys.modules[package.__name__] = package
    from onnxruntime.training import api, artifacts

    return artifacts, api


def make(folder: Path, settings: dict[str, Any]) -> None:
    """Write the artifacts."""
    artifacts, _ = import_training()
    (folder / "artifacts").mkdir()
    artifacts.generate_artifacts(
        onnx.load(folder / "model.onnx"),
        requires_grad=settings["weights"],
        loss=artifacts.LossType.CrossEntropyLoss,
        optimizer={"adamw": artifacts.OptimType.AdamW, "sgd": artifacts.OptimType.SGD}[settings["optimizer"]],
        artifact_directory=str(folder / "artifacts"),
    )


def train(folder: Path, settings: dict[str, Any]) -> None:
    """Train with the artifacts as an app does, on the batches of `settings`, each a list of rows."""
    import onnxruntime

    _, api = import_training()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    made = folder / "artifacts"
    state = api.CheckpointState.load_checkpoint(made / "checkpoint")
    module = api.Module(made / "training_model.onnx", state, made / "eval_model.onnx", session_options=options)
    optimizer = api.Optimizer(made / "optimizer_model.onnx", module)
    optimizer.set_learning_rate(settings["learning_rate"])
    inputs = [np.load(path) for path in sorted(folder.glob("inputs-*.npy"))]
    labels = np.load(folder / "labels.npy")
    module.train()
    for step, rows in enumerate(settings["batches"]):
        module(*(part[rows] for part in inputs), labels[rows])
        if step == 0:
            gradients = {name: state.parameters[name].grad for name in settings["weights"]}
            np.savez(folder / "gradients.npz", **gradients)
        optimizer.step()
        module.lazy_reset_grad()
    np.savez(folder / "weights.npz", **{name: state.parameters[name].data for name in settings["weights"]})
    module.export_model_for_inferencing(folder / "personalised.onnx", [settings["output_name"]])


def reason(error: Exception) -> str:
    """What the runtime says, in one line, without the file and the function of its source that says it."""
    text = " ".join(str(error).split())
    said = re.split(r"Status Message: |was false\. |\[ONNXRuntimeError\] : \d+ : \w+ : ", text)[-1].strip()
    return (said or text)[:LONGEST_REASON]


def main() -> None:
    """Do what the folder's settings say."""
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "settings.json").read_text())
    try:
        make(folder, settings)
        train(folder, settings)
    except Exception as error:  # of gradients that there are none of: the runtime's errors have no common base
        (folder / "failure.txt").write_text(reason(error))


if __name__ == "__main__":
    main()
