"""Compressed weights: ops that the runtime expands into a constant when it loads the model."""

from typing import Any, SupportsInt

from shared.coreml_reference.ops.broadcasting import along_axis
from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@kernel("constexpr_cast")
def constexpr_cast(source_val: Array, output_dtype: str = "fp32") -> Array:  # noqa: ARG001 - the output declares it
    """`output = source_val`, an fp16 constant stored for an fp32 use."""
    return source_val


@kernel("constexpr_affine_dequantize")
def constexpr_affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: SupportsInt) -> Array:
    """`output = scale * (quantized_data - zero_point)`, scale and zero point along `axis` or for the whole tensor."""
    rank = quantized_data.ndim
    return along_axis(scale, rank, axis) * (
        quantized_data.astype(np.float64) - along_axis(zero_point, rank, axis).astype(np.float64)
    )


def _unpack(packed: Array, bits: int, count: int) -> Array:
    """`count` unsigned integers of `bits` bits each, packed from the least significant bit on."""
    stream = np.unpackbits(packed.astype(np.uint8), count=bits * count, bitorder="little")
    values: Array = stream.reshape(count, bits) @ (1 << np.arange(bits))
    return values


def _blocks(sizes: tuple[int, ...], counts: tuple[int, ...]) -> tuple[Array, ...]:
    """For each axis, the block of every position: axis i has `counts[i]` blocks of equal length (an open grid)."""
    grid = np.indices(sizes, sparse=True)
    return tuple(where // (size // count) for where, size, count in zip(grid, sizes, counts, strict=True))


def _look_up(indices: Array, lut: Array, vector_axis: SupportsInt | None) -> Array:
    """Replace each index by its vector in the table of its block: see `constexpr_lut_to_dense`."""
    vectors: Array = lut[(*_blocks(indices.shape, lut.shape[:-2]), indices.astype(np.int64))]
    if lut.shape[-1] == 1:
        return vectors[..., 0]
    axis = int(vector_axis if vector_axis is not None else -1) % indices.ndim
    shape = list(indices.shape)
    shape[axis] *= lut.shape[-1]
    return np.moveaxis(vectors, -1, axis + 1).reshape(shape)


@kernel("constexpr_lut_to_dense")
def constexpr_lut_to_dense(
    indices: Array, lut: Array, shape: Array | None = None, vector_axis: SupportsInt | None = None
) -> Array:
    """`output[i] = lut[block(i), indices[i]]`: palettised weights.

    iOS16: one table; the indices are packed, log2(len(lut)) bits each, and read into `shape`. iOS18: `lut` has the rank
    of `indices` + 2; its first axes divide those of `indices` into blocks with a table each, and its last axis is the
    vector that each index becomes along `vector_axis`.
    """
    if shape is None:
        return _look_up(indices, lut, vector_axis)
    sizes = [int(size) for size in shape]
    bits = lut.size.bit_length() - 1
    return lut[_unpack(indices, bits, int(np.prod(sizes)))].reshape(sizes)


def _fill_mask(nonzero_data: Array, mask: Array) -> Array:
    """The values in row-major order where the mask is set, 0 elsewhere."""
    dense = np.zeros(mask.shape, dtype=nonzero_data.dtype)
    dense[mask != 0] = nonzero_data
    return dense


@kernel("constexpr_sparse_to_dense")
def constexpr_sparse_to_dense(nonzero_data: Array, mask: Array, shape: Array | None = None) -> Array:
    """The next of `nonzero_data` where the mask is 1, else 0, in row-major order.

    iOS16: the mask is packed, one bit an element, and read into `shape`. iOS18: it is a tensor of the output's shape.
    """
    if shape is not None:
        sizes = [int(size) for size in shape]
        mask = _unpack(mask, 1, int(np.prod(sizes))).reshape(sizes)
    return _fill_mask(nonzero_data, mask)


@kernel("constexpr_blockwise_shift_scale")
def constexpr_blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """`output[i] = scale[block(i)] * (data[i] - offset[block(i)])`; `scale.shape[k]` blocks along axis k."""
    block = _blocks(data.shape, scale.shape)
    steps = data.astype(np.float64)
    if offset is not None:
        steps = steps - offset.astype(np.float64)[block]
    return scale[block] * steps


@kernel("constexpr_lut_to_sparse")
def constexpr_lut_to_sparse(
    indices_mask: Array, indices_nonzero_data: Array, lut: Array, vector_axis: SupportsInt | None = None
) -> tuple[Array, Array]:
    """`constexpr_lut_to_dense` on the elements that the mask keeps: (the mask, the values kept).

    Where an index becomes a vector, the mask is repeated along `vector_axis`.
    """
    dense = _look_up(_fill_mask(indices_nonzero_data, indices_mask), lut, vector_axis)
    mask = indices_mask
    if lut.shape[-1] > 1 and vector_axis is not None:
        mask = np.repeat(mask, lut.shape[-1], int(vector_axis))
    return mask, dense[mask != 0]


@kernel("constexpr_sparse_blockwise_shift_scale")
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None
) -> tuple[Array, Array]:
    """`constexpr_blockwise_shift_scale` on the elements that the mask keeps: (the mask, the values kept)."""
    dense = constexpr_blockwise_shift_scale(_fill_mask(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]
