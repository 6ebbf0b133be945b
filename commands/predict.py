"""Ask a model file for the class of sequences: numbers in; class and probabilities out.

The numbers of a sequence are given time step by time step, and in a step feature by feature:

    python commands/predict.py 5 1 2 3 2 1
    python commands/predict.py --csv sequences.csv --json
    python commands/predict.py --model models/coreml/classifier-fp16.mlpackage < sequences.csv

A table (--csv, or the standard input where there are no numbers) has a row a sequence, of as many numbers. A first row
of names such as x0 or ax.0 (feature and step) says which is which; columns of no feature are left out. Where sequences
differ in length, a row may be shorter, or its last cells empty.
"""

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "stages"))

from shared.kit import end_in_one_line  # noqa: E402 - after the path to it

if __name__ == "__main__":
    end_in_one_line()

from shared.execution.interface import Interface  # noqa: E402
from shared.execution.runtimes import Floats, Lengths, Runtime, open_runtime  # noqa: E402
from shared.kit.stage import StageError, one_line, run  # noqa: E402
from shared.kit.text import printable, printable_json  # noqa: E402

import numpy as np  # noqa: E402
from tabulate import tabulate  # noqa: E402

DEFAULT_MODEL = Path("models/onnx/classifier-fp32.onnx")
BATCH_ROWS = 256
LARGEST = float(np.finfo(np.float32).max)

Row = tuple[str, list[str]]
"""Where it stands, for messages, and its cells."""


def read_rows(lines: Iterable[str], name: str, features: list[str]) -> Iterator[Row]:
    """The rows of a table as CSV, each in the order of time steps and features.

    Raises:
        StageError: It is no CSV, or its first row names columns, and not those of every feature and step.
    """
    columns: list[int] | None = None
    try:
        for number, cells in enumerate(csv.reader(lines), start=1):
            if number == 1 and any(cell.strip() and not is_number(cell) for cell in cells):
                from shared.data.tables import find_wide_features

                _, ordered = find_wide_features(cells, features, Path(name))
                columns = [cells.index(column) for column in ordered]
            elif columns is not None and cells and len(cells) <= max(columns):
                raise StageError(f"{name}, line {number}: {len(cells)} cells; the first row names {max(columns) + 1}")
            elif cells:
                yield f"{name}, line {number}", cells if columns is None else [cells[index] for index in columns]
    except (csv.Error, UnicodeDecodeError) as error:
        raise StageError(f"{name}: not a table of comma-separated values: {one_line(error)}") from None


def is_number(cell: str) -> bool:
    """Whether a cell holds a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def to_sequence(row: Row, features: int) -> Floats:
    """The numbers of a row: (steps, features). Empty cells at its end are no part of it.

    Raises:
        StageError: A cell holds no number, or the numbers are no whole number of time steps.
    """
    place, cells = row
    while cells and not cells[-1].strip():
        cells = cells[:-1]
    for index, cell in enumerate(cells, start=1):
        if not is_number(cell) or not abs(float(cell)) <= LARGEST:
            raise StageError(f"{place}: value {index} is {cell!r}; expected a number within float32's range")
    if not cells or len(cells) % features:
        raise StageError(
            f"{place}: {len(cells)} numbers; expected {features} for each time step, one a feature of the model"
        )
    return np.array(cells, dtype=np.float64).astype(np.float32).reshape(-1, features)


def check_steps(place: str, steps: int, runtime: Runtime) -> None:
    """Refuse a number of time steps that the file does not take.

    Raises:
        StageError: It is another than the file's, or above its largest.
    """
    interface = runtime.interface
    fixed = None if interface.dynamic_time else interface.input_axes[1]
    ragged = interface.takes_lengths
    if isinstance(fixed, int) and (steps > fixed or (steps < fixed and not ragged)):
        allowed = f"{'1 to ' if ragged else ''}{fixed}"
        raise StageError(f"{place}: {steps} time steps; the model takes {allowed}")
    if interface.largest_time is not None and steps > interface.largest_time:
        raise StageError(f"{place}: {steps} time steps; the model takes up to {interface.largest_time}")


def to_batch(sequences: list[Floats], runtime: Runtime) -> tuple[Floats, Lengths | None]:
    """Sequences as the file takes them: padded with zeros to the file's time steps, or to the longest of them."""
    axis = runtime.interface.input_axes[1]
    steps = max(map(len, sequences)) if runtime.interface.dynamic_time or not isinstance(axis, int) else axis
    batch = np.zeros((len(sequences), steps, sequences[0].shape[1]), dtype=np.float32)
    for padded, sequence in zip(batch, sequences, strict=True):
        padded[: len(sequence)] = sequence
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int32)
    return batch, lengths if runtime.interface.takes_lengths else None


