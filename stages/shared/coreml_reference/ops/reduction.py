"""Reductions: over `axes` (all, if left out) or, for the position of an extreme, over one axis."""

from collections.abc import Callable, Sequence
from typing import Any, SupportsInt

from shared.coreml_reference.ops.elementwise import to_integer
from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Array = NDArray[Any]

# op: f(x), with the keywords `axis` and `keepdims`.
REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_l1_norm": lambda x, **over: np.sum(np.abs(x), **over),
    "reduce_l2_norm": lambda x, **over: np.sqrt(np.sum(np.square(x), **over)),
    "reduce_log_sum": lambda x, **over: np.log(np.sum(x, **over)),
    "reduce_log_sum_exp": lambda x, **over: logsumexp(x, **over),
    "reduce_max": np.max,
    "reduce_mean": np.mean,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_sum": np.sum,
    "reduce_sum_square": lambda x, **over: np.sum(np.square(x), **over),
}

SINGLE = {"reduce_max", "reduce_mean", "reduce_min", "reduce_sum"}


def _reduction(function: Callable[..., Any]) -> Callable[..., Array]:
    def reduce(x: Array, axes: Sequence[int] | Array | None = None, keep_dims: bool = False) -> Array:
        over = None if axes is None else tuple(int(axis) for axis in axes)
        result = np.asarray(function(x, axis=over, keepdims=bool(keep_dims)))
        # The result has x's dtype: a mean of integers is cut towards zero.
        return result if x.dtype.kind == "f" else to_integer(result, x.dtype)

    return reduce


for _op_type, _function in REDUCTIONS.items():
    kernel(_op_type, single=_op_type in SINGLE)(_reduction(_function))


@kernel("reduce_argmax")
def reduce_argmax(x: Array, axis: SupportsInt = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Array:
    """Return the position of the largest element along `axis`, the first of equals."""
    return np.asarray(np.argmax(x, axis=int(axis), keepdims=bool(keep_dims))).astype(output_dtype.lower())


@kernel("reduce_argmin")
def reduce_argmin(x: Array, axis: SupportsInt = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Array:
    """Return the position of the smallest element along `axis`, the first of equals."""
    return np.asarray(np.argmin(x, axis=int(axis), keepdims=bool(keep_dims))).astype(output_dtype.lower())
