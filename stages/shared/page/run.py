"""What the stages found in one run, read and put in order: all that the page shows."""

import argparse
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from shared.data.sequences import Prepared, Schema
from shared.files.formats import EXPORTED, REFERENCE
from shared.judging.limits import VerifyParams
from shared.judging.recommendation import DEVICES, Candidate, Choice, Target, choose, collect, object_to_source
from shared.judging.uncertainty import loss_in_words
from shared.kit.stage import read_json, read_table

Figures = dict[str, Any]

INPUTS = {
    "prepared": "the folder of prepared arrays",
    "predictions": "the folder of PyTorch's logits and records",
    "training": "the figures of training (JSON)",
    "loss": "the loss curve (CSV)",
    "evaluation": "what each file is worth (JSON)",
    "confusion": "PyTorch's confusion table (CSV)",
    "verification": "how far each file is from PyTorch (JSON)",
    "parity": "the histogram of every file's errors (CSV)",
    "flips": "the clearest flips of every file (CSV)",
    "sizes": "the facts of each file (JSON)",
    "speeds": "the timings of each file (JSON)",
}
"""What a run is read from, in the order of the command line."""


class Epoch(NamedTuple):
    """A row of the loss curve."""

    epoch: int
    train_loss: float
    validation_loss: float


class Pair(NamedTuple):
    """How many rows of the test split are of one class, and PyTorch's net names another, or the same."""

    actual: str
    predicted: str
    rows: int


class Bin(NamedTuple):
    """How many of a file's logits are from `low` to below `high` away from PyTorch's."""

    format: str
    variant: str
    low: float
    high: float
    logits: int


class Flip(NamedTuple):
    """A row that gets another class from a file than from PyTorch, whose two best logits are `margin` apart."""

    format: str
    variant: str
    actual: str
    pytorch: str
    predicted: str
    row: int
    margin: float


OfFile = TypeVar("OfFile", Bin, Flip)


@dataclass(frozen=True)
class Run:
    """One run of the pipeline.

    Attributes:
        schema: Of the prepared data.
        training: The figures of training.
        loss: Of each epoch.
        confusion: Of each pair of classes: PyTorch on the test split.
        parity: The histogram of every file's errors.
        flips: The clearest of every file.
        record: How PyTorch itself was executed: what was asked beside the test split, and its answers.
        benchmark: `machine`, and the timings of `files`.
        candidates: Every file, PyTorch first, and in each format the largest first.
        targets: The classes of devices that a file is recommended to.
        limits: What a right file may cost on the task.
        parameters: All sections of params.yaml.
    """

    schema: Schema
    training: Figures
    loss: list[Epoch]
    confusion: list[Pair]
    parity: list[Bin]
    flips: list[Flip]
    record: Figures
    benchmark: Figures
    candidates: list[Candidate]
    targets: list[Target]
    limits: VerifyParams
    parameters: dict[str, Figures]

    @property
    def reference(self) -> Candidate:
        """PyTorch itself, which all others are compared with."""
        return self.candidates[0]

    @cached_property
    def exported(self) -> list[Candidate]:
        """All but PyTorch."""
        return [file for file in self.candidates if file.format in EXPORTED]

    @cached_property
    def choices(self) -> list[Choice]:
        """What to ship to each class of devices that there is a file for."""
        formats = {file.format for file in self.exported}
        return [choose(self.exported, target) for target in self.targets if target.format in formats]

    @cached_property
    def best(self) -> list[Candidate]:
        """The recommended files."""
        return [choice.best for choice in self.choices if choice.best]

    @property
    def against_all(self) -> str | None:
        """Why no file can be recommended, in a sentence; None if one can."""
        assert self.reference.task
        return object_to_source(self.reference.task)

    @property
    def elsewhere(self) -> list[tuple[str, str]]:
        """What the executors that stand for devices could not show: how it is marked, and in a sentence."""
        sentences = []
        for name, devices in DEVICES.items():
            found = [(file.file, file.elsewhere[name]) for file in self.exported if name in file.elsewhere]
            failed = [file for file, figures in found if not figures.get("passed", True)]
            if failed:
                sentences.append(("warn", f"✗ Not right in {devices}: {', '.join(failed)}."))
            reasons = dict.fromkeys(figures["left_out"] for _, figures in found if "left_out" in figures)
            sentences += [("soft", f"Nothing was run as {devices} do: {reason}.") for reason in reasons]
        return sentences

    def accuracy_limit(self, file_format: str) -> float | None:
        """How much accuracy a format's files may lose; None if as much as they like."""
        return self.limits.allowed(self.limits.accuracy_loss, file_format)

    def recall_limit(self, file_format: str) -> float | None:
        """How much recall they may lose in any class; None if as much as they like."""
        return self.limits.allowed(self.limits.recall_loss, file_format)

    def loss_in_words(self, file: Candidate) -> str | None:
        """What the test split can tell of a file's loss, as the rest of a sentence; None if nobody compared it."""
        interval = file.task and file.task.get("accuracy_loss_interval")
        return loss_in_words(tuple(interval), self.schema.rows["test"]) if interval else None

    def in_order(self, table: list[OfFile]) -> list[OfFile]:
        """A table's rows in the order of the files that they are of."""
        rank = {(file.format, file.variant): index for index, file in enumerate(self.exported)}
        return sorted(table, key=lambda row: rank.get((row.format, row.variant), len(rank)))


def read_run(
    args: argparse.Namespace, targets: list[Target], limits: VerifyParams, parameters: dict[str, Figures]
) -> Run:
    """Read everything.

    Args:
        args: A path for each of `INPUTS`.
        targets: The classes of devices that a file is recommended to.
        limits: What a right file may cost on the task.
        parameters: All sections of params.yaml.

    Raises:
        StageError: A file is not what its stage writes.
    """
    schema = Prepared(args.prepared).schema
    benchmark = read_json(args.speeds)
    evaluation, verification, sizes = (read_json(path) for path in (args.evaluation, args.verification, args.sizes))
    return Run(
        schema=schema,
        training=read_json(args.training),
        loss=read_table(args.loss, Epoch),
        confusion=read_table(args.confusion, Pair),
        parity=read_table(args.parity, Bin),
        flips=read_table(args.flips, Flip),
        record=read_json(args.predictions / f"{REFERENCE[1]}.json"),
        benchmark=benchmark,
        candidates=collect(evaluation, verification, sizes, benchmark["files"]),
        targets=targets,
        limits=limits,
        parameters=parameters,
    )
