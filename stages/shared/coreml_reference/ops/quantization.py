"""Quantisation of activations, while the model runs. Weights: `constexpr`."""

from typing import Any, SupportsInt

from shared.coreml_reference.ops.broadcasting import along_axis
from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@kernel("quantize")
def quantize(
    input: Array,  # noqa: A002 - MIL's name
    scale: Array,
    output_dtype: str,
    zero_point: Array | None = None,
    axis: SupportsInt | None = None,
) -> Array:
    """`output = clip(round(input / scale) + zero_point)` to the range of `output_dtype`; halves round to even."""
    steps = np.round(input / along_axis(scale, input.ndim, axis))
    if zero_point is not None:
        steps = steps + along_axis(zero_point, input.ndim, axis)
    limits = np.iinfo(output_dtype)
    return np.clip(steps, limits.min, limits.max).astype(output_dtype)


@kernel("dequantize")
def dequantize(
    input: Array,  # noqa: A002 - MIL's name
    scale: Array,
    zero_point: Array | None = None,
    axis: SupportsInt | None = None,
) -> Array:
    """`output = scale * (input - zero_point)`."""
    steps = input.astype(np.float64)
    if zero_point is not None:
        steps = steps - along_axis(zero_point, input.ndim, axis)
    return along_axis(scale, input.ndim, axis) * steps
