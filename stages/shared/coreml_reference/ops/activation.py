"""Activations: functions of each element (some with a parameter per channel), and `softmax`."""

import math
from collections.abc import Callable
from typing import Any, SupportsInt

from shared.coreml_reference.errors import EvaluationError
from shared.coreml_reference.ops.broadcasting import along_axis
from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

Array = NDArray[Any]

# op: f(x)
OF_X: dict[str, Callable[[Array], Any]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": expit,
    "silu": lambda x: x * expit(x),
    "softplus": lambda x: np.logaddexp(0, x),
    "softsign": lambda x: x / (1 + np.abs(x)),
}

SINGLE = {"relu6", "sigmoid", "silu", "softsign"}

# op: f(x, alpha)
OF_X_ALPHA: dict[str, Callable[[Array, Array], Any]] = {
    "elu": lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    "leaky_relu": lambda x, alpha: np.where(x >= 0, x, alpha * x),
    "prelu": lambda x, alpha: np.where(x > 0, x, along_axis(alpha, x.ndim, 1) * x),
    "thresholded_relu": lambda x, alpha: np.where(x >= alpha, x, 0.0),
}

# op: f(x, alpha, beta)
OF_X_ALPHA_BETA: dict[str, Callable[[Array, Array, Array], Any]] = {
    "clamped_relu": lambda x, alpha, beta: np.minimum(beta, np.where(x >= 0, x, alpha * x)),
    "linear_activation": lambda x, alpha, beta: alpha * x + beta,
    "scaled_tanh": lambda x, alpha, beta: alpha * np.tanh(beta * x),
    "sigmoid_hard": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "softplus_parametric": lambda x, alpha, beta: (
        along_axis(alpha, x.ndim, 1) * np.logaddexp(0, along_axis(beta, x.ndim, 1) * x)
    ),
}


def _of_x(function: Callable[[Array], Any]) -> Callable[[Array], Array]:
    return lambda x: np.asarray(function(x))


def _of_x_alpha(function: Callable[[Array, Array], Any]) -> Callable[[Array, Array], Array]:
    return lambda x, alpha: np.asarray(function(x, alpha))


def _of_x_alpha_beta(function: Callable[[Array, Array, Array], Any]) -> Callable[[Array, Array, Array], Array]:
    return lambda x, alpha, beta: np.asarray(function(x, alpha, beta))


for _op_type, _one in OF_X.items():
    kernel(_op_type, moving=_op_type == "relu", single=_op_type in SINGLE)(_of_x(_one))
for _op_type, _two in OF_X_ALPHA.items():
    kernel(_op_type)(_of_x_alpha(_two))
for _op_type, _three in OF_X_ALPHA_BETA.items():
    kernel(_op_type)(_of_x_alpha_beta(_three))


@kernel("gelu", single=True)
def gelu(x: Array, mode: str = "EXACT") -> Array:
    """Return `x * Phi(x)`, Phi the normal distribution's cumulative function, or one of its approximations.

    "EXACT" is `x / 2 * (1 + erf(x / sqrt(2)))`, "TANH_APPROXIMATION" is `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715
    * x ** 3)))`, "SIGMOID_APPROXIMATION" is `x * sigmoid(1.702 * x)`.
    """
    if mode == "EXACT":
        return np.asarray(x * ndtr(x))
    if mode == "TANH_APPROXIMATION":
        # (1 + tanh(y)) / 2 is sigmoid(2 y), which keeps its digits far below zero.
        return np.asarray(x * expit(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    if mode == "SIGMOID_APPROXIMATION":
        return np.asarray(x * expit(1.702 * x))
    raise EvaluationError(f"unknown mode {mode!r}: EXACT, TANH_APPROXIMATION or SIGMOID_APPROXIMATION")


@kernel("softmax", single=True)
def softmax(x: Array, axis: SupportsInt = -1) -> Array:
    """Return `exp(x) / sum(exp(x))`, the sum along `axis`; the maximum is taken off first, so nothing overflows."""
    powers: Array = np.asarray(x - x.max(axis=int(axis), keepdims=True))
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=int(axis), keepdims=True)
    return powers
