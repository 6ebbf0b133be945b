"""Matrix products: `linear`, `matmul` and `einsum`."""

from typing import Any

from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@kernel("linear", single=True)
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return `x @ weight.T + bias`; x is (..., inputs), weight is (outputs, inputs), bias is (outputs,)."""
    product: Array = np.empty((*x.shape[:-1], weight.shape[0]), np.result_type(x, weight))
    # One product of two matrices: numpy would otherwise call BLAS once for each leading index.
    np.matmul(x.reshape(-1, x.shape[-1]), weight.T, out=product.reshape(-1, weight.shape[0]))
    if bias is not None:
        product += bias
    return product


@kernel("matmul", single=True)
def matmul(x: Array, y: Array, transpose_x: bool = False, transpose_y: bool = False) -> Array:
    """Return `x @ y` as numpy does, after swapping the last two axes of an operand whose flag is set."""
    if transpose_x and x.ndim > 1:
        x = x.swapaxes(-1, -2)
    if transpose_y and y.ndim > 1:
        y = y.swapaxes(-1, -2)
    return np.asarray(x @ y)


@kernel("einsum")
def einsum(values: list[Array], equation: str) -> Array:  # noqa: ARG001 (MIL allows one equation, in any letters)
    """Return `out[n,c,h,u] = sum over w of x[n,c,h,w] y[n,w,h,u]`; n may be missing, n and h broadcast."""
    x, y = (value.swapaxes(-3, -2) for value in values)
    return (x @ y).swapaxes(-3, -2)
