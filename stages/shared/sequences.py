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
from typing import Any, Literal, get_args

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
    """Creates a prepared folder's arrays, to be filled row by row in any order."""

    def __init__(self, folder: Path, rows: dict[Split, int], time_steps: int, features: int, *, ragged: bool) -> None:
        folder.mkdir()
        self.folder = folder
        self.rows = rows
        self.splits = {
            split: SplitArrays(
                self._create(f"{split}.npy", (count, time_steps, features), np.float32),
                self._create(f"{split}_labels.npy", (count,), np.int64),
                self._create(f"{split}_lengths.npy", (count,), np.int32) if ragged else None,
            )
            for split, count in rows.items()
        }

    def _create(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        array: NDArray[Any] = np.lib.format.open_memmap(self.folder / name, mode="w+", dtype=dtype, shape=shape)
        return array

    def close(self, features: list[str], classes: list[str], mean: list[float], deviation: list[float]) -> None:
        """Flush the arrays and write the schema: only now is the folder complete."""
        for arrays in self.splits.values():
            for array in (arrays.sequences, arrays.labels, arrays.lengths):
                if isinstance(array, np.memmap):
                    array.flush()
        train = self.splits["train"]
        schema = Schema(
            features=features,
            time_steps=train.sequences.shape[1],
            classes=classes,
            ragged=train.lengths is not None,
            rows=self.rows,
            class_rows={
                split: np.bincount(arrays.labels, minlength=len(classes)).tolist()
                for split, arrays in self.splits.items()
            },
            mean=mean,
            deviation=deviation,
        )
        write_json(self.folder / "schema.json", schema.model_dump())
