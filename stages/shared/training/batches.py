"""A split's rows in batches, from files of any size: a fixed amount of memory, whatever the number of rows.

Rows are read into a buffer of `BUFFER_BYTES` with plain file reads, not through the memory maps, whose touched pages
would count as this process's memory. A split that fits into the buffer is read once and shuffled perfectly. Of a larger
one, blocks of neighbouring rows are read in random order, and the rows of `BLOCKS_PER_BUFFER` blocks are shuffled
together: so the order is random over the whole split, while two neighbours of a block stay in the same buffer. Where
the blocks begin changes with the epoch too. Where rows keep their order, the buffer is one batch.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from shared.data.sequences import SplitArrays
from shared.kit.stage import StageError
from shared.training.devices import Processes

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BUFFER_BYTES = 32 * 2**20
BLOCKS_PER_BUFFER = 256

IGNORED = -100
"""A label that torch's `cross_entropy` leaves out, and that equals no class."""


class Batch(NamedTuple):
    """The rows of one step that one process computes on, on its device.

    Attributes:
        inputs: What the model is called with: sequences (rows, time, features), and lengths (rows,) where they differ.
        labels: (rows,), int64. A process without a share in a small last batch has one row, labelled `IGNORED`.
        rows: Of the whole batch, over all processes.
        weight: The sum of the class weights of those rows, or their number.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    rows: int
    weight: float


class Batches:
    """Deals a split out in batches, epoch after epoch.

    What a step gets follows from the seed, the epoch and the step alone: any step can be begun at, and nothing needs to
    be remembered for it. Of n processes that train together, each takes every n-th row of a batch.

    Args:
        arrays: The rows.
        batch_size: Rows of a batch, over all processes; the last batch of an epoch may have fewer. None: all rows.
        processes: Those that share the batches. The buffer lies on their devices: no step copies anything there.
        seed: Of the order; None keeps the rows in theirs.
        class_weights: How much a row of each class counts; None: each counts 1.
    """

    def __init__(
        self,
        arrays: SplitArrays,
        batch_size: int | None,
        processes: Processes,
        *,
        seed: int | None,
        class_weights: list[float] | None = None,
    ) -> None:
        self.arrays = [array for array in (arrays.labels, arrays.sequences, arrays.lengths) if array is not None]
        self.rows = len(arrays.labels)
        self.batch_size = min(batch_size or self.rows, self.rows)
        self.seed = seed
        self.processes = processes
        self.class_weights = None if class_weights is None else np.array(class_weights)
        self.buffer_rows = self.batch_size
        if seed is not None:
            row_bytes = sum(array[0].nbytes for array in self.arrays)
            self.buffer_rows *= max(1, BUFFER_BYTES // (row_bytes * self.batch_size))
        self.block_rows = max(1, self.buffer_rows // BLOCKS_PER_BUFFER)
        self._space = [
            torch.from_numpy(np.empty((min(self.buffer_rows, self.rows), *array.shape[1:]), array.dtype))
            for array in self.arrays
        ]  # kept: given back and asked for again, it would become fragments
        self._buffer: list[Tensor] | None = None
        self._whole: Batch | None = None

    def __len__(self) -> int:
        """Steps of an epoch."""
        return -(-self.rows // self.batch_size)

    def epoch(self, number: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from a step on; both count from 0.

        Without a seed, a batch is a part of the buffer itself, which is good until the next one is asked for.
        """
        if len(self) == 1:  # the same one, epoch after epoch
            if first_step == 0:
                self._whole = self._whole or next(self._deal(number, 0))
                yield self._whole
            return
        yield from self._deal(number, first_step)

    def _deal(self, number: int, first_step: int) -> Iterator[Batch]:
        """Read the batches of an epoch, from a step on."""
        steps = self.buffer_rows // self.batch_size
        for index in range(first_step // steps, -(-self.rows // self.buffer_rows)):
            buffer = self._fill(number, index)
            order = self._order(number, index, len(buffer[0]))
            weights = self._weights(buffer[0], order)
            for start in range(max(first_step - index * steps, 0) * self.batch_size, len(buffer[0]), self.batch_size):
                stop = min(start + self.batch_size, len(buffer[0]))
                labels, *inputs = self._share(buffer, order, start, stop)
                weight = weights[start // self.batch_size] if weights else float(stop - start)
                yield Batch(tuple(inputs), labels, stop - start, weight)

    def _fill(self, epoch: int, index: int) -> list[Tensor]:
        """The labels, sequences and lengths of the buffer with this index, as they were read."""
        if self._buffer is None or self.rows > self.buffer_rows:
            start, stop = index * self.buffer_rows, min((index + 1) * self.buffer_rows, self.rows)
            runs = list(self._runs(epoch, start, stop))
            for array, space in zip(self.arrays, self._space, strict=True):
                read_runs(array, runs, space.numpy())
            self._buffer = [space[: stop - start].to(self.processes.device) for space in self._space]
        return self._buffer

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

    def _order(self, epoch: int, index: int, rows: int) -> Tensor | None:
        """In which order the rows of a buffer are dealt; None: as they are, since within a batch it does not matter."""
        if self.seed is None or self.batch_size == self.rows:
            return None
        order = np.random.default_rng([self.seed, epoch, index]).permutation(rows)
        return torch.from_numpy(order).to(self.processes.device)

    def _weights(self, labels: Tensor, order: Tensor | None) -> list[float]:
        """The weight of each batch of a buffer, if classes have one."""
        if self.class_weights is None:
            return []
        dealt = labels if order is None else labels[order]
        weights = self.class_weights[dealt.cpu().numpy()]
        summed: list[float] = np.add.reduceat(weights, np.arange(0, len(labels), self.batch_size)).tolist()
        return summed

    def _share(self, buffer: list[Tensor], order: Tensor | None, start: int, stop: int) -> list[Tensor]:
        """This process's labels, sequences and lengths of a batch."""
        first = start + self.processes.rank
        mine = slice(first, stop, self.processes.count) if first < stop else slice(start, start + 1)
        share = [array[mine] if order is None else array.index_select(0, order[mine]) for array in buffer]
        if first >= stop:
            share[0] = torch.full_like(share[0], IGNORED)
        return share


def read_runs(array: NDArray[np.generic], runs: list[tuple[int, int]], space: NDArray[np.generic]) -> None:
    """Read runs of rows (the first row, how many) of a memory-mapped array from its file, one behind another."""
    assert isinstance(array, np.memmap)
    assert array.filename is not None
    filled = 0
    with Path(array.filename).open("rb") as file:
        for first, count in runs:
            file.seek(array.offset + first * array[0].nbytes)
            part = space[filled : filled + count]
            if file.readinto(part.data) < part.nbytes:
                raise StageError(f"{array.filename}: ends before row {first + count}; run `dvc repro`")
            filled += count
