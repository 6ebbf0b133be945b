"""Walk over memory-mapped arrays in chunks: memory stays flat as they grow."""

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_BYTES = 2**19
"""Of the widest array: small enough for a dozen copies in float64, large enough that Python's own time is little."""


def chunks(*arrays: NDArray[Any], rows: int | None = None) -> Iterator[tuple[NDArray[Any], ...]]:
    """Yield the same rows of every array, in order, and give back the memory that reading them took.

    Args:
        arrays: Of equal length, which may be more than fits into memory if they are memory maps.
        rows: Of a chunk; None: as many as `CHUNK_BYTES` holds.
    """
    step = rows or max(1, CHUNK_BYTES // max(1, *(array[:1].nbytes for array in arrays)))
    for start in range(0, len(arrays[0]), step):
        yield tuple(array[start : start + step] for array in arrays)
        for array in arrays:
            release(array)


def release(array: NDArray[Any]) -> None:
    """Let the system take back the pages of a memory map: they count as this process's memory once they were read.

    Changes to a copy-on-write map are lost. An array that is no memory map is left alone.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
