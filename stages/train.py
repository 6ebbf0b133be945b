"""Train the classifier: prepared sequences in; checkpoint, summary and loss curve out.

Under `torchrun`, several processes share each batch. A run that was interrupted goes on from the state that it last
wrote, in a hidden file beside the checkpoint, and ends in the bytes of an uninterrupted one.
"""

import math
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from shared.data.sequences import Prepared, Schema
from shared.kit.params import Count, Seed, StageParams, Threads, read_params
from shared.kit.stage import StageError, parse_args, reading, replacing, rounded, run, write_metrics
from shared.network.architectures import ArchitectureParams, Choice
from shared.network.model import Checkpoint, ModelConfig, SequenceClassifier, save_checkpoint
from shared.training.batches import Batches
from shared.training.devices import ALONE, DeviceName, Processes, open_processes
from shared.training.optimizers import Optimizer, OptimizerName
from shared.training.resume import ResumeFile, hash_files, hash_sources, state_path

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

VALIDATION_ROWS = 8192  # validated at once


class Params(StageParams):
    """Section `train`."""

    standardize: bool
    epochs: Count
    batch_size: Count | None
    optimizer: OptimizerName
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "cosine", "linear"]
    warmup: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    momentum: float = Field(ge=0, lt=1)
    gradient_clip: float | None = Field(gt=0)
    class_weights: Literal["balanced"] | list[float] | None
    label_smoothing: float = Field(ge=0, lt=1)
    early_stopping: Count | None
    keep: Literal["last", "best"]
    device: DeviceName
    mixed_precision: Literal["bfloat16", "float16"] | None
    threads: Threads
    seed: Seed
    checkpoint_seconds: float = Field(gt=0)

    @field_validator("momentum")
    @classmethod
    def _of_sgd(cls, momentum: float, info: ValidationInfo) -> float:
        optimizer = info.data.get("optimizer", "sgd")
        if momentum and optimizer != "sgd":
            raise ValueError(f"should be 0 with optimizer {optimizer}, which has its own; it belongs to sgd")
        return momentum


@dataclass(frozen=True)
class Epoch:
    """Cross-entropy of one pass over the training split: the mean while its weights moved, and after it on validation.

    Of both the plain one: every row counts alike, and for its own class alone.
    """

    train_loss: float
    validation_loss: float
    validation_accuracy: float


