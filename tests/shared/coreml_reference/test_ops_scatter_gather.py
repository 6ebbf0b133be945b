"""Reading and writing at indices against torch and plain loops."""

from typing import Any

from shared.coreml_reference.errors import EvaluationError
from shared.coreml_reference.ops.scatter_gather import (
    gather,
    gather_along_axis,
    gather_nd,
    scatter,
    scatter_along_axis,
    scatter_nd,
)

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 3, 4, 5))


@pytest.mark.parametrize("indices", [np.array(-1), np.array([2, 0]), np.array([[0, 1, -1]], np.int16)])
def test_gather(indices: NDArray[Any]) -> None:
    np.testing.assert_array_equal(gather(X, indices, axis=-3), X[:, indices])


def test_gather_is_along_the_first_axis_by_default() -> None:
    np.testing.assert_array_equal(gather(X, np.array([1, 0])), X[[1, 0]])
    np.testing.assert_array_equal(gather_along_axis(X, np.ones((1, 3, 4, 5), int)), X[1:])


def test_gather_in_batches() -> None:
    indices = RANDOM.integers(0, 4, (2, 3, 7))
    expected = np.stack([[X[a, b][indices[a, b]] for b in range(3)] for a in range(2)])
    np.testing.assert_array_equal(gather(X, indices, axis=2, batch_dims=2), expected)
    expected = np.stack([X[a][:, indices[a, 0]] for a in range(2)])
    np.testing.assert_array_equal(gather(X, indices[:, 0], axis=2, batch_dims=1), expected)
    assert gather(X, np.array([3, 1]), axis=2, batch_dims=1).shape == (2, 3, 5)


def test_gather_along_axis() -> None:
    indices = RANDOM.integers(0, 4, (2, 3, 6, 5))
    expected = torch.gather(torch.from_numpy(X), 2, torch.from_numpy(indices))
    np.testing.assert_array_equal(gather_along_axis(X, indices, axis=-2), expected)


def test_gather_nd() -> None:
    indices = np.array([[[0, -1], [1, 0]]])
    np.testing.assert_array_equal(gather_nd(X, indices), X[[[0, 1]], [[2, 0]]])
    indices = np.array([[[2, 3]], [[0, 1]]])
    np.testing.assert_array_equal(gather_nd(X, indices, batch_dims=1), [X[0, [2], [3]], X[1, [0], [1]]])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("update", [10, 4, 30]),
        ("add", [11, 8, 30]),
        ("sub", [-9, -4, 30]),
        ("mul", [10, 16, 30]),
        ("div", [0.1, 0.25, 30]),
        ("max", [10, 4, 30]),
        ("min", [1, 2, 30]),
    ],
)
def test_scatter_applies_every_update(mode: str, expected: list[float]) -> None:
    data, updates = np.array([1.0, 2.0, 30.0]), np.array([2.0, 10.0, 4.0])
    indices = np.array([1, 0, 1])
    # Index 1 occurs twice: 2 and 4 are applied one after the other.
    np.testing.assert_allclose(scatter(data, indices, updates, mode=mode), expected)
    np.testing.assert_allclose(scatter_nd(data, indices[:, np.newaxis], updates, mode=mode), expected)
    np.testing.assert_allclose(scatter_along_axis(data, indices, updates, mode=mode), expected)
    np.testing.assert_array_equal(data, [1, 2, 30])


def test_scatter_along_an_inner_axis() -> None:
    data, updates = np.zeros((2, 3, 2)), RANDOM.standard_normal((2, 4, 2))
    indices = RANDOM.integers(0, 3, (2, 4, 2))
    expected = torch.from_numpy(data).scatter_add(1, torch.from_numpy(indices), torch.from_numpy(updates))
    np.testing.assert_allclose(scatter_along_axis(data, indices, updates, axis=-2), expected)
    expected = torch.from_numpy(data).index_add(1, torch.from_numpy(indices[0, :, 0]), torch.from_numpy(updates))
    np.testing.assert_allclose(scatter(data, indices[0, :, 0], updates, axis=1), expected)


def test_scatter_of_slices() -> None:
    updates = np.ones((2, 2))
    expected = [[0, 0], [1, 1], [2, 2]]
    np.testing.assert_array_equal(
        scatter_nd(np.array([[0, 0], [1, 1], [1, 1]]), np.array([[2]]), updates[:1]), expected
    )


def test_integers_divide_towards_zero() -> None:
    np.testing.assert_array_equal(scatter(np.array([7, -7]), np.array([0, 1]), np.array([2, 2]), mode="div"), [3, -3])


@pytest.mark.parametrize(("index", "validate"), [(3, None), (-4, None), (-1, True), (3, True), (-1, False)])
def test_an_index_out_of_bounds_is_an_error(index: int, validate: bool | None) -> None:
    with pytest.raises(EvaluationError, match=f"index {index} is outside"):
        gather(np.zeros(3), np.array([0, index]), validate_indices=validate)
    with pytest.raises(EvaluationError, match=f"index {index} is outside"):
        scatter_nd(np.zeros((9, 3)), np.array([[1, index]]), np.zeros(1), validate_indices=validate)
