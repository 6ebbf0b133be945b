"""Rearranging ops against torch and numpy."""

from typing import Any

from shared.coreml_reference.ops.shape import (
    batch_to_space,
    depth_to_space,
    flatten2d,
    pixel_shuffle,
    pixel_unshuffle,
    reshape,
    reshape_like,
    reverse,
    reverse_sequence,
    sliding_windows,
    space_to_batch,
    space_to_depth,
    squeeze,
)

import numpy as np
import pytest
import torch
from numpy.typing import NDArray


def counting(*shape: int) -> NDArray[Any]:
    return np.arange(np.prod(shape, dtype=int), dtype=np.float64).reshape(shape)


@pytest.mark.parametrize(
    ("source", "shape", "expected"),
    [
        ((2, 50), [1, 0, -1, 0], (1, 1, 2, 50)),
        ((2, 3, 4), [0, -1], (3, 8)),
        ((2, 3), [0, 0], (2, 3)),
        ((4,), [2, 2, -1], (2, 2, 1)),
        ((), [1], (1,)),
    ],
)
def test_reshape_inherits_zeros_from_the_right(source: tuple[int, ...], shape: Any, expected: tuple[int, ...]) -> None:
    assert reshape(counting(*source), np.array(shape)).shape == expected


def test_reshape_like_joins_slices_of_shapes() -> None:
    references = [counting(2, 3, 4), counting(1, 5, 6)]
    begins, ends, masks = ([np.array(value) for value in values] for values in ([0, 1], [2, 0], [False, True]))
    assert reshape_like(counting(30, 6), references, begins, ends, masks).shape == (2, 3, 5, 6)


@pytest.mark.parametrize(("axis", "expected"), [(0, (1, 12)), (1, (3, 4)), (-1, (3, 4)), (2, (12, 1))])
def test_flatten2d(axis: int, expected: tuple[int, ...]) -> None:
    assert flatten2d(counting(3, 4), axis).shape == expected


def test_squeeze_keeps_other_sizes_and_reaches_a_scalar() -> None:
    assert squeeze(counting(2, 1, 3, 1), np.array([0, -1])).shape == (2, 1, 3)
    assert squeeze(counting(1, 1)).shape == ()


def test_reverse() -> None:
    x = counting(2, 3)
    np.testing.assert_array_equal(reverse(x, np.array([-1])), x[:, ::-1])
    np.testing.assert_array_equal(reverse(x), x[::-1, ::-1])


def test_reverse_sequence_with_the_batch_after_the_time() -> None:
    x = counting(4, 2, 3)
    expected = np.stack([np.concatenate([x[2::-1, 0], x[3:, 0]]), x[:, 1]], axis=1)
    np.testing.assert_array_equal(reverse_sequence(x, np.array([3, 0]), seq_axis=0, batch_axis=1), expected)


def test_sliding_windows_sit_after_their_axis() -> None:
    x = counting(2, 7, 3)
    expected = torch.from_numpy(x).unfold(1, 3, 2).movedim(-1, 2)
    np.testing.assert_array_equal(sliding_windows(x, axis=-2, size=3, stride=2), expected)


def test_pixel_shuffle_and_back() -> None:
    x = counting(2, 18, 2, 5)
    shuffled = pixel_shuffle(x, 3)
    np.testing.assert_array_equal(shuffled, torch.pixel_shuffle(torch.from_numpy(x), 3))
    np.testing.assert_array_equal(pixel_unshuffle(shuffled, 3), x)


def test_depth_to_space_takes_blocks_first_and_back() -> None:
    x = counting(1, 8, 1, 1)
    np.testing.assert_array_equal(depth_to_space(x, 2), [[[[0, 2], [4, 6]], [[1, 3], [5, 7]]]])
    np.testing.assert_array_equal(space_to_depth(depth_to_space(x, 2), 2), x)


def test_space_to_batch_pads_and_back() -> None:
    x = counting(2, 3, 4, 5)
    block, paddings = np.array([3, 2]), np.array([[1, 1], [0, 1]])
    batches = space_to_batch(x, block, paddings)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 1)))
    np.testing.assert_array_equal(batches[2:4], padded[:, :, 0::3, 1::2])
    np.testing.assert_array_equal(batch_to_space(batches, block, paddings), x)
