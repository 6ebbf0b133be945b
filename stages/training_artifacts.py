"""Make what an app trains the classifier further with: checkpoint in; ONNX Runtime's training artifacts and proofs out.

    training_model.onnx    forward, cross-entropy and gradients
    eval_model.onnx        forward and cross-entropy
    optimizer_model.onnx   one step of the optimizer, whose name is the folder's: adamw or sgd
    checkpoint             every weight, under its name in PyTorch
    trial/                 a net that was trained further with them: a checkpoint, and the ONNX file that an app exports

They are made and tried by ONNX Runtime's training package, in an environment of its own that uv keeps. The gradients of
the first batch are held to PyTorch's. Then the artifacts are trained on the training split as a sensor of another gain
and offset would have measured it, and must do better on the test split of that sensor than before; and the ONNX file
that comes back must hold the trained weights and compute what PyTorch computes with them, as `verify` judges any
float32 file.

Off by default: `training_artifacts.optimizers` is empty.
"""

import copy
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from shared.conversion.export import ExportParams
from shared.data.sequences import Prepared, SplitArrays, read_rows
from shared.device_training.environment import find_uv, run_in_environment
from shared.device_training.trainable import export_trainable
from shared.device_training.trial import deal, shifted, worth
from shared.execution.runtimes import Floats, open_runtime
from shared.judging.inside import FormatJudge, load_net
from shared.judging.parity import compare, measure
from shared.judging.twin import BATCH, batched
from shared.kit.params import Count, Seed, StageParams, read_params
from shared.kit.stage import StageError, parse_args, replacing, rounded, run, write_metrics
from shared.network.model import Checkpoint, SequenceClassifier, load_checkpoint, save_checkpoint

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

Tensors = dict[str, NDArray[np.float32]]
"""By the names of the weights."""

CHECKPOINT, RETURNED = Path("pytorch", "classifier.pt"), Path("onnx", "classifier-fp32.onnx")
"""Of the trial: in the folders and with the names that `predict` and `verify` take."""

GRADIENT_ERROR = 2e-5
"""How far a gradient may be from PyTorch's, relative to the largest of its tensor; rounding alone takes it to 1e-6."""
SMALL_GRADIENT = 1e-3
"""Of the largest gradient of all: what a tensor is measured by whose own are smaller, or zero but for rounding."""


class Params(StageParams):
    """Section `training_artifacts`: what is made, and how the trial trains; an app chooses for itself."""

    optimizers: list[Literal["adamw", "sgd"]]
    epochs: Count
    batch_size: Count
    learning_rate: float = Field(gt=0)
    seed: Seed


def torch_gradients(model: SequenceClassifier, rows: SplitArrays) -> Tensors:
    """The gradients of the mean cross-entropy of some rows, by the names of the weights; nothing is dropped out."""
    trained = copy.deepcopy(model).eval()
    inputs = [torch.from_numpy(part) for part in (rows.sequences, rows.lengths) if part is not None]
    torch.nn.functional.cross_entropy(trained(*inputs), torch.from_numpy(rows.labels)).backward()
    return {
        name: (torch.zeros_like(weight) if weight.grad is None else weight.grad).numpy()
        for name, weight in trained.named_parameters()
    }


def gradient_error(found: Tensors, expected: Tensors) -> float:
    """The largest difference of a gradient, relative to the largest of its tensor.

    Raises:
        StageError: It is more than `GRADIENT_ERROR`; the message names the weight.
    """
    smallest = SMALL_GRADIENT * max(float(np.abs(gradient).max()) for gradient in expected.values())
    errors = {
        name: float(np.abs(found[name].reshape(gradient.shape) - gradient).max())
        / max(float(np.abs(gradient).max()), smallest)
        for name, gradient in expected.items()
    }
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= GRADIENT_ERROR:
        raise StageError(
            f"the gradient of {worst} is off by {errors[worst]:.3g} from PyTorch's, relative to its largest; "
            f"allowed: {GRADIENT_ERROR}"
        )
    return errors[worst]


def logits_of(path: Path, rows: SplitArrays) -> Floats:
    """What a file of any format makes of some rows."""
    return batched(open_runtime(path).logits, rows.sequences, rows.lengths, BATCH).astype(np.float32)


