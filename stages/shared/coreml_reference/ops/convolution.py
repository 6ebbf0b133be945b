"""Convolutions over one to three spatial axes: `conv`, `conv_transpose` and `conv_quantized`."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, SupportsInt

from shared.coreml_reference.errors import EvaluationError
from shared.coreml_reference.ops.broadcasting import along_axis
from shared.coreml_reference.ops.windows import Numbers, output_size, paddings
from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[Any]

# Patches are multiplied in blocks of about this many bytes, which stay in the processor's cache.
BLOCK_BYTES = 2**19


@kernel("conv", single=True)
def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Numbers | None = None,
    pad_type: str = "valid",
    pad: Numbers | None = None,
    dilations: Numbers | None = None,
    groups: SupportsInt = 1,
) -> Array:
    """Return `out[n,o,p] = bias[o] + sum over c, k of weight[o,c,k] x[n, c, p * stride + k * dilation - before]`.

    x is (n, inputs, *sizes), weight is (outputs, inputs / groups, *kernel); p and k are spatial positions. Output o of
    group g sees the inputs of group g only.
    """
    rank, groups = x.ndim - 2, int(groups)
    strides, dilations = _ones_unless(strides, rank), _ones_unless(dilations, rank)
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(weight.shape[2:], dilations, strict=True)]
    padding = paddings(pad_type, pad, x.shape[2:], extents, strides)
    counts = tuple(map(output_size, x.shape[2:], extents, strides, padding))
    # Channels last: then all that a window holds of a row of positions lies together, and is copied at once; and so
    # does what the next convolution reads.
    x = _padded(np.moveaxis(x, 1, -1), padding)
    windows: Array = sliding_window_view(x, extents, axis=tuple(range(1, 1 + rank)))  # type: ignore[call-overload]
    steps: Any = (*(slice(None, None, s) for s in strides), ..., *(slice(None, None, d) for d in dilations))
    windows = windows[:, *steps]
    # (n, *positions, inputs, *kernel) -> (groups, n, *positions, *kernel, inputs / groups)
    windows = windows.reshape(*windows.shape[: 1 + rank], groups, -1, *windows.shape[2 + rank :])
    windows = windows.transpose(1 + rank, *range(1 + rank), *range(3 + rank, 3 + 2 * rank), 2 + rank)

    matrices = np.moveaxis(weight, 1, -1).reshape(groups, weight.shape[0] // groups, -1).swapaxes(1, 2)
    bias = np.zeros(weight.shape[0], weight.dtype) if bias is None else bias
    biases = bias.reshape(groups, *[1] * (1 + rank), -1)
    out = np.empty((groups, len(x), *counts, weight.shape[0] // groups), np.result_type(x, weight))
    for samples, rows in _blocks(windows[0].shape, windows.itemsize * groups):
        block, result = windows[:, samples, rows], out[:, samples, rows]
        products = block.reshape(groups, -1, matrices.shape[1]) @ matrices
        np.add(products.reshape(result.shape), biases, out=result)
    # (groups, n, *positions, outputs / groups) -> (n, outputs, *positions)
    return np.moveaxis(out, (0, -1), (1, 2)).reshape(len(x), -1, *counts)


def _padded(x: Array, padding: Sequence[tuple[int, int]]) -> Array:
    """Put zeros around the spatial axes of x (n, *sizes, inputs)."""
    if not np.any(padding):
        return x
    sizes = [size + before + after for size, (before, after) in zip(x.shape[1:-1], padding, strict=True)]
    padded = np.zeros((len(x), *sizes, x.shape[-1]), x.dtype)
    inner = (slice(before, size - after) for size, (before, after) in zip(sizes, padding, strict=True))
    padded[:, *inner] = x
    return padded


def _blocks(shape: tuple[int, ...], item_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Cut patches (n, *positions, ...) into runs of samples, or of rows of one sample, of about BLOCK_BYTES each."""
    samples, rows = shape[:2]
    row_bytes = max(1, item_bytes * int(np.prod(shape[2:])))
    rows_at_once = min(rows, max(1, BLOCK_BYTES // row_bytes))
    samples_at_once = max(1, BLOCK_BYTES // (row_bytes * rows_at_once)) if rows_at_once == rows else 1
    for sample in range(0, samples, samples_at_once):
        for row in range(0, rows, rows_at_once):
            yield slice(sample, sample + samples_at_once), slice(row, row + rows_at_once)


@kernel("conv_quantized")
def conv_quantized(
    x: Array,
    weight: Array,
    quant_scale: Array,
    quant_bias: Array,
    quantization_type: str,
    bias: Array | None = None,
    nbits: int = 8,  # noqa: ARG001 (weights arrive unpacked, one value an element)
    strides: Numbers | None = None,
    pad_type: str = "valid",
    pad: Numbers | None = None,
    dilations: Numbers | None = None,
    groups: SupportsInt = 1,
) -> Array:
    """Return the convolution with `weight * quant_scale + quant_bias`; scale and bias are per output, or scalars."""
    if quantization_type != "linear":
        raise EvaluationError(f"quantization_type {quantization_type!r} has no input for its table: only linear works")
    scale, offset = (along_axis(value, weight.ndim, 0) for value in (quant_scale, quant_bias))
    return conv(x, weight * scale + offset, bias, strides, pad_type, pad, dilations, groups)


@kernel("conv_transpose")
def conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    pad: Numbers | None = None,
    output_shape: Numbers | None = None,
    pad_type: str = "valid",
    strides: Numbers | None = None,
    dilations: Numbers | None = None,
    groups: SupportsInt = 1,
) -> Array:
    """Return `out[n,o,p] = bias[o] + sum of x[n,c,q] weight[c,o,k]` over c, q, k with q * stride + k * dilation = p.

    x is (n, inputs, *sizes), weight is (inputs, outputs / groups, *kernel); p, q and k are spatial positions. The
    output has `output_shape` where that is given, else "valid" keeps all of `(size - 1) * stride + extent` elements,
    "custom" cuts `pad` from its ends, and "same" keeps `size * stride`, cutting as evenly as it can.
    """
    rank, groups = x.ndim - 2, int(groups)
    strides, dilations = _ones_unless(strides, rank), _ones_unless(dilations, rank)
    sizes, taps = x.shape[2:], weight.shape[2:]
    extents = [(tap - 1) * dilation + 1 for tap, dilation in zip(taps, dilations, strict=True)]
    full = [(size - 1) * stride + extent for size, stride, extent in zip(sizes, strides, extents, strict=True)]
    befores, counts = _kept(pad_type, pad, output_shape, sizes, strides, full)

    by_group = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)
    matrices = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], *taps).swapaxes(1, 2)
    outputs = groups * weight.shape[1]
    # An output_shape may reach beyond the last element that any input touches: those elements stay zero.
    room = [max(length, before + count) for length, before, count in zip(full, befores, counts, strict=True)]
    out = np.zeros((x.shape[0], outputs, *room))
    for tap in product(*map(range, taps)):
        starts = [k * dilation for k, dilation in zip(tap, dilations, strict=True)]
        reached = (
            slice(start, start + (size - 1) * stride + 1, stride)
            for start, size, stride in zip(starts, sizes, strides, strict=True)
        )
        index: Any = (..., *tap)
        out[:, :, *reached] += (matrices[index] @ by_group).reshape(x.shape[0], outputs, *sizes)
    kept = (slice(before, before + count) for before, count in zip(befores, counts, strict=True))
    out = out[:, :, *kept]
    return out if bias is None else out + along_axis(bias, x.ndim, 1)


def _kept(
    pad_type: str,
    pad: Numbers | None,
    output_shape: Numbers | None,
    sizes: Sequence[int],
    strides: Sequence[int],
    full: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Return what a transposed convolution keeps of each spatial axis: its first element and the number of them."""
    wanted = None if output_shape is None else [int(size) for size in output_shape[2:]]
    pad_type = pad_type.lower()
    if pad_type == "same":
        counts = wanted or [size * stride for size, stride in zip(sizes, strides, strict=True)]
        return [max(0, length - count) // 2 for length, count in zip(full, counts, strict=True)], counts
    if pad_type not in ("valid", "custom"):
        raise EvaluationError(f"unknown pad_type {pad_type!r}: valid, custom or same")
    cuts = paddings(pad_type, pad, sizes, full, strides)
    counts = wanted or [length - sum(cut) for length, cut in zip(full, cuts, strict=True)]
    if min(counts) <= 0:
        raise EvaluationError(f"the padding {cuts} leaves nothing of {full} elements")
    return [before for before, _ in cuts], counts


def _ones_unless(given: Numbers | None, rank: int) -> list[int]:
    return [1] * rank if given is None else [int(value) for value in given]
