"""Read what `predict` wrote: every file's logits, and the record of its execution."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from shared.data.sequences import open_array
from shared.execution.interface import Interface
from shared.files.formats import FORMATS, OTHER_EXECUTORS, REFERENCE
from shared.kit.stage import StageError, read_json, reading

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

ADVICE = "; run `dvc repro`"


class Recorded(BaseModel):
    """A part of a record; there may be more in it than is read."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class TriedBatch(Recorded):
    """What came of another size of batch."""

    shape: list[int]
    max_absolute_difference: float | None


class Answer(Recorded):
    """What came of a probe: logits (rows, classes), or why there are none."""

    time_steps: list[int]
    same_as: str | None
    failure: str | None = None
    logits: list[Annotated[list[float | None], Field(min_length=1)]] | None = None
    rounding: float | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.failure is None) == (self.logits is None):
            raise ValueError("either logits or a failure should be there")
        if len({len(row) for row in self.logits or []}) > 1 or self.logits == []:
            raise ValueError("logits should be rows of equal length")
        return self


class Record(Recorded):
    """How a file was executed."""

    executor: str
    executor_version: str
    platform: str
    interface: Interface
    batch_dependent: bool
    batches: dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], TriedBatch]
    probes: dict[str, Answer]


class FailedRecord(Recorded):
    """Why a file was not executed."""

    failure: str


class LeftOutRecord(Recorded):
    """Why an executor beside the format's own did not run a file, and not for the file's sake."""

    left_out: str


FORMS: dict[str, type[Recorded]] = {"failure": FailedRecord, "left_out": LeftOutRecord}
"""Of the records of what was not executed, by the key that tells them."""


@dataclass(frozen=True)
class Prediction:
    """One executed file.

    Attributes:
        format: A name of `FORMATS`.
        precision: Such as `fp16`.
        logits: (rows, classes), float32, a memory map; without rows if there was no execution.
        record: Who executed it, what the file declares, its answers to the probes; see `stages/predict.py`.
    """

    format: str
    precision: str
    logits: NDArray[np.float32]
    record: dict[str, Any]

    @property
    def failure(self) -> str | None:
        """Why the file could not be executed, in one line; None if it was."""
        return self.record.get("failure")


def read_predictions(folder: Path) -> Iterator[Prediction]:
    """Yield every prediction of a format's own runtime, failed ones too: PyTorch first, then by format and precision.

    Raises:
        StageError: A record or its logits cannot be read.
    """
    for file_format in FORMATS:
        yield from _read_folder(folder / file_format, file_format)


def read_others(folder: Path) -> dict[str, list[Prediction]]:
    """The predictions of the same files by each of `OTHER_EXECUTORS`, failed ones too.

    Raises:
        StageError: A record or its logits cannot be read.
    """
    return {
        executor: list(_read_folder(folder / executor, file_format))
        for executor, file_format in OTHER_EXECUTORS.items()
    }


def _read_folder(folder: Path, file_format: str) -> Iterator[Prediction]:
    for record_file in record_files(folder):
        logits_file = record_file.with_suffix(".npy")
        with reading(record_file, "prediction", ADVICE):
            record = read_json(record_file)
            form = next((form for key, form in FORMS.items() if key in record), Record)
            form.model_validate(record)
        logits: NDArray[Any] = np.empty((0, 0), np.float32)
        if form is Record:
            with reading(logits_file, "prediction", ADVICE):
                logits = open_array(logits_file)
                if logits.dtype != np.float32:
                    raise ValueError(f"logits are {logits.dtype}; expected float32")
        yield Prediction(file_format, record_file.stem, logits, record)


def record_files(folder: Path) -> list[Path]:
    """The records in the folder of a format, sorted; none if there is no such folder.

    Raises:
        StageError: The folder cannot be read, which `glob` takes for an empty one.
    """
    if not folder.exists():
        return []
    with reading(folder, "folder of predictions", ADVICE):
        return sorted(path for path in folder.iterdir() if path.suffix == ".json")


def find_reference(predictions: list[Prediction]) -> Prediction:
    """PyTorch's own prediction, which every other is compared with.

    Raises:
        StageError: It is not there, or its execution failed.
    """
    for prediction in predictions:
        if (prediction.format, prediction.precision) == REFERENCE:
            if prediction.failure:
                raise StageError(f"PyTorch's logits are missing: {prediction.failure}")
            return prediction
    raise StageError("PyTorch's logits are missing: nothing to compare with; run `dvc repro predict@pytorch`")


def nest(figures: dict[tuple[str, str], Any]) -> dict[str, dict[str, Any]]:
    """Nest figures as every metrics file does: format, then precision."""
    nested: dict[str, dict[str, Any]] = {}
    for (file_format, precision), figure in figures.items():
        nested.setdefault(file_format, {})[precision] = figure
    return nested
