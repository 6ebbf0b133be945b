"""The prepared data's file format: one folder, memory-mapped arrays and a schema.

    train.npy  validation.npy  test.npy                      float32, (rows, time, features)
    train_labels.npy  validation_labels.npy  test_labels.npy  int64, (rows,): an index into the classes
    train_lengths.npy  ...                        int32, (rows,): steps before the padding; only where lengths differ
    schema.json                                               see `Schema`

Arrays are NumPy's own format, read by mapping the file into memory: a stage that walks over them in batches uses no
more memory for a longer table.
"""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, BinaryIO, Literal, Self, get_args

from shared.data.chunks import chunks
from shared.kit.stage import StageError, read_bytes, reading, size_of, write_json
from shared.kit.text import as_cell

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt, model_validator

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Schema(BaseModel):
    """What the arrays of a prepared folder hold.

    Attributes:
        features: Names of the values measured at each time step, in the order of the last axis.
        time_steps: Length of the time axis: of every sequence, or of the longest.
        classes: Names of the classes; a label is an index into them.
        ragged: Whether sequences differ in length: shorter ones are padded with zeros at the end.
        rows: Number of rows of each split.
        class_rows: Number of rows of each class in each split, in the order of the classes.
        groups: Number of groups in each split, none of which is in two; None where rows were dealt one by one.
        length_range: Steps of the shortest sequence and of the longest.
        filled: Number of missing values that were filled in.
        mean: Mean of each feature over the training split, padding left out.
        deviation: Standard deviation of each feature over the training split, padding left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: list[str]
    time_steps: PositiveInt
    classes: list[str]
    ragged: bool
    rows: dict[Split, NonNegativeInt]
    class_rows: dict[Split, list[NonNegativeInt]]
    groups: dict[Split, NonNegativeInt] | None = None
    length_range: tuple[PositiveInt, PositiveInt]
    filled: NonNegativeInt
    mean: list[FiniteFloat]
    deviation: list[Annotated[FiniteFloat, Field(ge=0)]]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """What is said of the same thing twice must agree."""
        if set(self.rows) != set(SPLITS) or set(self.class_rows) != set(SPLITS):
            raise ValueError(f"rows and class_rows should be given for {', '.join(SPLITS)}")
        for name, values in (("features", self.features), ("classes", self.classes)):
            if len(set(values)) != len(values) or not values:
                raise ValueError(f"{name} should be names, each once")
        if not len(self.mean) == len(self.deviation) == len(self.features):
            raise ValueError("mean and deviation should have a value for each of the features")
        for split, rows in self.class_rows.items():
            if len(rows) != len(self.classes) or sum(rows) != self.rows[split]:
                raise ValueError(f"class_rows of {split} should have a count for each class, {self.rows[split]} in all")
        return self

    @property
    def shown_classes(self) -> list[str]:
        """The names of the classes as metrics, tables and pages show them: they steer nothing, and are distinct."""
        names = [as_cell(name) for name in self.classes]
        return names if len(set(names)) == len(names) else [f"{name} ({index})" for index, name in enumerate(names)]


@dataclass(frozen=True)
class SplitArrays:
    """The rows of one split, as memory maps safe to write to.

    Attributes:
        sequences: (rows, time, features), float32.
        labels: (rows,), int64.
        lengths: (rows,), int32: how many steps of each sequence are no padding; None where all are equally long.
    """

    sequences: NDArray[np.float32]
    labels: NDArray[np.int64]
    lengths: NDArray[np.int32] | None


SOME_ROWS = 512
"""Of a split, evenly spread: what is computed where all would take too long. It may have millions."""


def chosen_rows(rows: int, most: int = SOME_ROWS) -> NDArray[np.int_]:
    """Which rows of a split are chosen where not all are: at most so many, evenly spread."""
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(int))


def read_rows(split: SplitArrays, chosen: NDArray[np.int_]) -> SplitArrays:
    """Some rows of a split, in memory."""
    lengths = None if split.lengths is None else np.array(split.lengths[chosen])
    return SplitArrays(np.array(split.sequences[chosen]), np.array(split.labels[chosen]), lengths)


def open_array(path: Path) -> NDArray[Any]:
    """Map a .npy file into memory, below `reading`; nothing in it is ever unpickled.

    Raises:
        OSError, ValueError: It cannot be read, or is no such file.
    """
    size_of(path)
    # "c": changes stay in memory, and torch takes the array without a copy.
    array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("an archive of arrays; expected one array")
    return array


class Prepared:
    """A prepared folder, open for reading.

    Raises:
        StageError: The folder has no readable schema, or an array is missing, damaged, or not of the schema's shape.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        schema_file = folder / "schema.json"
        with reading(schema_file, "schema"):
            self.schema = Schema.model_validate_json(read_bytes(schema_file))
        self._checked: set[str] = set()

    def split(self, name: Split) -> SplitArrays:
        """The rows of one split."""
        schema, rows = self.schema, self.schema.rows[name]
        labels = self._open(f"{name}_labels.npy", (rows,), np.int64)
        self._check_range(f"{name}_labels.npy", labels, 0, len(schema.classes) - 1)
        lengths = None
        if schema.ragged:
            lengths = self._open(f"{name}_lengths.npy", (rows,), np.int32)
            self._check_range(f"{name}_lengths.npy", lengths, 1, schema.time_steps)
        sequences = self._open(f"{name}.npy", (rows, schema.time_steps, len(schema.features)), np.float32)
        return SplitArrays(sequences, labels, lengths)

    def _check_range(self, name: str, values: NDArray[Any], low: int, high: int) -> None:
        """Check, once, what later indexes other arrays."""
        if name in self._checked:
            return
        for (part,) in chunks(values):
            if part.min() < low or part.max() > high:
                found = part[(part < low) | (part > high)][0]
                raise StageError(f"{self.folder / name}: found {found}; expected {low} to {high}; run `dvc repro`")
        self._checked.add(name)

    def _open(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        path = self.folder / name
        with reading(path, "array"):
            array = open_array(path)
        if array.shape != shape or array.dtype != dtype:
            raise StageError(
                f"{path}: found {array.dtype} {array.shape}; the schema says {np.dtype(dtype)} {shape}; run `dvc repro`"
            )
        return array


class PreparedWriter:
    """Writes a prepared folder, each split from its first row to its last; a context manager.

    The arrays are appended to and not mapped, because the pages of a mapped file count as the process's own memory.
    """

    def __init__(self, folder: Path, rows: dict[Split, int], time_steps: int, features: int, *, ragged: bool) -> None:
        folder.mkdir()
        self._folder = folder
        self._ragged = ragged
        self._files: dict[str, BinaryIO] = {}
        for split, count in rows.items():
            self._create(f"{split}.npy", (count, time_steps, features), np.float32)
            self._create(f"{split}_labels.npy", (count,), np.int64)
            if ragged:
                self._create(f"{split}_lengths.npy", (count,), np.int32)

    def _create(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self._files[name] = file = (self._folder / name).open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)

    def append(
        self, split: Split, sequences: NDArray[np.float32], labels: NDArray[np.int64], lengths: NDArray[np.int32]
    ) -> None:
        """Add rows to a split; `lengths` are kept only where they differ."""
        self._files[f"{split}.npy"].write(np.ascontiguousarray(sequences, np.float32).data)
        self._files[f"{split}_labels.npy"].write(np.ascontiguousarray(labels, np.int64).data)
        if self._ragged:
            self._files[f"{split}_lengths.npy"].write(np.ascontiguousarray(lengths, np.int32).data)

    def finish(self, schema: Schema) -> None:
        """Write the schema: only now is the folder complete."""
        write_json(self._folder / "schema.json", schema.model_dump())

    def __enter__(self) -> "PreparedWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
