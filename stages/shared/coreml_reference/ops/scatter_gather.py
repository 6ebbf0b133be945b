"""Ops that read and write elements at indices given by a tensor.

Up to iOS16 a negative index counts from the end. From iOS17 on (where `validate_indices` exists) it is out of bounds,
and Core ML leaves the result of an index out of bounds undefined unless it is validated: there is nothing to compute,
so it is an error here in every case.
"""

from typing import Any, SupportsInt

from shared.coreml_reference.errors import EvaluationError
from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _checked(indices: Array, size: int, validate_indices: bool | None) -> Array:
    """The indices, all of them in `[0, size)`; up to iOS16 (`validate_indices` is None) in `[-size, size)`."""
    lowest = -size if validate_indices is None else 0
    outside = (indices < lowest) | (indices >= size)
    if outside.any():
        undefined = "" if validate_indices else ", for which Core ML does not define a result"
        raise EvaluationError(f"index {indices[outside].flat[0]} is outside [{lowest}, {size}){undefined}")
    return indices.astype(np.int64)


@kernel("gather", moving=True)
def gather(
    x: Array,
    indices: Array,
    axis: SupportsInt = 0,
    batch_dims: SupportsInt = 0,
    validate_indices: bool | None = None,
) -> Array:
    """`output[b, p, i, q] = x[b, p, indices[b, i], q]`: whole slices along `axis` (as `tf.gather`).

    b runs over the first `batch_dims` axes, p over those before `axis`, i over the rest of `indices`, q after `axis`.
    """
    position, batch = int(axis) % x.ndim, int(batch_dims)
    where = _checked(np.asarray(indices), x.shape[position], validate_indices)
    if batch == 0:
        return np.asarray(np.take(x, where, position))
    entries = int(np.prod(x.shape[:batch]))
    before, after = (int(np.prod(sizes)) for sizes in (x.shape[batch:position], x.shape[position + 1 :]))
    flat = x.reshape(entries, before, x.shape[position], after)
    taken = flat[np.arange(entries)[:, np.newaxis], :, where.reshape(entries, -1)]  # (b, i, p, q)
    return np.swapaxes(taken, 1, 2).reshape(x.shape[:position] + where.shape[batch:] + x.shape[position + 1 :])


@kernel("gather_along_axis", moving=True)
def gather_along_axis(x: Array, indices: Array, axis: SupportsInt = 0, validate_indices: bool | None = None) -> Array:
    """`output[p, i, q] = x[p, indices[p, i, q], q]`, i along `axis` (as `torch.gather`)."""
    return np.take_along_axis(x, _checked(indices, x.shape[int(axis)], validate_indices), int(axis))


def _checked_tuples(indices: Array, sizes: tuple[int, ...], validate_indices: bool | None) -> tuple[Array, ...]:
    """The last axis of `indices` as one index array per axis of the data."""
    return tuple(
        _checked(indices[..., axis], size, validate_indices) for axis, size in enumerate(sizes[: indices.shape[-1]])
    )


@kernel("gather_nd", moving=True)
def gather_nd(x: Array, indices: Array, batch_dims: SupportsInt = 0, validate_indices: bool | None = None) -> Array:
    """`output[b, i] = x[b][indices[b, i, 0], indices[b, i, 1], ...]` (as `tf.gather_nd`).

    b runs over the first `batch_dims` axes, which x and `indices` share.
    """
    batch = int(batch_dims)
    entries = np.indices(x.shape[:batch], sparse=True)
    rest = (1,) * (indices.ndim - 1 - batch)
    index = tuple(entry.reshape(entry.shape + rest) for entry in entries)
    return np.asarray(x[index + _checked_tuples(indices, x.shape[batch:], validate_indices)])


def _write(data: Array, index: tuple[Any, ...], updates: Array, mode: str) -> Array:
    """A copy of `data` with `output[index] = output[index] <mode> updates`, one update after another."""
    output = data.copy()
    match mode:
        case "update":
            output[index] = updates
        case "add":
            np.add.at(output, index, updates)
        case "sub":
            np.subtract.at(output, index, updates)
        case "mul":
            np.multiply.at(output, index, updates)
        case "div":
            output = data.astype(np.float64)  # integers: divided as real numbers, then cut to the declared dtype
            np.divide.at(output, index, updates)
        case "max":
            np.maximum.at(output, index, updates)
        case "min":
            np.minimum.at(output, index, updates)
        case _:
            raise EvaluationError(f"unknown mode {mode!r}")
    return output.astype(data.dtype, copy=False)


@kernel("scatter", moving="update")
def scatter(
    data: Array,
    indices: Array,
    updates: Array,
    axis: SupportsInt = 0,
    mode: str = "add",
    validate_indices: bool | None = None,
) -> Array:
    """`output[p, indices[i], q] = data[p, indices[i], q] <mode> updates[p, i, q]`, p before `axis`, q after it."""
    position = int(axis) % data.ndim
    where = _checked(indices, data.shape[position], validate_indices)
    return _write(data, (slice(None),) * position + (where,), updates, mode)


@kernel("scatter_along_axis", moving="update")
def scatter_along_axis(
    data: Array,
    indices: Array,
    updates: Array,
    axis: SupportsInt = 0,
    mode: str = "add",
    validate_indices: bool | None = None,
) -> Array:
    """`output[p, indices[p, i, q], q] = data[p, indices[p, i, q], q] <mode> updates[p, i, q]`, i along `axis`."""
    index = list(np.indices(indices.shape, sparse=True))
    index[int(axis)] = _checked(indices, data.shape[int(axis)], validate_indices)
    return _write(data, tuple(index), updates, mode)


@kernel("scatter_nd", moving="update")
def scatter_nd(
    data: Array, indices: Array, updates: Array, mode: str = "add", validate_indices: bool | None = None
) -> Array:
    """`output[indices[i, 0], indices[i, 1], ...] = output[...] <mode> updates[i]`."""
    return _write(data, _checked_tuples(indices, data.shape, validate_indices), updates, mode)
