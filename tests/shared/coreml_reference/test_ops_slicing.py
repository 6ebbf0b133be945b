"""Cutting and extending against numpy and torch."""

from shared.coreml_reference.errors import EvaluationError
from shared.coreml_reference.ops.slicing import crop, pad, slice_by_index, slice_by_size, slice_update, split

import numpy as np
import pytest
import torch

X = np.arange(60.0).reshape(3, 4, 5)


def test_slice_by_index_with_masks_and_strides() -> None:
    begin, end, stride = np.array([-1, 9, 3]), np.array([0, 9, 0]), np.array([-1, 2, -2])
    masks = {"begin_mask": np.array([False, True, False]), "end_mask": np.array([True, True, False])}
    np.testing.assert_array_equal(slice_by_index(X, begin, end, stride, **masks), X[-1::-1, ::2, 3:0:-2])


def test_slice_by_index_squeezes() -> None:
    begin, end = np.array([-1, 1, 0]), np.array([0, 3, 0])
    squeeze_mask = np.array([True, False, True])
    np.testing.assert_array_equal(slice_by_index(X, begin, end, squeeze_mask=squeeze_mask), X[-1, 1:3, 0])
    assert slice_by_index(X, begin, end, squeeze_mask=np.ones(3, bool)) == X[-1, 1, 0]


def test_slice_update_leaves_its_input_alone() -> None:
    before = X.copy()
    updated = slice_update(X, np.zeros((1, 2)), np.array([0, 1, 4]), np.array([1, 3, 5]), squeeze_mask=np.eye(3)[2] > 0)
    np.testing.assert_array_equal(updated[0, 1:3, 4], 0)
    assert np.count_nonzero(updated != X) == 2
    np.testing.assert_array_equal(X, before)


def test_slice_by_size_from_the_end_and_to_the_end() -> None:
    np.testing.assert_array_equal(slice_by_size(X, np.array([-2, 0, 1]), np.array([2, -1, 3])), X[1:3, :, 1:4])


def test_split_by_number_and_by_sizes() -> None:
    assert [part.shape[1] for part in split(X, 1, num_splits=2)] == [2, 2]
    parts = split(X, -1, split_sizes=np.array([1, 0, 4]))
    np.testing.assert_array_equal(parts[2], X[..., 1:])
    assert parts[1].shape == (3, 4, 0)


def test_crop() -> None:
    np.testing.assert_array_equal(crop(X, np.array([1, 0]), np.array([2, 1])), X[:, 1:, 2:4])


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
def test_pad_the_last_axes(mode: str) -> None:
    value = {"value": 7.0} if mode == "constant" else {}
    expected = torch.nn.functional.pad(torch.from_numpy(X), (2, 1, 0, 3), mode, **value)
    np.testing.assert_array_equal(pad(X, np.array([0, 3, 2, 1]), mode, 7.0), expected)


def test_what_cannot_be_cut_or_padded_is_named() -> None:
    with pytest.raises(EvaluationError, match="needs num_splits or split_sizes"):
        split(X, 1)
    with pytest.raises(EvaluationError, match="unknown padding mode 'wrap'"):
        pad(X, np.array([1, 1]), "wrap")
