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
from typing import Any, BinaryIO, Literal, get_args

from shared.stage import StageError, write_json

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

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
        length_range: Steps of the shortest sequence and of the longest.
        filled: Number of missing values that were filled in.
        mean: Mean of each feature over the training split, padding left out.
        deviation: Standard deviation of each feature over the training split, padding left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: list[str]
    time_steps: int
    classes: list[str]
    ragged: bool
    rows: dict[Split, int]
    class_rows: dict[Split, list[int]]
    length_range: tuple[int, int]
    filled: int
    mean: list[float]
    deviation: list[float]


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


class Prepared:
    """A prepared folder, open for reading.

    Raises:
        StageError: The folder has no readable schema, or an array is missing, damaged, or not of the schema's shape.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        schema_file = folder / "schema.json"
        try:
            self.schema = Schema.model_validate_json(schema_file.read_bytes())
        except (OSError, ValidationError) as error:
            raise StageError(f"{schema_file}: not a readable schema: {str(error).splitlines()[0]}") from None

    def split(self, name: Split) -> SplitArrays:
        """The rows of one split."""
        schema, rows = self.schema, self.schema.rows[name]
        return SplitArrays(
            self._open(f"{name}.npy", (rows, schema.time_steps, len(schema.features)), np.float32),
            self._open(f"{name}_labels.npy", (rows,), np.int64),
            self._open(f"{name}_lengths.npy", (rows,), np.int32) if schema.ragged else None,
        )

    def _open(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        path = self.folder / name
        try:
            # "c": changes stay in memory, and torch takes the array without a copy.
            array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise StageError(f"{path}: not a readable array: {error}") from None
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
