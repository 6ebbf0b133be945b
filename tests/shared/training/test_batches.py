"""Dealing a split out in batches: every row once, at random, in little memory."""

from pathlib import Path
from typing import Any

from shared.data.sequences import SplitArrays
from shared.training import batches
from shared.training.batches import IGNORED, Batches
from shared.training.devices import ALONE, Processes

import numpy as np
import pytest
import torch
from torch import Tensor

CPU = torch.device("cpu")
ROWS = 1003


def open_map(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> np.memmap[Any, Any]:
    """A new array of zeros, which take no room on the disk until they are written to."""
    array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    return array


def write(folder: Path, rows: int, *, ragged: bool = False, values: int = 6) -> SplitArrays:
    """A split in which everything of a row says which row it is."""
    sequences = open_map(folder / "sequences.npy", (rows, values, 1), np.float32)
    labels = open_map(folder / "labels.npy", (rows,), np.int64)
    lengths = open_map(folder / "lengths.npy", (rows,), np.int32)
    sequences[:] = np.arange(rows, dtype=np.float32)[:, None, None]
    labels[:] = np.arange(rows) % 3
    lengths[:] = np.arange(rows) % values + 1
    for array in (sequences, labels, lengths):
        array.flush()
    return SplitArrays(sequences, labels, lengths if ragged else None)


@pytest.fixture
def arrays(tmp_path: Path) -> SplitArrays:
    return write(tmp_path, ROWS, ragged=True)


@pytest.fixture
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for some 200 of the rows."""
    monkeypatch.setattr(batches, "BUFFER_BYTES", 200 * 44)
    monkeypatch.setattr(batches, "BLOCKS_PER_BUFFER", 8)


def deal(dealt: Batches, epoch: int, first_step: int = 0) -> list[Tensor]:
    """The numbers of the rows of each batch, which the labels and the lengths agree with."""
    found = []
    for batch in dealt.epoch(epoch, first_step):
        sequences, lengths = batch.inputs
        rows = sequences[:, 0, 0].long()
        assert (sequences == rows[:, None, None]).all()
        assert torch.equal(lengths, (rows % 6 + 1).int())
        assert torch.equal(batch.labels, rows % 3)
        found.append(rows)
    return found


def test_an_epoch_has_every_row_once(arrays: SplitArrays) -> None:
    dealt = Batches(arrays, 64, ALONE, seed=0)
    found = deal(dealt, 0)
    assert [len(rows) for rows in found] == [64] * 15 + [43]
    assert len(dealt) == 16
    assert torch.equal(torch.cat(found).sort().values, torch.arange(ROWS))


@pytest.mark.usefixtures("small_buffer")
@pytest.mark.parametrize("batch_size", [1, 7, 64, 250, 1002])
def test_a_split_larger_than_the_buffer_has_every_row_once(arrays: SplitArrays, batch_size: int) -> None:
    dealt = Batches(arrays, batch_size, ALONE, seed=0)
    for epoch in range(3):
        found = deal(dealt, epoch)
        assert len(found) == len(dealt)
        assert {len(rows) for rows in found[:-1]} == {batch_size}
        assert torch.equal(torch.cat(found).sort().values, torch.arange(ROWS))


@pytest.mark.usefixtures("small_buffer")
def test_the_order_is_random_repeats_itself_and_changes_with_seed_and_epoch(arrays: SplitArrays) -> None:
    def order(seed: int, epoch: int) -> Tensor:
        return torch.cat(deal(Batches(arrays, 50, ALONE, seed=seed), epoch))

    first = order(0, 0)
    assert torch.equal(order(0, 0), first)
    for other in (order(1, 0), order(0, 1), torch.arange(ROWS)):
        assert (first == other).float().mean() < 0.02
    # The 25 rows of a block are in one buffer of 200, but not side by side.
    assert ((first[1:] - first[:-1]).abs() == 1).float().mean() < 0.05


@pytest.mark.usefixtures("small_buffer")
@pytest.mark.parametrize("first_step", [1, 4, 5, 19, 21])
def test_an_epoch_can_be_begun_at_any_step(arrays: SplitArrays, first_step: int) -> None:
    whole = deal(Batches(arrays, 50, ALONE, seed=0), 3)
    rest = deal(Batches(arrays, 50, ALONE, seed=0), 3, first_step)
    assert len(rest) == len(whole) - first_step
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[first_step:], strict=True))


@pytest.mark.parametrize("seed", [0, None], ids=["shuffled", "in order"])
@pytest.mark.usefixtures("small_buffer")
def test_processes_share_the_batches_of_one(arrays: SplitArrays, seed: int | None) -> None:
    """The last batch of 50 has 3 rows: with four processes, one has no share in it."""
    alone = Batches(arrays, 50, ALONE, seed=seed).epoch(1)
    shares = [Batches(arrays, 50, Processes(CPU, rank, 4), seed=seed).epoch(1) for rank in range(4)]
    for whole, *parts in zip(alone, *shares, strict=True):
        assert {(part.rows, part.weight) for part in parts} == {(whole.rows, len(whole.labels))}
        rows = torch.cat([part.inputs[0][part.labels != IGNORED] for part in parts])
        assert torch.equal(rows[:, 0, 0].sort().values, whole.inputs[0][:, 0, 0].sort().values)
    assert [len(part.labels) for part in parts] == [1, 1, 1, 1]
    assert parts[3].labels.tolist() == [IGNORED]


def test_a_batch_weighs_what_its_rows_do(arrays: SplitArrays) -> None:
    """Over all processes, of whose rows each has some."""
    weights = torch.tensor([0.5, 1.0, 4.0])
    dealt = Batches(arrays, 50, ALONE, seed=0, class_weights=weights.tolist())
    shared = Batches(arrays, 50, Processes(CPU, 2, 3), seed=0, class_weights=weights.tolist())
    for whole, part in zip(dealt.epoch(0), shared.epoch(0), strict=True):
        assert whole.weight == part.weight == weights[whole.labels].sum()


def test_without_a_seed_the_rows_keep_their_order(arrays: SplitArrays) -> None:
    assert torch.equal(torch.cat(deal(Batches(arrays, 64, ALONE, seed=None), 5)), torch.arange(ROWS))


def test_a_full_batch_is_the_split_as_it_is_and_not_copied(arrays: SplitArrays) -> None:
    dealt = Batches(arrays, None, ALONE, seed=0)
    [first], [second] = dealt.epoch(0), dealt.epoch(1)
    assert torch.equal(first.inputs[0], torch.from_numpy(arrays.sequences))
    assert first.inputs[0].data_ptr() == second.inputs[0].data_ptr()


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for the memory in use")
@pytest.mark.parametrize(("seed", "buffers"), [(0, 1.5), (None, 0.5)], ids=["shuffled", "in order"])
def test_a_long_epoch_takes_no_more_memory_than_the_buffer(tmp_path: Path, seed: int | None, buffers: float) -> None:
    sequences = open_map(tmp_path / "sequences.npy", (200_000, 200, 1), np.float32)  # 160 MB
    labels = open_map(tmp_path / "labels.npy", (200_000,), np.int64)
    dealt = Batches(SplitArrays(sequences, labels, None), 2000, ALONE, seed=seed)
    before, most = resident(), 0
    for batch in dealt.epoch(0):
        assert batch.labels.sum() == 0
        most = max(most, resident())
    assert most - before < buffers * batches.BUFFER_BYTES
