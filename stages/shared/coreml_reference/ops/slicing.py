"""Ops that cut a tensor, write into a part of it, or extend it."""

from typing import Any, SupportsInt

from shared.coreml_reference.errors import EvaluationError
from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _index(
    begin: Array,
    end: Array,
    stride: Array | None,
    begin_mask: Array | None,
    end_mask: Array | None,
    squeeze_mask: Array | None,
) -> tuple[slice | int, ...]:
    """The numpy index of `slice_by_index`: `begin:end:stride`, `begin` alone on a squeezed axis; a mask means open."""
    index: list[slice | int] = []
    for axis in range(len(begin)):
        first = None if begin_mask is not None and begin_mask[axis] else int(begin[axis])
        last = None if end_mask is not None and end_mask[axis] else int(end[axis])
        if squeeze_mask is not None and squeeze_mask[axis]:
            index.append(first or 0)
        else:
            index.append(slice(first, last, None if stride is None else int(stride[axis])))
    return tuple(index)


@kernel("slice_by_index", moving=True)
def slice_by_index(
    x: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    """`x[begin[0]:end[0]:stride[0], ...]` as in numpy; a masked bound is open, a squeezed axis indexed."""
    return np.asarray(x[_index(begin, end, stride, begin_mask, end_mask, squeeze_mask)])


@kernel("slice_update", moving=True)
def slice_update(
    x: Array,
    update: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    """A copy of x in which the part that `slice_by_index` would read is `update`."""
    output = x.copy()
    output[_index(begin, end, stride, begin_mask, end_mask, squeeze_mask)] = update
    return output


@kernel("slice_by_size", moving=True)
def slice_by_size(x: Array, begin: Array, size: Array) -> Array:
    """`x[begin[0]:begin[0] + size[0], ...]`; a negative `begin` counts from the end, a size of -1 takes the rest."""
    index = []
    for length, first, count in zip(x.shape, begin, size, strict=True):
        start = int(first) + (length if first < 0 else 0)
        index.append(slice(start, None if count == -1 else start + int(count)))
    return x[tuple(index)]


@kernel("split", moving=True)
def split(
    x: Array, axis: SupportsInt, num_splits: SupportsInt | None = None, split_sizes: Array | None = None
) -> tuple[Array, ...]:
    """Cut x along `axis` into pieces of `split_sizes`, or into `num_splits` equal ones."""
    if split_sizes is not None:
        return tuple(np.split(x, np.cumsum(split_sizes)[:-1], int(axis)))
    if num_splits is None:
        raise EvaluationError("split needs num_splits or split_sizes")
    return tuple(np.split(x, int(num_splits), int(axis)))


@kernel("crop", moving=True)
def crop(x: Array, crop_height: Array, crop_width: Array) -> Array:
    """Drop rows at the top and bottom (`crop_height`) and columns at the left and right (`crop_width`)."""
    (top, bottom), (left, right) = crop_height.ravel(), crop_width.ravel()
    return x[..., int(top) : x.shape[-2] - int(bottom), int(left) : x.shape[-1] - int(right)]


@kernel("pad", moving=True)
def pad(x: Array, pad: Array, mode: str = "constant", constant_val: float | Array = 0.0) -> Array:
    """Extend the last `len(pad) / 2` axes by `pad` = (before, after) pairs.

    New values: `constant_val` (`constant`), the mirror image without the edge (`reflect`) or the edge (`replicate`).
    """
    widths = [(0, 0)] * (x.ndim - len(pad) // 2) + [(int(before), int(after)) for before, after in pad.reshape(-1, 2)]
    match mode:
        case "constant":
            return np.pad(x, widths, constant_values=constant_val)
        case "reflect":
            return np.pad(x, widths, "reflect")
        case "replicate":
            return np.pad(x, widths, "edge")
    raise EvaluationError(f"unknown padding mode {mode!r}: constant, reflect or replicate")
