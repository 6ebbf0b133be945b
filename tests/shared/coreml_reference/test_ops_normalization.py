"""The normalisations against torch, in float64."""

from typing import Any

from shared.coreml_reference.ops.normalization import (
    batch_norm,
    instance_norm,
    l2_norm,
    layer_norm,
    local_response_norm,
)

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 3, 4, 5))
GAMMA, BETA, MEAN = RANDOM.standard_normal((3, 3))
VARIANCE = RANDOM.uniform(0.5, 2, 3)


def tensors(*arrays: NDArray[Any]) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def test_batch_norm() -> None:
    x, mean, variance, gamma, beta = tensors(X, MEAN, VARIANCE, GAMMA, BETA)
    expected = functional.batch_norm(x, mean, variance, gamma, beta, eps=1e-3)
    np.testing.assert_allclose(batch_norm(X, MEAN, VARIANCE, GAMMA, BETA, np.array(1e-3)), expected)


def test_instance_norm() -> None:
    x, gamma, beta = tensors(X, GAMMA, BETA)
    expected = functional.instance_norm(x, weight=gamma, bias=beta)
    np.testing.assert_allclose(instance_norm(X, GAMMA, BETA), expected)


def test_layer_norm_on_the_last_axes_and_on_all() -> None:
    gamma, beta = RANDOM.standard_normal((2, 4, 5))
    x, weight, bias = tensors(X, gamma, beta)
    expected = functional.layer_norm(x, (4, 5), weight, bias)
    np.testing.assert_allclose(layer_norm(X, np.array([-1, 2]), gamma, beta), expected)
    np.testing.assert_allclose(layer_norm(X), functional.layer_norm(x, X.shape))


def test_layer_norm_on_an_axis_in_the_middle() -> None:
    expected = np.moveaxis(layer_norm(np.moveaxis(X, 1, -1), [-1], GAMMA, BETA), -1, 1)
    np.testing.assert_allclose(layer_norm(X, [1], GAMMA, BETA), expected)


def test_epsilon_is_added_under_the_root() -> None:
    x, epsilon = torch.from_numpy(X), 0.5
    np.testing.assert_allclose(layer_norm(X, [3], epsilon=epsilon), functional.layer_norm(x, (5,), eps=epsilon))
    np.testing.assert_allclose(instance_norm(X, epsilon=epsilon), functional.instance_norm(x, eps=epsilon))
    np.testing.assert_allclose(l2_norm(np.full((1, 2, 2), 2.0), 9.0), np.full((1, 2, 2), 2 / 5))


def test_l2_norm_is_over_the_last_three_axes() -> None:
    norms = np.linalg.norm(X.reshape(2, -1), axis=1).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(l2_norm(X, 0.0), X / norms)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_local_response_norm(size: int) -> None:
    expected = functional.local_response_norm(torch.from_numpy(X), size, alpha=0.5, beta=0.6, k=2.0)
    np.testing.assert_allclose(local_response_norm(X, size, 0.5, 0.6, 2.0), expected)


def test_local_response_norm_of_rank_3_has_its_channels_first() -> None:
    np.testing.assert_allclose(local_response_norm(X[0], 3), local_response_norm(X, 3)[0])