def prove_returned(folder: Path, test: SplitArrays) -> dict[str, Any]:
    """Judge the personalised net as `verify` judges a float32 file; return its figures.

    Raises:
        StageError: A weight is not in the ONNX file, or it computes something else than PyTorch.
    """
    checkpoint, onnx_file = folder / CHECKPOINT, folder / RETURNED
    expected = logits_of(checkpoint, test)
    scale = measure(expected)
    figures = compare(logits_of(onnx_file, test), expected, scale).figures
    judge = FormatJudge(onnx_file, load_net(checkpoint, test, scale), scale)
    inside = judge.judge_export(onnx_file, figures["worst_class_error"], figures["largest_error"])
    if inside.problems:
        raise StageError(f"the personalised ONNX file is wrong: {'; '.join(inside.problems)}")
    return inside.figures


def read_tensors(path: Path) -> Tensors:
    """Arrays by name."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def personalised(checkpoint: Checkpoint, weights: Tensors) -> Checkpoint:
    """The net with the weights that came back."""
    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.from_numpy(weights[name]).reshape(weight.shape))
    return Checkpoint(model.eval(), checkpoint.training)


def make(
    folder: Path, checkpoint: Checkpoint, train: SplitArrays, names: ExportParams, optimizer: str, params: Params
) -> list[NDArray[np.int_]]:
    """Make the artifacts and train with them in a folder, in their own environment; return the rows of each batch.

    Raises:
        StageError: The net cannot be exported, or has an operation that the training package knows no gradient of.
    """
    batches = deal(len(train.labels), params.batch_size, params.epochs, params.seed)
    (folder / "model.onnx").write_bytes(export_trainable(checkpoint, names))
    for index, part in enumerate(part for part in (train.sequences, train.lengths) if part is not None):
        np.save(folder / f"inputs-{index}.npy", part)
    np.save(folder / "labels.npy", train.labels)
    settings = {
        "weights": [name for name, _ in checkpoint.model.named_parameters()],
        "optimizer": optimizer,
        "learning_rate": params.learning_rate,
        "batches": [rows.tolist() for rows in batches],
        "output_name": names.output_name,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    run_in_environment(folder)
    failure = folder / "failure.txt"
    if failure.exists():
        raise StageError(
            f"ONNX Runtime 1.19.2 cannot train architecture {checkpoint.model.config.architecture!r} with its options: "
            f"{failure.read_text()}; or training_artifacts.optimizers: []"
        )
    return batches


def main() -> None:
    """Read the arguments and the parameters; write the artifacts and the figures of the trial."""
    args = parse_args(
        __doc__,
        inputs={"prepared": "the folder of prepared arrays", "checkpoint": "the trained model"},
        outputs={
            "artifacts": "the folder of the artifacts, named after the optimizer",
            "figures": "the trial's (JSON)",
        },
    )
    names = read_params("export", ExportParams)
    params = read_params("training_artifacts", Params)
    optimizer = args.artifacts.name
    if optimizer not in ("adamw", "sgd"):
        raise StageError(f"{args.artifacts}: {optimizer!r} is no optimizer; allowed: adamw, sgd")
    find_uv()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(args.checkpoint)
    data = Prepared(args.prepared)
    train, test = shifted(data, "train"), shifted(data, "test")
    with tempfile.TemporaryDirectory() as name, replacing(args.artifacts) as made:
        folder = Path(name)
        batches = make(folder, checkpoint, train, names, optimizer, params)
        gradients = torch_gradients(checkpoint.model, read_rows(train, batches[0]))
        error = gradient_error(read_tensors(folder / "gradients.npz"), gradients)
        shutil.copytree(folder / "artifacts", made)
        trial = made / "trial"
        for file_format in ("pytorch", "onnx"):
            (trial / file_format).mkdir(parents=True)
        save_checkpoint(trial / CHECKPOINT, personalised(checkpoint, read_tensors(folder / "weights.npz")))
        shutil.copyfile(folder / "personalised.onnx", trial / RETURNED)
        returned = prove_returned(trial, test)
        before = worth(logits_of(args.checkpoint, test), test.labels)
        after = worth(logits_of(trial / RETURNED, test), test.labels)
        if not after.loss < before.loss:
            raise StageError(
                f"the trial has not lowered the loss on the other sensor's rows: {before.loss:.4g} before, "
                f"{after.loss:.4g} after; try another training_artifacts.learning_rate or more epochs"
            )
        figures = {
            "gradient_error": rounded(error, 2),
            "steps": len(batches),
            "accuracy": {"before": rounded(before.accuracy), "after": rounded(after.accuracy)},
            "loss": {"before": rounded(before.loss), "after": rounded(after.loss)},
            "returned": {key: returned[key] for key in ("graph_error", "graph_bound")},
            "bytes": {file.name: file.stat().st_size for file in sorted(made.iterdir()) if file.is_file()},
        }
    write_metrics(args.figures, figures)


if __name__ == "__main__":
    run(main)
