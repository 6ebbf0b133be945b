"""Normalisations: `batch_norm`, `instance_norm`, `layer_norm`, `l2_norm` and `local_response_norm`."""

from collections.abc import Sequence
from typing import Any

from shared.coreml_reference.ops.broadcasting import along_axis
from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@kernel("batch_norm", single=True)
def batch_norm(
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Array | float = 1e-5,
) -> Array:
    """Return `gamma * (x - mean) / sqrt(variance + epsilon) + beta`, all per channel; x is (n, channels, *spatial)."""
    scale = 1 / np.sqrt(variance + epsilon)
    scale = scale if gamma is None else gamma * scale
    out = (x - along_axis(mean, x.ndim, 1)) * along_axis(scale, x.ndim, 1)
    return out if beta is None else out + along_axis(beta, x.ndim, 1)


@kernel("instance_norm")
def instance_norm(
    x: Array, gamma: Array | None = None, beta: Array | None = None, epsilon: Array | float = 1e-5
) -> Array:
    """Return `gamma * (x - E[x]) / sqrt(Var[x] + epsilon) + beta`, E and Var over the spatial axes of each channel.

    x is (n, channels, *spatial); gamma and beta are per channel; the variance divides by the number of elements.
    """
    out = _standardise(x, tuple(range(2, x.ndim)), epsilon)
    out = out if gamma is None else out * along_axis(gamma, x.ndim, 1)
    return out if beta is None else out + along_axis(beta, x.ndim, 1)


@kernel("layer_norm", single=True)
def layer_norm(
    x: Array,
    axes: Sequence[int] | Array | None = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Array | float = 1e-5,
) -> Array:
    """Return `gamma * (x - E[x]) / sqrt(Var[x] + epsilon) + beta`, E and Var over `axes` (all, if left out).

    gamma and beta have the shape of x on `axes`; the variance divides by the number of elements.
    """
    over = {int(axis) % x.ndim for axis in (range(x.ndim) if axes is None else axes)}
    normalised_shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    out = _standardise(x, tuple(over), epsilon)
    out = out if gamma is None else out * gamma.reshape(normalised_shape)
    return out if beta is None else out + beta.reshape(normalised_shape)


def _standardise(x: Array, axes: tuple[int, ...], epsilon: Array | float) -> Array:
    centred = x - x.mean(axis=axes, keepdims=True)
    variance = np.square(centred).mean(axis=axes, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + epsilon))


@kernel("l2_norm")
def l2_norm(x: Array, epsilon: Array | float = 1e-6) -> Array:
    """Return `x / sqrt(sum(x ** 2) + epsilon)`, the sum over the last three axes."""
    return np.asarray(x / np.sqrt(np.square(x).sum(axis=(-3, -2, -1), keepdims=True) + epsilon))


@kernel("local_response_norm")
def local_response_norm(
    x: Array,
    size: int,
    alpha: Array | float = 1e-4,
    beta: Array | float = 0.75,
    k: Array | float = 1.0,
) -> Array:
    """Return `x[i] / (k + alpha / size * sum of x[j] ** 2) ** beta`, j the `size` channels around channel i.

    The window reaches from i - size // 2 to i + (size - 1) // 2, as in torch. Channels lie on axis 1, except at rank 3:
    there Apple's own test has them on axis 0, where Core ML's (channels, height, width) layers have them.
    """
    size, axis = int(size), 0 if x.ndim == 3 else 1
    ends = [(0, 0)] * x.ndim
    ends[axis] = (size // 2, (size - 1) // 2)
    squares = np.pad(np.square(x), ends)
    neighbours = np.zeros_like(x)
    for offset in range(size):
        neighbours += np.take(squares, range(offset, offset + x.shape[axis]), axis=axis)
    return np.asarray(x / (k + alpha / size * neighbours) ** beta)
