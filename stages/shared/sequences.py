"""The prepared data's file format: one folder, memory-mapped arrays and a schema.

    train.npy  validation.npy  test.npy                      float32, (rows, time, features)
    train_labels.npy  validation_labels.npy  test_labels.npy  int64, (rows,): an index into the classes
    schema.json                                               see `Schema`

Arrays are NumPy's own format, read by mapping the file into memory: a stage that walks over them in batches uses no
more memory for a longer table.
"""

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
        time_steps: Length of the time axis.
        classes: Names of the classes; a label is an index into them.
        rows: Number of rows of each split.
        mean: Mean of each feature over the training split.
        deviation: Standard deviation of each feature over the training split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: list[str]
    time_steps: int
    classes: list[str]
    rows: dict[Split, int]
    mean: list[float]
    deviation: list[float]


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

    def split(self, name: Split) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Sequences (rows, time, features) and labels (rows,) of one split, as memory maps safe to write to."""
        rows = self.schema.rows[name]
        shape = (rows, self.schema.time_steps, len(self.schema.features))
        return self._open(f"{name}.npy", shape, np.float32), self._open(f"{name}_labels.npy", (rows,), np.int64)

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

    def __init__(self, folder: Path, rows: dict[Split, int], time_steps: int, features: int) -> None:
        folder.mkdir()
        self.folder = folder
        self.rows = rows
        self.sequences = {
            split: np.lib.format.open_memmap(
                folder / f"{split}.npy", mode="w+", dtype=np.float32, shape=(count, time_steps, features)
            )
            for split, count in rows.items()
        }
        self.labels = {
            split: np.lib.format.open_memmap(folder / f"{split}_labels.npy", mode="w+", dtype=np.int64, shape=(count,))
            for split, count in rows.items()
        }

    def close(self, features: list[str], classes: list[str], mean: list[float], deviation: list[float]) -> None:
        """Flush the arrays and write the schema: only now is the folder complete."""
        for array in (*self.sequences.values(), *self.labels.values()):
            array.flush()
        time_steps = self.sequences["train"].shape[1]
        schema = Schema(
            features=features, time_steps=time_steps, classes=classes, rows=self.rows, mean=mean, deviation=deviation
        )
        write_json(self.folder / "schema.json", schema.model_dump())
