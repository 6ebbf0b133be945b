"""Ops that read and write elements at indices given by a tensor."""

from typing import Any, SupportsInt

import numpy as np
from numpy.typing import NDArray

from shared.coreml_reference.errors import EvaluationError
from shared.coreml_reference.registry import kernel

Array = NDArray[Any]


def _checked(indices: Array, size: int, validate_indices: bool) -> Array:
    """The indices, none outside `[-size, size)` (`[0, size)` with `validate_indices`).

    From iOS17 on a negative index without validation is undefined; it is read here as in iOS15: from the end. Core ML
    leaves what happens beyond the bounds undefined, so there is nothing to compute.
    """
    lowest = 0 if validate_indices else -size
    if indices.size and not (lowest <= indices.min() and indices.max() < size):
        wrong = int(indices.min()) if indices.min() < lowest else int(indices.max())
        raise EvaluationError(f"index {wrong} is outside [{lowest}, {size})")
    return indices.astype(np.int64)


@kernel("gather")
def gather(
    x: Array,
    indices: Array,
    axis: SupportsInt = 0,
    batch_dims: SupportsInt = 0,
    validate_indices: bool = False,
) -> Array:
    """`output[b, p, i, q] = x[b, p, indices[b, i], q]`: whole slices along `axis` (as `tf.gather`).

    b runs over the first `batch_dims` axes, p over those before `axis`, i over the rest of `indices`, q after `axis`.
    """
    axis, batch = int(axis) % x.ndim, int(batch_dims)
    where = _checked(np.asarray(indices), x.shape[axis], validate_indices)
    if batch == 0:
        return np.asarray(np.take(x, where, axis))
    entries = int(np.prod(x.shape[:batch]))
    flat = x.reshape(entries, int(np.prod(x.shape[batch:axis])), x.shape[axis], -1)
    taken = flat[np.arange(entries)[:, np.newaxis], :, where.reshape(entries, -1)]  # (b, i, p, q)
    return np.swapaxes(taken, 1, 2).reshape(x.shape[:axis] + where.shape[batch:] + x.shape[axis + 1 :])