def softmax(logits: Floats) -> Floats:
    """Probabilities (batch, classes) of logits (batch, classes)."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares: Floats = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def predict(rows: Iterable[Row], runtime: Runtime) -> Iterator[dict[str, Any]]:
    """The class of each row, with every class's probability and logit.

    Rows of one number of time steps are computed together, others apart where the file takes no lengths; one by one
    where a row's logits depend on the rest of its batch.

    Raises:
        StageError: A row does not fit the file.
    """
    most = 1 if runtime.batch_dependent else min(BATCH_ROWS, runtime.interface.largest_batch or BATCH_ROWS)
    waiting: list[Floats] = []
    for row in rows:
        sequence = to_sequence(row, len(runtime.interface.features))
        check_steps(row[0], len(sequence), runtime)
        mixed = bool(waiting) and len(waiting[0]) != len(sequence) and not runtime.interface.takes_lengths
        if len(waiting) == most or mixed:
            yield from ask(waiting, runtime)
            waiting = []
        waiting.append(sequence)
    if waiting:
        yield from ask(waiting, runtime)


def check_names(path: Path, interface: Interface) -> None:
    """Refuse a file whose metadata do not name each number of its input and output.

    Raises:
        StageError: It names none, one twice, or another number of them.
    """
    for kind, names, axes in (
        ("features", interface.features, interface.input_axes),
        ("classes", interface.classes, interface.output_axes),
    ):
        size = axes[-1] if axes else None
        if not names or len(set(names)) < len(names) or (isinstance(size, int) and size != len(names)):
            expected = f"{size} different ones" if isinstance(size, int) else "different ones"
            raise StageError(f"{path}: its metadata name {len(names)} {kind}; expected {expected}")


def ask(sequences: list[Floats], runtime: Runtime) -> Iterator[dict[str, Any]]:
    """The answers to one batch.

    Raises:
        StageError: The file gives another number of logits than it names classes.
    """
    classes = runtime.interface.classes
    logits = runtime.logits(*to_batch(sequences, runtime)).astype(np.float32)
    if logits.shape[1] != len(classes):
        raise StageError(f"the file's metadata name {len(classes)} classes, but it gives {logits.shape[1]} logits")
    for scores, shares in zip(logits, softmax(logits), strict=True):
        yield {
            "class": classes[int(scores.argmax())],
            "probabilities": {name: float(f"{share:.6g}") for name, share in zip(classes, shares, strict=True)},
            "logits": {name: float(f"{score:.9g}") for name, score in zip(classes, scores, strict=True)},
        }


def print_table(answers: Iterable[dict[str, Any]], classes: list[str]) -> None:
    """A line for each sequence: its class, and the probability of each."""
    rows = [[answer["class"], *(f"{share:.2%}" for share in answer["probabilities"].values())] for answer in answers]
    alignment = ("left", *["right"] * len(classes))
    lines = [list(map(printable, row)) for row in (["class", *classes], *rows)]
    print(tabulate(lines, tablefmt="plain", disable_numparse=True, colalign=alignment))


def main() -> None:
    """Read the arguments, open the model, answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", help="one sequence")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="a row a sequence; - for the standard input")
    parser.add_argument(
        "--model", type=Path, default=PROJECT / DEFAULT_MODEL, metavar="FILE",
        help=f"any checkpoint or exported file, Core ML included (default: {DEFAULT_MODEL})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="an object a line, with the logits too")
    args = parser.parse_intermixed_args()
    if args.numbers and args.csv:
        parser.error("expected numbers or --csv, not both")
    if not args.numbers and not args.csv and sys.stdin.isatty():
        parser.error("expected the numbers of a sequence, --csv FILE, or a table on the standard input")
    if not args.model.exists():
        raise StageError(f"{args.model}: no such file; `dvc repro` or `dvc pull` brings it, --model names another")
    runtime = open_runtime(args.model)
    check_names(args.model, runtime.interface)
    with ExitStack() as stack:
        rows: Iterable[Row]
        if args.numbers:
            rows = [("the sequence", [cell for part in args.numbers for cell in part.replace(",", " ").split()])]
        else:
            from_file = args.csv is not None and str(args.csv) != "-"
            name = str(args.csv) if from_file else "standard input"
            table: TextIO = stack.enter_context(open_table(args.csv)) if from_file else sys.stdin
            rows = read_rows(table, name, runtime.interface.features)
        answers = predict(rows, runtime)
        if args.json:
            for answer in answers:
                print(printable_json(answer))
        else:
            print_table(answers, runtime.interface.classes)


def open_table(path: Path) -> TextIO:
    """Open a table for reading.

    Raises:
        StageError: There is no such file, or it may not be read.
    """
    try:
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}") from None


if __name__ == "__main__":
    run(main)
