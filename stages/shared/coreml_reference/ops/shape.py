"""Ops that rearrange a tensor and change no value (MIL's `tensor_transformation` family)."""

from typing import Any, SupportsInt

from shared.coreml_reference.ops.broadcasting import along_axis
from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[Any]


@kernel("reshape", moving=True)
def reshape(x: Array, shape: Array) -> Array:
    """Read x in row-major order into `shape`.

    A 0 copies the dimension of x at the same place counted from the right (1 if x has none: iOS17; earlier targets
    require equal ranks); one -1 takes what is left.
    """
    inherited = (1,) * len(shape) + x.shape
    missing = len(inherited) - len(shape)
    return x.reshape([inherited[missing + i] if size == 0 else int(size) for i, size in enumerate(shape)])


@kernel("reshape_like", moving=True)
def reshape_like(
    x: Array, ref_tensors: list[Array], begins: list[Array], ends: list[Array], end_masks: list[Array]
) -> Array:
    """Reshape to `concat(ref_i.shape[begin_i:end_i])`; where `end_mask_i` is set, up to the last axis of `ref_i`."""
    shape: list[int] = []
    for reference, begin, end, to_the_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape.extend(reference.shape[int(begin) : None if to_the_end else int(end)])
    return x.reshape(shape)


@kernel("flatten2d", moving=True)
def flatten2d(x: Array, axis: SupportsInt = 1) -> Array:
    """Reshape to `(prod(x.shape[:axis]), prod(x.shape[axis:]))`; an empty product is 1."""
    return x.reshape(int(np.prod(x.shape[: int(axis)])), int(np.prod(x.shape[int(axis) :])))


@kernel("expand_dims", moving=True)
def expand_dims(x: Array, axes: Array) -> Array:
    """Insert a dimension of size 1 at each of `axes`, counted in the output."""
    return np.expand_dims(x, tuple(int(axis) for axis in axes))


@kernel("squeeze", moving=True)
def squeeze(x: Array, axes: Array | None = None) -> Array:
    """Drop the dimensions of size 1 among `axes` (default: all axes); as in torch, others among them stay."""
    candidates = range(x.ndim) if axes is None else (int(axis) % x.ndim for axis in axes)
    return np.squeeze(x, tuple(axis for axis in candidates if x.shape[axis] == 1))


@kernel("transpose", moving=True)
def transpose(x: Array, perm: Array) -> Array:
    """`output.shape[i] = x.shape[perm[i]]`."""
    return x.transpose([int(axis) for axis in perm])


@kernel("reverse", moving=True)
def reverse(x: Array, axes: Array | None = None) -> Array:
    """Reverse the order of the elements along each of `axes` (default: all)."""
    return np.flip(x, None if axes is None else tuple(int(axis) for axis in axes))


@kernel("reverse_sequence", moving=True)
def reverse_sequence(x: Array, lengths: Array, seq_axis: SupportsInt = 0, batch_axis: SupportsInt = 0) -> Array:
    """Along `seq_axis`, reverse the first `lengths[b]` elements of each batch entry b and keep the rest.

    `output[b, t] = x[b, lengths[b] - 1 - t]` if `t < lengths[b]`, else `x[b, t]`; a longer length means all of them.
    """
    time = along_axis(np.arange(x.shape[int(seq_axis)]), x.ndim, seq_axis)
    clipped = np.minimum(lengths.astype(np.int64), x.shape[int(seq_axis)])
    length = along_axis(clipped, x.ndim, batch_axis)
    return np.take_along_axis(x, np.where(time < length, length - 1 - time, time), int(seq_axis))


@kernel("sliding_windows", moving=True)
def sliding_windows(x: Array, axis: SupportsInt, size: SupportsInt, stride: SupportsInt = 1) -> Array:
    """`output[..., i, j, ...] = x[..., i * stride + j, ...]`: the windows along `axis`, then their elements."""
    position = int(axis) % x.ndim
    windows = np.moveaxis(sliding_window_view(x, int(size), position), -1, position + 1)
    return windows[(slice(None),) * position + (slice(None, None, int(stride)),)]


@kernel("depth_to_space", moving=True)
def depth_to_space(x: Array, block_size: SupportsInt) -> Array:
    """`output[n, c, h * b + i, w * b + j] = x[n, (i * b + j) * C + c, h, w]`, C the output's channels (as `tf.nn`)."""
    (n, depth, h, w), b = x.shape, int(block_size)
    blocks = x.reshape(n, b, b, depth // b**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, depth // b**2, h * b, w * b)


@kernel("space_to_depth", moving=True)
def space_to_depth(x: Array, block_size: SupportsInt) -> Array:
    """`output[n, (i * b + j) * C + c, h, w] = x[n, c, h * b + i, w * b + j]`, C the input's channels (as `tf.nn`)."""
    (n, c, h, w), b = x.shape, int(block_size)
    blocks = x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * b**2, h // b, w // b)


@kernel("pixel_shuffle", moving=True)
def pixel_shuffle(x: Array, upscale_factor: SupportsInt) -> Array:
    """`output[n, c, h * f + i, w * f + j] = x[n, (c * f + i) * f + j, h, w]` (as `torch.nn.PixelShuffle`)."""
    (n, depth, h, w), f = x.shape, int(upscale_factor)
    blocks = x.reshape(n, depth // f**2, f, f, h, w).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, depth // f**2, h * f, w * f)


@kernel("pixel_unshuffle", moving=True)
def pixel_unshuffle(x: Array, downscale_factor: SupportsInt) -> Array:
    """`output[n, (c * f + i) * f + j, h, w] = x[n, c, h * f + i, w * f + j]` (as `torch.nn.PixelUnshuffle`)."""
    (n, c, h, w), f = x.shape, int(downscale_factor)
    blocks = x.reshape(n, c, h // f, f, w // f, f).transpose(0, 1, 3, 5, 2, 4)
    return blocks.reshape(n, c * f**2, h // f, w // f)


@kernel("space_to_batch", moving=True)
def space_to_batch(x: Array, block_shape: Array, paddings: Array) -> Array:
    """Pad with zeros, then `output[(i * bw + j) * N + n, c, h, w] = x[n, c, h * bh + i, w * bw + j]`."""
    padded = np.pad(x, ((0, 0), (0, 0), *((int(before), int(after)) for before, after in paddings)))
    (n, c, h, w), (bh, bw) = padded.shape, (int(size) for size in block_shape)
    blocks = padded.reshape(n, c, h // bh, bh, w // bw, bw).transpose(3, 5, 0, 1, 2, 4)
    return blocks.reshape(bh * bw * n, c, h // bh, w // bw)


@kernel("batch_to_space", moving=True)
def batch_to_space(x: Array, block_shape: Array, crops: Array) -> Array:
    """`output[n, c, h * bh + i, w * bw + j] = x[(i * bw + j) * N + n, c, h, w]`, then crop each spatial axis."""
    (batch, c, h, w), (bh, bw) = x.shape, (int(size) for size in block_shape)
    n = batch // (bh * bw)
    blocks = x.reshape(bh, bw, n, c, h, w).transpose(2, 3, 4, 0, 5, 1).reshape(n, c, h * bh, w * bw)
    (top, bottom), (left, right) = ((int(before), int(after)) for before, after in crops)
    return blocks[:, :, top : h * bh - bottom, left : w * bw - right]
