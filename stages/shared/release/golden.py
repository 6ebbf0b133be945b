"""Golden vectors: sequences, and the logits that each file gave for them here, to be compared with on a device.

They are few, chosen to show what goes wrong on a device: rows at the border between two classes, where a small error
changes the decision; a row of each class; quiet and constant values; values far outside the data; of ragged data short
sequences with something in the padding; and random ones.

How far a file is off elsewhere is one figure, which the bundle's `verify.py`, its `verifiers/` and the page that runs
the model compute alike: the largest difference of any logit of any vector, as a share of the largest logit that the
file gave for any of them here. It is infinite or no number, and wrong, if a logit is not finite.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.data.sequences import Prepared
from shared.execution.runtimes import Floats, Runtime, open_runtime
from shared.judging.precision import CALIBRATED, FLOAT16, FLOAT32, INT8, precision_of
from shared.kit.params import StageParams

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

BORDER_ROWS = 8
ROWS_OF_CLASSES = 12
RANDOM_ROWS = 8
FAR = 3
"""Standard deviations beyond the data's own spread that a far sequence lies from the mean."""
PADDING = 7.0
"""What stands after the end of a short sequence: a file that reads it answers otherwise."""


TOLERANCES = {FLOAT32: 1e-5, FLOAT16: 5e-3, INT8: 2e-2, CALIBRATED: 2e-2}
"""Of what a file computes in."""


def tolerance_of(path: Path) -> float:
    """How far a logit of a file may be from the one that was computed here, on another processor, as a share (above).

    A file that computes in full precision adds up in another order there; one in half precision rounds other sums, and
    one whose activations are quantised may round one of them to the next step.
    """
    return TOLERANCES[precision_of(path)]


class GoldenParams(StageParams, extra="ignore"):
    """What section `release` says of golden vectors."""

    seed: int = Field(ge=0, lt=2**32)


@dataclass(frozen=True)
class Vector:
    """One sequence to ask a file for.

    Attributes:
        kind: Why it was chosen: `border`, `class`, `quiet`, `far`, `short` or `random`.
        sequence: (time, features), float32, padded to the data's time steps.
        length: How many of its steps count.
    """

    kind: str
    sequence: Floats
    length: int


def choose_vectors(data: Prepared, reference: NDArray[np.float32], seed: int) -> list[Vector]:
    """Choose the sequences: equal data, logits and seed give equal ones.

    Args:
        data: The prepared data.
        reference: PyTorch's logits of the test split, (rows, classes).
        seed: Of the random sequences.
    """
    schema, test = data.schema, data.split("test")
    steps, mean, deviation = schema.time_steps, np.array(schema.mean), np.array(schema.deviation)

    def of_row(kind: str, row: int) -> Vector:
        length = steps if test.lengths is None else int(test.lengths[row])
        return Vector(kind, np.array(test.sequences[row]), length)

    def made(kind: str, values: NDArray[np.float64], length: int = steps) -> Vector:
        sequence = np.broadcast_to(values, (steps, len(mean))).astype(np.float32)
        if schema.ragged:
            sequence[length:] = 0
        return Vector(kind, sequence, length)

    def short() -> Iterator[Vector]:
        for row in np.argsort(test.lengths, kind="stable")[:3] if test.lengths is not None else []:
            vector = of_row("short", int(row))
            vector.sequence[vector.length :] = PADDING
            yield vector

    best_two = np.sort(reference, axis=1)[:, -2:]
    border = np.argsort(best_two[:, 1] - best_two[:, 0], kind="stable")[:BORDER_ROWS]
    classes = range(min(len(schema.classes), ROWS_OF_CLASSES))
    random = np.random.default_rng(seed)
    return [
        *(of_row("border", int(row)) for row in border),
        *(of_row("class", int(np.argmax(test.labels == label))) for label in classes),
        *(made("quiet", values) for values in (np.zeros(len(mean)), mean, 1e-3 * deviation)),
        *(made("far", mean + sign * FAR * deviation) for sign in (-1, 1)),
        *short(),
        *(made("random", mean + deviation * random.uniform(-1.7, 1.7, (steps, len(mean)))) for _ in range(RANDOM_ROWS)),
    ]


@dataclass(frozen=True)
class Asked:
    """A file that was asked for every vector.

    Attributes:
        path: The file.
        runtime: It, open.
        logits: (vectors, classes): what it gave for each vector alone.
    """

    path: Path
    runtime: Runtime
    logits: Floats


def ask(path: Path, vectors: list[Vector]) -> Asked:
    """Open a file and ask it for each vector.

    Raises:
        StageError: The file cannot be opened.
    """
    return ask_runtime(open_runtime(path), path, vectors)


def ask_runtime(runtime: Runtime, path: Path, vectors: list[Vector]) -> Asked:
    """Ask a file that is open for each vector."""
    return Asked(path, runtime, np.stack([logits_of(runtime, vector) for vector in vectors]))


def error_of(logits: Floats, expected: Floats) -> float:
    """How far logits are from those that a file owes the golden vectors, as a share (above)."""
    return float(np.abs(logits.astype(np.float64) - expected).max()) / (float(np.abs(expected).max()) or 1.0)


def logits_of(runtime: Runtime, vector: Vector) -> Floats:
    """(classes,): what a file gives for one vector."""
    lengths = np.array([vector.length], np.int32) if runtime.interface.takes_lengths else None
    logits: Floats = runtime.logits(vector.sequence[np.newaxis], lengths)[0]
    return logits
