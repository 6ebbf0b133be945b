"""A split's rows in batches, from files of any size: a fixed amount of memory, whatever the number of rows.

Rows are read into a buffer of `BUFFER_BYTES` with plain file reads, not through the memory maps, whose touched pages
would count as this process's memory. A split that fits into the buffer is read once and shuffled perfectly. Of a larger
one, blocks of neighbouring rows are read in random order, and the rows of `BLOCKS_PER_BUFFER` blocks are shuffled
together: so the order is random over the whole split, while two neighbours of a block stay in the same buffer. Where
the blocks begin changes with the epoch too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.sequences import SplitArrays
from shared.stage import StageError

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BUFFER_BYTES = 32 * 2**20
BLOCKS_PER_BUFFER = 256

IGNORED = -100
"""A label that torch's `cross_entropy` leaves out, and that equals no class."""


@dataclass(frozen=True)
class Batch:
    """The rows of one step that one process computes on, on its device.

    Attributes:
        inputs: What the model is called with: sequences (rows, time, features), and lengths (rows,) where they differ.
        labels: (rows,), int64. A process without a share in a small last batch has one row, labelled `IGNORED`.
        all_labels: The labels of the whole batch, over all processes.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    all_labels: Tensor


class Batches:
    """Deals a split out in batches, epoch after epoch.

    What a step gets follows from the seed, the epoch and the step alone: any step can be begun at, and nothing needs to
    be remembered for it. Processes that train together deal the same batches, and each takes every `processes`-th row.

    Args:
        arrays: The rows.
        batch_size: Rows of a batch, over all processes; the last batch of an epoch may have fewer. None: all rows.
        seed: Of the order; None keeps the rows in theirs.
        device: Where the batches are wanted. The buffer lies there too, so that a step copies nothing between devices.
        rank: Which of the processes this is, from 0.
        processes: How many there are.
    """

    def __init__(
        self,
        arrays: SplitArrays,
        batch_size: int | None,
        *,
        seed: int | None,
        device: torch.device,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.arrays = arrays
        self.rows = len(arrays.labels)
        self.batch_size = min(batch_size or self.rows, self.rows)
        self.seed = seed
        self.device = device
        self.rank, self.processes = rank, processes
        row_bytes = sum(array[0].nbytes for array in self._arrays()) + np.dtype(np.int64).itemsize  # and its place
        self.buffer_rows = self.batch_size * max(1, BUFFER_BYTES // (row_bytes * self.batch_size))
        self.block_rows = max(1, self.buffer_rows // BLOCKS_PER_BUFFER)
        self.buffer: list[Tensor] = []

    def __len__(self) -> int:
        """Steps of an epoch."""
        return -(-self.rows // self.batch_size)

    def epoch(self, number: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from a step on; both count from 0."""
        steps = self.buffer_rows // self.batch_size
        for index in range(first_step // steps, -(-self.rows // self.buffer_rows)):
            order = self._fill(number, index)
            for step in range(max(first_step - index * steps, 0), -(-len(order) // self.batch_size)):
                yield self._batch(order[step * self.batch_size : (step + 1) * self.batch_size])

    def _arrays(self) -> list[NDArray[np.generic]]:
        arrays = (self.arrays.labels, self.arrays.sequences, self.arrays.lengths)
        return [array for array in arrays if array is not None]

    def _fill(self, epoch: int, index: int) -> Tensor:
        """Read the buffer with this index unless it is the only one and there; return the order of its rows."""
        start, stop = index * self.buffer_rows, min((index + 1) * self.buffer_rows, self.rows)
        if not self.buffer or self.rows > self.buffer_rows:
            runs = list(self._runs(epoch, start, stop))
            self.buffer.clear()  # before the next one is read, so that there are never two
            self.buffer = [read_runs(array, runs).to(self.device) for array in self._arrays()]
        if self.seed is None or self.batch_size == self.rows:  # the order within a batch makes no difference
            return torch.arange(stop - start, device=self.device)
        order = np.random.default_rng([self.seed, epoch, index]).permutation(stop - start)
        return torch.from_numpy(order).to(self.device)

    def _runs(self, epoch: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """First row and number of rows of each run of neighbours that the epoch's rows `start` to `stop` consist of."""
        if self.seed is None or self.rows <= self.buffer_rows:
            yield start, stop - start
            return
        generator = np.random.default_rng([self.seed, epoch])
        shift = int(generator.integers(self.rows))
        whole_blocks = self.rows // self.block_rows
        blocks = np.append(generator.permutation(whole_blocks), whole_blocks)  # at the end the one that may be short
        while start < stop:
            block, inside = divmod(start, self.block_rows)
            first = (int(blocks[block]) * self.block_rows + inside + shift) % self.rows
            count = min(self.block_rows - inside, stop - start, self.rows - first)
            yield first, count
            start += count

    def _batch(self, rows: Tensor) -> Batch:
        if len(rows) == self.rows and self.processes == 1:
            labels, *inputs = self.buffer
            return Batch(tuple(inputs), labels, labels)
        mine = rows[self.rank :: self.processes]
        all_labels = self.buffer[0][rows]
        if not len(mine):
            labels, mine = torch.full_like(all_labels[:1], IGNORED), rows[:1]
        else:
            labels = all_labels[self.rank :: self.processes]
        return Batch(tuple(array[mine] for array in self.buffer[1:]), labels, all_labels)


def read_runs(array: NDArray[np.generic], runs: list[tuple[int, int]]) -> Tensor:
    """Read runs of rows (the first row, how many) of a memory-mapped array from its file, one behind another."""
    assert isinstance(array, np.memmap)
    assert array.filename is not None
    result = np.empty((sum(count for _, count in runs), *array.shape[1:]), array.dtype)
    filled = 0
    with Path(array.filename).open("rb") as file:
        for first, count in runs:
            file.seek(array.offset + first * array[0].nbytes)
            part = result[filled : filled + count]
            if file.readinto(part.data) < part.nbytes:
                raise StageError(f"{array.filename}: ends before row {first + count}; run `dvc repro`")
            filled += count
    return torch.from_numpy(result)
