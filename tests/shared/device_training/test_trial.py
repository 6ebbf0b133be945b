"""The data of another sensor, and what a net is worth on them."""

from pathlib import Path

from shared.data.sequences import Prepared, Split, SplitArrays
from shared.device_training.trial import deal, shifted, worth
from tests.support import write_prepared

import numpy as np
import pytest


def test_numbers_are_measured_by_another_sensor_and_codes_stay(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    counts: dict[Split, int] = {"train": 40, "validation": 1, "test": 20}
    splits = {}
    for split, count in counts.items():
        sequences = generator.normal(size=(count, 5, 2)).astype(np.float32)
        sequences[:, :, 1] = generator.integers(0, 4, (count, 5))
        splits[split] = SplitArrays(sequences, np.arange(count) % 2, None)
    write_prepared(tmp_path / "prepared", splits, ["number", "code"], ["off", "on"])  # mean 0, deviation 1

    moved = shifted(Prepared(tmp_path / "prepared"), "test")
    before = splits["test"].sequences
    np.testing.assert_allclose(moved.sequences[..., 0], 0.7 * before[..., 0] + 0.5, atol=1e-6)
    np.testing.assert_array_equal(moved.sequences[..., 1], before[..., 1])


def test_every_epoch_has_every_row_once_in_another_order() -> None:
    batches = deal(rows=10, batch_size=4, epochs=2, seed=3)
    assert [len(batch) for batch in batches] == [4, 4, 2] * 2
    epochs = [np.concatenate(batches[start : start + 3]).tolist() for start in (0, 3)]
    assert epochs[0] != epochs[1]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2


def test_accuracy_and_loss() -> None:
    logits = np.array([[0, np.log(3)], [np.log(3), 0], [1e4, 0]], np.float32)
    found = worth(logits, np.array([1, 1, 0]))
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.loss == pytest.approx((np.log(4 / 3) + np.log(4) + 0) / 3)
