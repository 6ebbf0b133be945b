"""Columns of numbers too long for memory: written to disk front to back, read back in slices."""

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Spool:
    """A growing file of equal records; a context manager that deletes the file at its end.

    It is read and written by plain calls and not mapped, because the pages of a mapped file count as the process's own
    memory until they are given back.

    Args:
        path: Where the file is made.
        dtype: Of the numbers.
        width: How many numbers a record has; None where each is a number by itself.
    """

    def __init__(self, path: Path, dtype: DTypeLike, width: int | None = None) -> None:
        self._file = path.open("w+b")
        self._path = path
        self._dtype = np.dtype(dtype)
        self._width = width
        self._records = 0

    def __len__(self) -> int:
        return self._records

    def append(self, records: NDArray[Any]) -> None:
        """Add records at the end."""
        self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(records, self._dtype).data)
        self._records += len(records)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """A copy of the records from `start` to `stop`; past the end there are none."""
        width = self._width or 1
        count = max(min(stop, self._records) - start, 0) * width
        self._file.seek(start * width * self._dtype.itemsize)
        numbers = np.fromfile(self._file, self._dtype, count)
        return numbers if self._width is None else numbers.reshape(-1, self._width)

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink()