class Fit:
    """What training changes as it goes: all that a later process needs to go on from here.

    Attributes:
        epochs: Those that are complete.
        step: Number of steps done in the one that is under way.
        loss_sum: The losses of its rows so far. It lies on the device, so that no step waits for it.
        best: The weights after the epoch with the lowest validation loss, if they are to be kept.
    """

    def __init__(self, model: SequenceClassifier, params: Params, device: torch.device) -> None:
        self.model = model.to(device)
        self.optimizer = Optimizer(model.parameters(), params.optimizer, params.weight_decay, params.momentum)
        # Typed for torch.optim's optimisers, it takes any that has their `param_groups` and `step`.
        self.scaler: Any = torch.amp.GradScaler(device.type, enabled=params.mixed_precision == "float16")
        self.epochs: list[Epoch] = []
        self.step = 0
        self.loss_sum = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        self.best: dict[str, Tensor] = {}

    def end_step(self, mean_loss: Tensor, weight: float) -> None:
        """Count a step."""
        self.loss_sum.add_(mean_loss, alpha=weight)
        self.step += 1

    def end_epoch(self, epoch: Epoch, keep: str) -> None:
        """Count an epoch; remember its weights if they are the best so far."""
        self.epochs.append(epoch)
        self.step = 0
        self.loss_sum.zero_()
        if keep == "best" and best(self.epochs) == len(self.epochs) - 1:
            self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def state(self, processes: Processes) -> dict[str, Any]:
        """Plain data and tensors, for `restore`. What is drawn at random follows from the seed and the step alone."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state(),
            "scaler": self.scaler.state_dict(),
            "epochs": [astuple(epoch) for epoch in self.epochs],
            "step": self.step,
            "loss_sums": processes.gather(self.loss_sum),
            "best": self.best,
        }

    def restore(self, state: dict[str, Any], processes: Processes) -> None:
        """Go on from a state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.restore(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epochs = [Epoch(*figures) for figures in state["epochs"]]
        self.step = state["step"]
        self.loss_sum.copy_(state["loss_sums"][processes.rank])
        self.best = state["best"]


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


def learning_rate(step: int, steps: int, params: Params) -> float:
    """The learning rate of a step, counted from 0: rising in a line during warm-up, then as the schedule says."""
    warmup = round(params.warmup * steps)
    if step < warmup:
        return params.learning_rate * (step + 1) / warmup
    if params.schedule == "constant":
        return params.learning_rate
    progress = (step - warmup) / (steps - warmup)
    return params.learning_rate * (
        1 - progress if params.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    )


def weigh_classes(choice: Literal["balanced"] | list[float] | None, schema: Schema) -> list[float] | None:
    """How much a row of each class counts in the training loss (None: alike); balanced as scikit-learn does it.

    Raises:
        StageError: A weight is missing or not positive, or a class has no row to balance by.
    """
    rows = schema.class_rows["train"]
    if choice is None:
        return None
    if choice == "balanced":
        if 0 in rows:
            missing = schema.classes[rows.index(0)]
            raise StageError(f"train.class_weights = balanced: class {missing!r} has no row in the training split")
        choice = [sum(rows) / (len(rows) * count) for count in rows]
    if len(choice) != len(rows) or min(choice) <= 0:
        raise StageError(
            f"train.class_weights = {choice}: should be a number above 0 for each of {', '.join(schema.classes)}"
        )
    return choice


def check_hardware(params: Params, batch_size: int, processes: Processes) -> None:
    """Refuse what the device or the processes cannot do.

    Raises:
        StageError: Mixed precision without a GPU that has it, or more processes than rows in a batch.
    """
    kind = processes.device.type
    if params.mixed_precision and kind == "cpu":
        raise StageError(f"train.mixed_precision = {params.mixed_precision}: needs a GPU, and train.device is cpu")
    if params.mixed_precision == "bfloat16" and kind == "cuda" and not torch.cuda.is_bf16_supported():
        raise StageError("train.mixed_precision = bfloat16: this GPU does not have it; use float16")
    if processes.count > batch_size:
        raise StageError(f"{processes.count} processes cannot share batches of {batch_size} rows (train.batch_size)")


@torch.inference_mode()
def validate(model: SequenceClassifier, batches: Batches, processes: Processes) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over all rows, in full precision."""
    model.eval()
    loss = correct = 0.0
    for batch in batches.epoch(0):
        logits = model(*batch.inputs)
        loss += cross_entropy(logits, batch.labels, reduction="sum").item()
        correct += (logits.argmax(dim=1) == batch.labels).sum().item()
    model.train()
    if processes.count > 1:
        loss, correct = processes.sum(torch.tensor([loss, correct], dtype=torch.float64)).tolist()
    return loss / batches.rows, correct / batches.rows


def train(
    data: Prepared,
    params: Params,
    architecture: Choice,
    processes: Processes = ALONE,
    resume: ResumeFile | None = None,
    told: Callable[[int, Epoch], None] = lambda *_: None,
) -> tuple[SequenceClassifier, list[Epoch]]:
    """Fit from scratch, or from the state that an interrupted run left; equal inputs give equal weights.

    The loss of a step is the mean cross-entropy of the batch's rows, in whichever process each is, weighted by class.
    `told` hears of every epoch, counted from 1, when it is complete; of those of an interrupted run at once.

    Raises:
        StageError: The parameters do not suit the data, the device or the processes, or a loss stops being finite.
    """
    torch.manual_seed(params.seed)
    torch.set_num_threads(params.threads)
    device = processes.device
    class_weights = weigh_classes(params.class_weights, data.schema)
    weights = None if class_weights is None else torch.tensor(class_weights, device=device)
    batches = Batches(data.split("train"), params.batch_size, processes, seed=params.seed, class_weights=class_weights)
    validation = Batches(data.split("validation"), VALIDATION_ROWS, processes, seed=None)
    check_hardware(params, batches.batch_size, processes)
    fit = Fit(build(data.schema, params, architecture), params, device)
    if resume and (state := resume.read()):
        with reading(resume.path, "state of this training", "; delete it to begin anew"):
            fit.restore(state, processes)
        for number, epoch in enumerate(fit.epochs, 1):
            told(number, epoch)
    model = processes.replicate(fit.model)
    precision: AbstractContextManager[Any] = nullcontext()
    if params.mixed_precision is not None:
        precision = torch.autocast(device.type, dtype=getattr(torch, params.mixed_precision))
    steps = params.epochs * len(batches)
    altered = weights is not None or params.label_smoothing > 0
    progress = tqdm(
        desc="train", unit="seq", unit_scale=True, disable=None if processes.rank == 0 else True,
        total=params.epochs * batches.rows, initial=len(fit.epochs) * batches.rows + fit.step * batches.batch_size,
    )  # fmt: skip

    while len(fit.epochs) < params.epochs and not out_of_patience(fit.epochs, params.early_stopping):
        for batch in batches.epoch(len(fit.epochs), fit.step):
            step = len(fit.epochs) * len(batches) + fit.step
            processes.seed(params.seed, step)
            fit.optimizer.learning_rate = learning_rate(step, steps, params)
            with precision:
                logits = model(*batch.inputs)
            losses = cross_entropy(
                logits.float(), batch.labels, weights, reduction="sum", label_smoothing=params.label_smoothing
            )
            loss = losses / (batch.weight / processes.count)  # whose gradients are averaged
            rows = batch.rows / processes.count
            # What is reported is as on validation: alike for all rows, whatever the optimiser is given.
            plain = loss if not altered else cross_entropy(logits.float(), batch.labels, reduction="sum") / rows
            fit.optimizer.zero_grad()
            fit.scaler.scale(loss).backward()
            if params.gradient_clip is not None:
                fit.scaler.unscale_(fit.optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), params.gradient_clip)
            fit.scaler.step(fit.optimizer)
            fit.scaler.update()
            fit.end_step(plain.detach(), rows)
            progress.update(batch.rows)
            if resume and resume.due():
                resume.write(fit.state(processes))
        train_loss = processes.sum(fit.loss_sum).item() / batches.rows
        epoch = Epoch(train_loss, *validate(fit.model, validation, processes))
        check_finite(len(fit.epochs) + 1, epoch, fit.optimizer.learning_rate)
        fit.end_epoch(epoch, params.keep)
        told(len(fit.epochs), epoch)
        if not progress.disable:
            progress.set_postfix(
                epoch=f"{len(fit.epochs)}/{params.epochs}",
                loss=f"{epoch.train_loss:.4f}",
                validation=f"{epoch.validation_loss:.4f}",
                refresh=False,
            )
    progress.close()
    if fit.best:
        fit.model.load_state_dict(fit.best)
    return fit.model.eval(), fit.epochs


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


def best(epochs: list[Epoch]) -> int:
    """The index of the epoch with the lowest validation loss: the first one, if there are several."""
    return min(range(len(epochs)), key=lambda index: epochs[index].validation_loss)


def out_of_patience(epochs: list[Epoch], patience: int | None) -> bool:
    """Whether so many epochs have passed since the best one."""
    return patience is not None and bool(epochs) and len(epochs) - 1 - best(epochs) >= patience


def summary(model: SequenceClassifier, epochs: list[Epoch], keep: str) -> dict[str, float]:
    """The figures of the epoch that the weights are of, as they go into the metrics and into the exported files."""
    index = best(epochs) if keep == "best" else len(epochs) - 1
    return {
        "epochs": index + 1,
        "train_loss": rounded(epochs[index].train_loss),
        "validation_loss": rounded(epochs[index].validation_loss),
        "validation_accuracy": rounded(epochs[index].validation_accuracy),
        "weights": sum(parameter.numel() for parameter in model.parameters()),
    }


@contextmanager
def loss_table(path: Path) -> Iterator[Callable[[int, Epoch], None]]:
    """Yield what adds an epoch to the loss curve (CSV), which can be followed beside its place until it is complete."""
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as table:

        def add(number: int, epoch: Epoch) -> None:
            table.write(f"{number},{rounded(epoch.train_loss)},{rounded(epoch.validation_loss)}\n")
            table.flush()

        table.write("epoch,train_loss,validation_loss\n")
        yield add


def fingerprint(data: Prepared, params: Params, architecture: Choice, processes: Processes) -> dict[str, str]:
    """What the trained weights depend on: a state made from anything else is not gone on from."""
    device = processes.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "parameters": f"{params.model_dump(exclude={'checkpoint_seconds'})} {architecture.name} {architecture.options}",
        "data": hash_files(sorted(path for path in data.folder.iterdir() if not path.name.startswith("test"))),
        "code": hash_sources(),
        "hardware or libraries": f"{processes.count} processes, {device.type}, {name}, torch {torch.__version__}",
    }


def main() -> None:
    """Read the arguments and the parameters; train; write the checkpoint and the metrics."""
    args = parse_args(
        __doc__,
        inputs={"prepared": "the folder of prepared arrays"},
        outputs={"checkpoint": "the trained model", "summary": "its figures (JSON)", "loss": "its loss curve (CSV)"},
    )
    params = read_params("train", Params)
    architecture = read_params("architecture", ArchitectureParams)
    data = Prepared(args.prepared)
    with open_processes(params.device) as processes:
        state_file = state_path(args.checkpoint)
        inputs = fingerprint(data, params, architecture, processes) if processes.rank == 0 else {}
        resume = ResumeFile(state_file, inputs, params.checkpoint_seconds, processes)
        if processes.rank == 0:
            with loss_table(args.loss) as told:
                model, epochs = train(data, params, architecture, processes, resume, told)
                figures = summary(model, epochs, params.keep)
                save_checkpoint(args.checkpoint, Checkpoint(model.cpu(), figures))
                write_metrics(args.summary, figures)
            resume.remove()
        else:
            train(data, params, architecture, processes, resume)


if __name__ == "__main__":
    run(main)
