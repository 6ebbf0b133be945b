"""The activations against torch, in float64, and far from zero."""

from collections.abc import Callable
from typing import Any

from shared.coreml_reference.errors import EvaluationError
from shared.coreml_reference.ops.activation import OF_X, OF_X_ALPHA, OF_X_ALPHA_BETA, gelu, softmax
from shared.coreml_reference.registry import KERNELS

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

X = np.concatenate([np.linspace(-5, 5, 24), [-2000, -60, 60, 2000]]).reshape(2, 2, 7)
ALPHA, BETA = np.array(0.3), np.array(1.7)
# One for each channel.
ALPHAS, BETAS = np.array([0.5, 2.0]), np.array([1.0, 3.0])


# op: its function in torch, and its parameters in the kernel's order.
EXPECTED: dict[str, tuple[Callable[..., torch.Tensor], tuple[NDArray[Any], ...]]] = {
    "relu": (functional.relu, ()),
    "relu6": (functional.relu6, ()),
    "sigmoid": (torch.sigmoid, ()),
    "silu": (functional.silu, ()),
    "softplus": (functional.softplus, ()),
    "softsign": (functional.softsign, ()),
    "elu": (functional.elu, (ALPHA,)),
    "leaky_relu": (functional.leaky_relu, (ALPHA,)),
    "prelu": (functional.prelu, (ALPHAS,)),
    "thresholded_relu": (lambda x, alpha: torch.where(x >= alpha, x, 0), (ALPHA,)),
    "clamped_relu": (lambda x, alpha, beta: functional.leaky_relu(x, alpha).clamp(max=beta), (ALPHA, BETA)),
    "linear_activation": (lambda x, alpha, beta: alpha * x + beta, (ALPHA, BETA)),
    "scaled_tanh": (lambda x, alpha, beta: alpha * torch.tanh(beta * x), (ALPHA, BETA)),
    "sigmoid_hard": (lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1), (ALPHA, BETA)),
    "softplus_parametric": (
        lambda x, alpha, beta: alpha[:, None] * functional.softplus(beta[:, None] * x),
        (ALPHAS, BETAS),
    ),
}


def test_no_op_lacks_its_expected_function() -> None:
    assert EXPECTED.keys() == OF_X.keys() | OF_X_ALPHA.keys() | OF_X_ALPHA_BETA.keys()


@pytest.mark.parametrize("op_type", sorted(EXPECTED))
def test_activation(op_type: str) -> None:
    x, (function, parameters) = X.copy(), EXPECTED[op_type]
    got = KERNELS[op_type](x=x, **dict(zip(("alpha", "beta"), parameters, strict=False)))
    expected = function(torch.from_numpy(X), *map(torch.from_numpy, parameters))
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-12)
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize(("mode", "approximate"), [("EXACT", "none"), ("TANH_APPROXIMATION", "tanh")])
def test_gelu(mode: str, approximate: str) -> None:
    expected = functional.gelu(torch.from_numpy(X), approximate=approximate)
    np.testing.assert_allclose(gelu(X, mode), expected, atol=1e-12)


def test_gelu_by_the_sigmoid() -> None:
    np.testing.assert_allclose(gelu(X, "SIGMOID_APPROXIMATION"), X * torch.sigmoid(1.702 * torch.from_numpy(X)).numpy())


def test_gelu_of_an_unknown_mode() -> None:
    with pytest.raises(EvaluationError, match="unknown mode 'exact'"):
        gelu(X, "exact")


def test_softmax_of_large_values() -> None:
    np.testing.assert_allclose(softmax(X, np.int32(1)), torch.softmax(torch.from_numpy(X), 1))
