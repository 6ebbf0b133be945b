"""Walking over arrays that are larger than memory should be."""

import sys
from pathlib import Path
from typing import Literal

import shared.data.chunks
from shared.data.chunks import chunks

import numpy as np
import pytest

MEGABYTE = 2**20


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's /proc")
@pytest.mark.parametrize("mode", ["r", "c"])
def test_memory_stays_flat(tmp_path: Path, mode: Literal["r", "c"]) -> None:
    np.save(tmp_path / "array.npy", np.ones((64 * MEGABYTE // 8, 2), np.float32))
    array = np.load(tmp_path / "array.npy", mmap_mode=mode)
    before = resident()
    total, most = 0.0, 0
    for (part,) in chunks(array):
        total += float(part.sum(dtype=np.float64))
        most = max(most, resident() - before)
    assert total == array.size
    assert most < 8 * MEGABYTE


@pytest.mark.parametrize(("chunk_bytes", "chunk_rows"), [(64, None), (1, 4)], ids=["by bytes", "by rows"])
def test_every_row_comes_once_and_together(
    monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, chunk_rows: int | None
) -> None:
    monkeypatch.setattr(shared.data.chunks, "CHUNK_BYTES", chunk_bytes)
    rows, labels = np.arange(40, dtype=np.float32).reshape(10, 4), np.arange(10)
    parts = list(chunks(rows, labels, rows=chunk_rows))
    assert [len(part) for part, _ in parts] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), rows)
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), labels)


def test_no_rows_give_no_chunks() -> None:
    assert list(chunks(np.empty((0, 3)))) == []
