"""The activations against torch, in float64, and far from zero."""

from collections.abc import Callable
from typing import Any

from shared.coreml_reference.ops.activation import gelu, softmax
from shared.coreml_reference.registry import KERNELS

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

X = np.concatenate([np.linspace(-5, 5, 24), [-2000, -60, 60, 2000]]).reshape(2, 2, 7)
ALPHA, BETA = np.array(0.3), np.array(1.7)


@pytest.mark.parametrize(
    ("op_type", "expected", "parameters"),
    [
        ("relu", functional.relu, {}),
        ("relu6", functional.relu6, {}),
        ("sigmoid", torch.sigmoid, {}),
        ("silu", functional.silu, {}),
        ("softplus", functional.softplus, {}),
        ("softsign", functional.softsign, {}),
        ("elu", lambda x: functional.elu(x, 0.3), {"alpha": ALPHA}),
        ("leaky_relu", lambda x: functional.leaky_relu(x, 0.3), {"alpha": ALPHA}),
        ("thresholded_relu", lambda x: torch.where(x >= 0.3, x, 0), {"alpha": ALPHA}),
        ("clamped_relu", lambda x: functional.leaky_relu(x, 0.3).clamp(max=1.7), {"alpha": ALPHA, "beta": BETA}),
        ("linear_activation", lambda x: 0.3 * x + 1.7, {"alpha": ALPHA, "beta": BETA}),
        ("scaled_tanh", lambda x: 0.3 * torch.tanh(1.7 * x), {"alpha": ALPHA, "beta": BETA}),
        ("sigmoid_hard", lambda x: (0.3 * x + 1.7).clamp(0, 1), {"alpha": ALPHA, "beta": BETA}),
    ],
)
def test_activation(
    op_type: str, expected: Callable[[torch.Tensor], torch.Tensor], parameters: dict[str, NDArray[Any]]
) -> None:
    x = X.copy()
    got = KERNELS[op_type](x=x, **parameters)
    np.testing.assert_allclose(got, expected(torch.from_numpy(X)), rtol=1e-8, atol=1e-12)
    np.testing.assert_array_equal(x, X)


def test_parameters_per_channel() -> None:
    alpha, beta = np.array([0.5, 2.0]), np.array([1.0, 3.0])
    expected = functional.prelu(*(torch.from_numpy(array) for array in (X, alpha)))
    np.testing.assert_allclose(KERNELS["prelu"](x=X, alpha=alpha), expected)
    got = KERNELS["softplus_parametric"](x=X, alpha=alpha, beta=beta)
    np.testing.assert_allclose(got[:, 1], 2 * np.logaddexp(0, 3 * X[:, 1]))
    assert np.isfinite(got).all()


@pytest.mark.parametrize(("mode", "approximate"), [("EXACT", "none"), ("TANH_APPROXIMATION", "tanh")])
def test_gelu(mode: str, approximate: str) -> None:
    expected = functional.gelu(torch.from_numpy(X), approximate=approximate)
    np.testing.assert_allclose(gelu(X, mode), expected, atol=1e-12)


def test_softmax_of_large_values() -> None:
    np.testing.assert_allclose(softmax(X, np.int32(1)), torch.softmax(torch.from_numpy(X), 1))
