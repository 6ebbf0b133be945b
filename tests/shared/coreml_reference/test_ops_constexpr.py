"""Compressed weights: the examples of the ops' documentation, and tensors packed here."""

from shared.coreml_reference.ops.constexpr import (
    constexpr_affine_dequantize,
    constexpr_blockwise_shift_scale,
    constexpr_lut_to_dense,
    constexpr_lut_to_sparse,
    constexpr_sparse_blockwise_shift_scale,
    constexpr_sparse_to_dense,
)

import numpy as np
import pytest

RANDOM = np.random.default_rng(0)


def test_affine_dequantize_per_channel() -> None:
    data = np.array([[0, 255], [3, 4]], np.uint8)
    zero_point, scale = np.array([1, 200], np.uint8), np.array([0.5, 2.0])
    np.testing.assert_array_equal(constexpr_affine_dequantize(data, zero_point, scale, 1), [[-0.5, 110], [1, -392]])
    np.testing.assert_array_equal(constexpr_affine_dequantize(data, zero_point[0], scale[0], 0), (data - 1.0) / 2)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_packed_palette(bits: int) -> None:
    lut, indices = RANDOM.standard_normal(2**bits), RANDOM.integers(0, 2**bits, 35)
    stream = (indices[:, np.newaxis] >> np.arange(bits) & 1).ravel()
    packed = np.packbits(stream.astype(np.uint8), bitorder="little")
    dense = constexpr_lut_to_dense(packed, lut, shape=np.array([5, 7], np.uint32))
    np.testing.assert_array_equal(dense, lut[indices].reshape(5, 7))


def test_a_palette_for_each_group() -> None:
    indices = np.array([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3], np.uint8).reshape(6, 2)
    lut = np.array([1.0, 5, 9, 13, 2, 10, 18, 26]).reshape(2, 1, 4, 1)
    expected = [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]]
    np.testing.assert_array_equal(constexpr_lut_to_dense(indices, lut), expected)


def test_a_palette_of_vectors() -> None:
    indices = np.array([[[0, 0], [1, 0]], [[1, 1], [0, 0]]], np.uint8)
    a, b = np.array([1, 2, 3]), np.array([4, 5, 6])
    lut = np.stack([a, b]).reshape(1, 1, 1, 2, 3)
    last = constexpr_lut_to_dense(indices, lut, vector_axis=np.int32(2))
    np.testing.assert_array_equal(last, [[[*a, *a], [*b, *a]], [[*b, *b], [*a, *a]]])
    middle = constexpr_lut_to_dense(indices, lut, vector_axis=np.int32(-2))
    np.testing.assert_array_equal(middle[0, :, 0], [*a, *b])
    assert middle.shape == (2, 6, 2)


def test_sparse_to_dense_packed_and_plain() -> None:
    values, mask = np.array([1.5, 2.5]), np.array([[0, 0, 1], [1, 0, 0]], np.uint8)
    expected = [[0, 0, 1.5], [2.5, 0, 0]]
    np.testing.assert_array_equal(constexpr_sparse_to_dense(values, mask), expected)
    packed = np.packbits(mask.ravel(), bitorder="little")
    np.testing.assert_array_equal(constexpr_sparse_to_dense(values, packed, np.array([2, 3], np.uint32)), expected)


def test_blockwise_shift_scale() -> None:
    data = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    scale, offset = np.array([[1.0, 2.0], [0.5, 4.0]]), np.array([[1, -1], [0, 3]], np.int8)
    expected = np.kron(scale, np.ones((2, 2))) * (data - np.kron(offset, np.ones((2, 2))))
    np.testing.assert_array_equal(constexpr_blockwise_shift_scale(data, scale, offset), expected)


MASK = np.array([[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1], [0, 1, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0]], np.uint8)
INDICES = np.array([0, 1, 1, 0, 1, 1, 0, 0, 1], np.uint8)


def test_sparse_palette() -> None:
    mask, values = constexpr_lut_to_sparse(MASK, INDICES, np.array([2.0, 3.0]).reshape(1, 1, 2, 1))
    np.testing.assert_array_equal(mask, MASK)
    np.testing.assert_array_equal(values, [2, 3, 3, 2, 3, 3, 2, 2, 3])


def test_sparse_palette_of_vectors() -> None:
    lut = np.array([[2.0, 20.0], [3.0, 30.0]]).reshape(1, 1, 2, 2)
    mask, values = constexpr_lut_to_sparse(MASK, INDICES, lut, np.int32(0))
    np.testing.assert_array_equal(mask, np.repeat(MASK, 2, axis=0))
    np.testing.assert_array_equal(values[:4], [2, 3, 20, 30])
    dense = constexpr_sparse_to_dense(values, mask)
    np.testing.assert_array_equal(dense[::2] * 10, dense[1::2])


def test_sparse_blockwise_shift_scale() -> None:
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]], np.uint8)
    data = np.array([10, 11, 3, 4, 5, 6, 7, 8, 9], np.int8)
    scale, offset = np.array([[0.1, 0.2, 0.3, 0.4]]), np.array([[1, 2, 3, 4]], np.int8)
    kept, values = constexpr_sparse_blockwise_shift_scale(mask, data, scale, offset)
    np.testing.assert_array_equal(kept, mask)
    np.testing.assert_allclose(values, [0.9, 1.8, 0.2, 0.4, 0.6, 0.9, 1.2, 0.7, 1.4])
