"""Pooling over one to three spatial axes: `avg_pool`, `max_pool` and `l2_pool`.

A window's sum and its maximum can be taken one axis after the other, so each axis costs as many steps as its kernel is
long, whatever the other axes are.
"""

from typing import Any

from shared.coreml_reference.ops.broadcasting import along_axis
from shared.coreml_reference.ops.windows import Numbers, output_size, paddings
from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@kernel("avg_pool")
def avg_pool(
    x: Array,
    kernel_sizes: Numbers,
    strides: Numbers | None = None,
    pad_type: str = "valid",
    pad: Numbers | None = None,
    ceil_mode: bool = False,
    exclude_padding_from_average: bool = False,
) -> Array:
    """Return each window's sum over its number of elements, with or without the padding among them.

    Elements that a window has beyond the padding (in `ceil_mode`, as in torch) never count.
    """
    layout = _layout(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    out = _reduce_windows(x, layout, np.add, fill=0.0)
    for axis, (size, stride, padding, count) in enumerate(layout, start=2):
        before, after = (0, 0) if exclude_padding_from_average else padding
        start = np.arange(count) * stride - padding[0]
        end = np.minimum(start + size, x.shape[axis] + after)
        elements = end - np.maximum(start, -before)
        out /= along_axis(elements, x.ndim, axis)
    return out


@kernel("max_pool")
def max_pool(
    x: Array,
    kernel_sizes: Numbers,
    strides: Numbers | None = None,
    pad_type: str = "valid",
    pad: Numbers | None = None,
    ceil_mode: bool = False,
) -> Array:
    """Return the largest element of each window; padding never wins."""
    layout = _layout(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return _reduce_windows(x, layout, np.maximum, fill=-np.inf)


@kernel("l2_pool")
def l2_pool(
    x: Array,
    kernel_sizes: Numbers,
    strides: Numbers | None = None,
    pad_type: str = "valid",
    pad: Numbers | None = None,
    ceil_mode: bool = False,
) -> Array:
    """Return the square root of each window's sum of squares."""
    layout = _layout(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return np.sqrt(_reduce_windows(np.square(x), layout, np.add, fill=0.0))


# Of one spatial axis: the kernel's size, the stride, the padding (before, after) and the number of windows.
Axis = tuple[int, int, tuple[int, int], int]


def _layout(
    x: Array,
    kernel_sizes: Numbers,
    strides: Numbers | None,
    pad_type: str,
    pad: Numbers | None,
    ceil_mode: bool,
) -> list[Axis]:
    sizes = [int(size) for size in kernel_sizes]
    steps = [1] * len(sizes) if strides is None else [int(stride) for stride in strides]
    padding = paddings(pad_type, pad, x.shape[2:], sizes, steps)
    counts = (
        output_size(length, size, stride, ends, bool(ceil_mode))
        for length, size, stride, ends in zip(x.shape[2:], sizes, steps, padding, strict=True)
    )
    return list(zip(sizes, steps, padding, counts, strict=True))


def _reduce_windows(x: Array, layout: list[Axis], combine: np.ufunc, fill: float) -> Array:
    """Combine the elements of every window, of x padded with `fill`, one axis after the other."""
    for axis, (size, stride, (before, after), count) in enumerate(layout, start=2):
        overhang = max(0, (count - 1) * stride + size - x.shape[axis] - before - after)
        ends = [(0, 0)] * x.ndim
        ends[axis] = (before, after + overhang)
        padded = np.pad(x, ends, constant_values=fill) if max(ends[axis]) else x
        lead, reach = (slice(None),) * axis, (count - 1) * stride + 1
        x = padded[*lead, :reach:stride].copy()
        for offset in range(1, size):
            combine(x, padded[*lead, offset : offset + reach : stride], out=x)
    return x
