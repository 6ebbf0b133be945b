"""Ops that build, join, order and select tensors (MIL's `tensor_operation` family)."""

from typing import Any, SupportsInt

import numpy as np
from numpy.typing import NDArray

from shared.coreml_reference.registry import kernel

Array = NDArray[Any]


@kernel("identity")
def identity(x: Any) -> Any:
    """`output = x`."""
    return x


@kernel("shape")
def shape(x: Array) -> Array:
    """The sizes of x's dimensions, as int32."""
    return np.array(x.shape, dtype=np.int32)


@kernel("fill")
def fill(shape: Array, value: float | Array = 0.0) -> Array:
    """A tensor of `shape` whose every element is `value`."""
    return np.full([int(size) for size in shape], value)


@kernel("fill_like")
def fill_like(ref_tensor: Array, value: float | Array = 0.0) -> Array:
    """A tensor of `ref_tensor`'s shape (not its dtype) whose every element is `value`."""
    return np.full(ref_tensor.shape, value)


@kernel("tile")
def tile(x: Array, reps: Array) -> Array:
    """Repeat x `reps[i]` times along axis i."""
    return np.tile(x, [int(count) for count in reps])


@kernel("concat")
def concat(values: list[Array], axis: SupportsInt, interleave: bool = False) -> Array:
    """Join along an existing axis, scalars into a vector.

    Interleaved, with n equal shapes: `output[i * n + k] = values[k][i]` along `axis`.
    """
    arrays = [np.atleast_1d(value) for value in values]
    if not interleave:
        return np.concatenate(arrays, int(axis))
    position = int(axis) % arrays[0].ndim
    joined = list(arrays[0].shape)
    joined[position] *= len(arrays)
    return np.stack(arrays, position + 1).reshape(joined)


@kernel("stack")
def stack(values: list[Array], axis: SupportsInt) -> Array:
    """Join along a new axis: `output[..., k, ...] = values[k]`."""
    return np.stack(values, int(axis))
