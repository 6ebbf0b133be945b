"""Train the classifier: prepared sequences in; checkpoint, summary and loss curve out."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from shared.architectures import ArchitectureParams, Choice
from shared.model import Checkpoint, ModelConfig, SequenceClassifier, save_checkpoint
from shared.params import Count, StageParams, read_params
from shared.sequences import Prepared, Schema, Split
from shared.stage import StageError, parse_args, rounded, run, write_bytes, write_json

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

VALIDATION_ROWS = 8192  # validated at once: memory stays flat as the split grows


class Params(StageParams):
    """Section `train`."""

    standardize: bool
    epochs: Count
    batch_size: Count | None
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "cosine"]
    threads: Count
    seed: int = Field(ge=0)


@dataclass(frozen=True)
class Epoch:
    """Losses of one pass over the training split: the mean while its weights moved, and after it on validation."""

    train_loss: float
    validation_loss: float
    validation_accuracy: float


Rows = tuple[Tensor, Tensor, Tensor | None]
"""Sequences, labels and, of ragged data, lengths."""


def read_rows(data: Prepared, split: Split) -> Rows:
    """The rows of one split, which share the memory of its map."""
    arrays = data.split(split)
    lengths = None if arrays.lengths is None else torch.from_numpy(arrays.lengths)
    return torch.from_numpy(arrays.sequences), torch.from_numpy(arrays.labels), lengths


@torch.inference_mode()
def validate(model: SequenceClassifier, rows: Rows) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over all rows."""
    loss = correct = 0.0
    _, labels, _ = rows
    for start in range(0, len(labels), VALIDATION_ROWS):
        x, y, lengths = pick(rows, slice(start, start + VALIDATION_ROWS))
        logits = model(x, lengths)
        loss += cross_entropy(logits, y, reduction="sum").item()
        correct += (logits.argmax(dim=1) == y).sum().item()
    return loss / len(labels), correct / len(labels)


def build(schema: Schema, params: Params, architecture: Choice) -> SequenceClassifier:
    """An untrained classifier for the data."""
    model = SequenceClassifier(
        ModelConfig(
            features=schema.features,
            time_steps=schema.time_steps,
            classes=schema.classes,
            ragged=schema.ragged,
            standardize=params.standardize,
            architecture=architecture.name,
            options=architecture.options,
        )
    )
    if params.standardize:
        model.set_standardization(schema.mean, schema.deviation)
    return model


def train(data: Prepared, params: Params, architecture: Choice) -> tuple[SequenceClassifier, list[Epoch]]:
    """Fit from scratch with Adam and cross-entropy; equal inputs give equal weights.

    Raises:
        StageError: A loss stops being finite.
    """
    torch.manual_seed(params.seed)
    torch.set_num_threads(params.threads)
    rows, validation = read_rows(data, "train"), read_rows(data, "validation")
    labels = rows[1]
    model = build(data.schema, params, architecture)
    optimizer = torch.optim.Adam(model.parameters(), lr=params.learning_rate, fused=True)
    batch_size = min(params.batch_size or len(labels), len(labels))
    steps = params.epochs * math.ceil(len(labels) / batch_size)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if params.schedule == "cosine" else None

    epochs: list[Epoch] = []
    progress = tqdm(range(1, params.epochs + 1), desc="train", unit="epoch", disable=None)
    for epoch in progress:
        train_loss = 0.0
        for x, y, lengths in shuffled_batches(rows, batch_size):
            loss = cross_entropy(model(x, lengths), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if scheduler:
                scheduler.step()
            train_loss += loss.item() * len(y) / len(labels)
        epochs.append(Epoch(train_loss, *validate(model, validation)))
        check_finite(epoch, epochs[-1], optimizer.param_groups[0]["lr"])
        progress.set_postfix(loss=f"{train_loss:.4f}", validation=f"{epochs[-1].validation_loss:.4f}", refresh=False)
    return model.eval(), epochs


def shuffled_batches(rows: Rows, batch_size: int) -> Iterator[Rows]:
    """Deal the rows out at random; the order within a full batch makes no difference, so that one is not copied."""
    count = len(rows[1])
    if batch_size == count:
        yield rows
    else:
        for chosen in torch.randperm(count).split(batch_size):
            yield pick(rows, chosen)


def pick(rows: Rows, chosen: Tensor | slice) -> Rows:
    """Some of the rows."""
    sequences, labels, lengths = rows
    return sequences[chosen], labels[chosen], None if lengths is None else lengths[chosen]


def check_finite(number: int, epoch: Epoch, learning_rate: float) -> None:
    """Stop a run that has diverged.

    Raises:
        StageError: It names the epoch and the learning rate.
    """
    for name, loss in (("training", epoch.train_loss), ("validation", epoch.validation_loss)):
        if not math.isfinite(loss):
            raise StageError(
                f"epoch {number}: the {name} loss is {loss} at learning rate {learning_rate:g}; "
                "lower train.learning_rate or look for extreme values in the table"
            )


def summary(model: SequenceClassifier, epochs: list[Epoch]) -> dict[str, float]:
    """The figures of the last epoch, as they go into the metrics and into the exported files."""
    last = epochs[-1]
    return {
        "epochs": len(epochs),
        "train_loss": rounded(last.train_loss),
        "validation_loss": rounded(last.validation_loss),
        "validation_accuracy": rounded(last.validation_accuracy),
        "weights": sum(parameter.numel() for parameter in model.parameters()),
    }


def loss_table(epochs: list[Epoch]) -> str:
    """The loss curve as CSV."""
    rows = [
        f"{number},{rounded(epoch.train_loss)},{rounded(epoch.validation_loss)}"
        for number, epoch in enumerate(epochs, 1)
    ]
    return "\n".join(["epoch,train_loss,validation_loss", *rows, ""])


def main() -> None:
    """Read the arguments and the parameters; train; write the checkpoint and the metrics."""
    args = parse_args(
        __doc__,
        inputs={"prepared": "the folder of prepared arrays"},
        outputs={"checkpoint": "the trained model", "summary": "its figures (JSON)", "loss": "its loss curve (CSV)"},
    )
    params = read_params("train", Params)
    architecture = read_params("architecture", ArchitectureParams)
    model, epochs = train(Prepared(args.prepared), params, architecture)
    figures = summary(model, epochs)
    save_checkpoint(args.checkpoint, Checkpoint(model, figures))
    write_json(args.summary, figures)
    write_bytes(args.loss, loss_table(epochs).encode())


if __name__ == "__main__":
    run(main)
