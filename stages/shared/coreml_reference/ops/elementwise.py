"""Ops that compute each element on its own: unary, binary, comparison, logic, `cast`, `clip`, `select`."""

from collections.abc import Callable
from typing import Any

from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Array = NDArray[Any]

# op: f(x). "round" takes a half to the even neighbour, as MIL's 0.5 -> 0.
UNARY: dict[str, Callable[[Array], Any]] = {
    "abs": np.abs,
    "acos": np.arccos,
    "asin": np.arcsin,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "erf": erf,
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "logical_not": np.logical_not,
    "round": np.round,
    "sign": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
}

# op: f(x, y), with numpy's broadcasting. "mod" has the sign of y, "floor_div" rounds towards negative infinity.
BINARY: dict[str, Callable[[Array, Array], Any]] = {
    "add": np.add,
    "equal": np.equal,
    "floor_div": np.floor_divide,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mod": np.mod,
    "mul": np.multiply,
    "not_equal": np.not_equal,
    "sub": np.subtract,
}

# Correctly rounded in float32; and two that are off by the last bit at most.
SINGLE = {
    "abs",
    "add",
    "ceil",
    "exp",
    "floor",
    "maximum",
    "minimum",
    "mul",
    "round",
    "sign",
    "sqrt",
    "square",
    "sub",
    "tanh",
}

INTEGERS = {"int8": np.int8, "uint8": np.uint8, "int16": np.int16, "uint16": np.uint16, "int32": np.int32}


def _unary(function: Callable[[Array], Any]) -> Callable[[Array], Array]:
    return lambda x: _like(x, np.asarray(function(x)))


def _binary(function: Callable[[Array, Array], Any]) -> Callable[[Array, Array], Array]:
    return lambda x, y: np.asarray(function(x, y))


for _op_type, _function_of_x in UNARY.items():
    kernel(_op_type, single=_op_type in SINGLE)(_unary(_function_of_x))
for _op_type, _function_of_x_and_y in BINARY.items():
    kernel(_op_type, single=_op_type in SINGLE)(_binary(_function_of_x_and_y))


@kernel("real_div")
def real_div(x: Array, y: Array) -> Array:
    """Return `x / y`, with broadcasting; the quotient of integers is cut towards zero."""
    return _like(x, np.asarray(np.true_divide(x, y)))


@kernel("pow")
def power(x: Array, y: Array) -> Array:
    """Return `x ** y`, with broadcasting; an integer to a negative power is cut towards zero."""
    return _like(x, np.asarray(np.float_power(x, y)))


def _like(x: Array, result: Array) -> Array:
    """Cut the fractions that a function of integers has: the program declares its result an integer."""
    return to_integer(result, x.dtype) if x.dtype.kind in "iu" and result.dtype.kind == "f" else result


@kernel("inverse")
def inverse(x: Array, epsilon: Array | float = 1e-4) -> Array:
    """Return `1 / (x + epsilon)`."""
    return 1 / (x + epsilon)


@kernel("log")
def log(x: Array, epsilon: Array | float = 1e-45) -> Array:
    """Return `ln(x + epsilon)`."""
    return np.asarray(np.log(x + epsilon))


@kernel("rsqrt")
def rsqrt(x: Array, epsilon: Array | float = 1e-12) -> Array:
    """Return `1 / sqrt(x + epsilon)`."""
    return np.asarray(1 / np.sqrt(x + epsilon))


@kernel("clip", single=True)
def clip(x: Array, alpha: Array, beta: Array) -> Array:
    """Return `min(max(x, alpha), beta)`."""
    return np.asarray(np.minimum(np.maximum(x, alpha), beta))


@kernel("threshold", single=True)
def threshold(x: Array, alpha: Array) -> Array:
    """Return `max(x, alpha)`."""
    return np.asarray(np.maximum(x, alpha))


@kernel("select", moving=True)
def select(cond: Array, a: Array | None = None, b: Array | None = None) -> Array:
    """Return a where cond holds, else b; without a and b, the indices of the true elements, (count, rank) int32."""
    if a is None or b is None:
        return np.argwhere(cond).astype(np.int32)
    return np.where(cond, a, b)


@kernel("cast", single=True)
def cast(x: Array, dtype: str) -> Array:
    """Return x as `dtype`: "bool" is `x != 0`, floats lose their fraction on the way to an integer.

    To "fp16" and "fp32" the value stays as it is, for the interpreter rounds every result to its declared dtype.
    """
    if dtype == "bool":
        return np.asarray(x != 0)
    if dtype in INTEGERS:
        return to_integer(x, INTEGERS[dtype])
    return x if x.dtype.kind == "f" else x.astype(np.float64)


def to_integer(x: Array, dtype: Any) -> Array:
    """Cut towards zero, saturate at int32, wrap around in narrower types: what the C cast does on Apple's CPUs."""
    if x.dtype.kind == "f":
        limits = np.iinfo(np.int32)
        x = np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0.0)  # float32 has no 2 ** 31 - 1
        x = np.clip(x, limits.min, limits.max).astype(np.int32)
    return x.astype(dtype)
