"""Train the classifier: prepared sequences in; checkpoint, summary and loss curve out."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from shared.model import Checkpoint, ModelConfig, SequenceClassifier, save_checkpoint
from shared.params import Count, StageParams, read_params
from shared.sequences import Prepared
from shared.stage import StageError, parse_args, rounded, run, write_bytes, write_json

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

VALIDATION_ROWS = 8192  # validated at once: memory stays flat as the split grows


class Params(StageParams):
    """Section `train`."""

    hidden_size: Count
    layers: Count
    bidirectional: bool
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


@torch.inference_mode()
def validate(model: SequenceClassifier, sequences: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over all rows."""
    loss = correct = 0.0
    for x, y in zip(sequences.split(VALIDATION_ROWS), labels.split(VALIDATION_ROWS), strict=True):
        logits = model(x)
        loss += cross_entropy(logits, y, reduction="sum").item()
        correct += (logits.argmax(dim=1) == y).sum().item()
    return loss / len(labels), correct / len(labels)


def train(data: Prepared, params: Params) -> tuple[SequenceClassifier, list[Epoch]]:
    """Fit from scratch with Adam and cross-entropy; equal inputs give equal weights.

    Raises:
        StageError: A loss stops being finite.
    """
    torch.manual_seed(params.seed)
    torch.set_num_threads(params.threads)
    (sequences, labels), validation = (
        (torch.from_numpy(arrays.sequences), torch.from_numpy(arrays.labels))
        for arrays in (data.split("train"), data.split("validation"))
    )
    config = ModelConfig(
        features=data.schema.features,
        time_steps=data.schema.time_steps,
        classes=data.schema.classes,
        hidden_size=params.hidden_size,
        layers=params.layers,
        bidirectional=params.bidirectional,
    )
    model = SequenceClassifier(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=params.learning_rate, fused=True)
    batch_size = min(params.batch_size or len(labels), len(labels))
    steps = params.epochs * math.ceil(len(labels) / batch_size)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if params.schedule == "cosine" else None

    epochs: list[Epoch] = []
    progress = tqdm(range(1, params.epochs + 1), desc="train", unit="epoch", disable=None)
    for epoch in progress:
        train_loss = 0.0
        for x, y in shuffled_batches(sequences, labels, batch_size):
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if scheduler:
                scheduler.step()
            train_loss += loss.item() * len(y) / len(labels)
        epochs.append(Epoch(train_loss, *validate(model, *validation)))
        check_finite(epoch, epochs[-1], optimizer.param_groups[0]["lr"])
        progress.set_postfix(loss=f"{train_loss:.4f}", validation=f"{epochs[-1].validation_loss:.4f}", refresh=False)
    return model.eval(), epochs


def shuffled_batches(sequences: Tensor, labels: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Deal the rows out at random; the order within a full batch makes no difference, so that one is not copied."""
    if batch_size == len(labels):
        yield sequences, labels
    else:
        for rows in torch.randperm(len(labels)).split(batch_size):
            yield sequences[rows], labels[rows]


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
    model, epochs = train(Prepared(args.prepared), params)
    figures = summary(model, epochs)
    save_checkpoint(args.checkpoint, Checkpoint(model, figures))
    write_json(args.summary, figures)
    write_bytes(args.loss, loss_table(epochs).encode())


if __name__ == "__main__":
    run(main)
