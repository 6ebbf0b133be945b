"""Building, joining, ordering and selecting against torch and numpy."""

from types import SimpleNamespace

from shared.coreml_reference.ops.tensor_operation import (
    argsort,
    band_part,
    concat,
    cumsum,
    fill,
    fill_like,
    non_maximum_suppression,
    non_zero,
    one_hot,
    range_1d,
    stack,
    tile,
    topk,
)

import numpy as np
import pytest
import torch

X = np.random.default_rng(0).standard_normal((3, 4, 5))


def test_concat_interleaved() -> None:
    values = [np.array([[1, 2], [3, 4]]), np.array([[7, 8], [9, 10]])]
    np.testing.assert_array_equal(concat(values, 0, interleave=True), [[1, 2], [7, 8], [3, 4], [9, 10]])
    np.testing.assert_array_equal(concat(values, -1, interleave=True), [[1, 7, 2, 8], [3, 9, 4, 10]])


def test_concat_and_stack_of_scalars() -> None:
    scalars = [np.array(1.0), np.array(2.0)]
    np.testing.assert_array_equal(concat(scalars, 0), [1, 2])
    np.testing.assert_array_equal(stack(scalars, 0), [1, 2])


def test_fill_keeps_the_value_s_dtype() -> None:
    assert fill(np.array([2, 0], np.int32), np.array(True)).dtype == bool
    np.testing.assert_array_equal(fill_like(X, np.array(3, np.int32)), np.full((3, 4, 5), 3))


def test_tile_and_stack() -> None:
    tiled = tile(X, np.array([2, 1, 3]))
    np.testing.assert_array_equal(tiled, torch.from_numpy(X).tile(2, 1, 3))
    np.testing.assert_array_equal(stack([X, -X], -2), torch.stack([torch.from_numpy(X), torch.from_numpy(-X)], -2))


@pytest.mark.parametrize(("lower", "upper"), [(0, -1), (-1, 0), (1, 2), (-1, -1)])
def test_band_part(lower: int, upper: int) -> None:
    expected = torch.from_numpy(X)
    expected = expected.tril(upper) if upper >= 0 else expected
    expected = expected.triu(-lower) if lower >= 0 else expected
    np.testing.assert_array_equal(band_part(X, lower, upper), expected)


@pytest.mark.parametrize("reverse", [False, True])
def test_cumsum_exclusive(reverse: bool) -> None:
    x = np.array([[1, 2, 3], [4, 5, 6]])
    expected = [[5, 3, 0], [11, 6, 0]] if reverse else [[0, 1, 3], [0, 4, 9]]
    np.testing.assert_array_equal(cumsum(x, -1, exclusive=True, reverse=reverse), expected)
    np.testing.assert_array_equal(cumsum(x, 0), [[1, 2, 3], [5, 7, 9]])


def test_non_zero_and_one_hot() -> None:
    np.testing.assert_array_equal(non_zero(np.array([[0, 3], [-2, 0]])), [[0, 1], [1, 0]])
    expected = torch.nn.functional.one_hot(torch.tensor([[2, 0, 1]]), 4).movedim(-1, 1)
    np.testing.assert_array_equal(one_hot(np.array([[2, 0, 1]]), 4, axis=1), expected)
    np.testing.assert_array_equal(one_hot(np.array([-1, 1]), 2, on_value=0.5, off_value=9.0), [[9, 9], [9, 0.5]])


def test_range_1d_counts_in_the_declared_precision() -> None:
    step = np.array(np.float16(0.1), np.float64)
    half = SimpleNamespace(outputs=[SimpleNamespace(dtype=type("fp16", (), {}))])
    assert len(range_1d(end=np.array(1.0), start=np.array(0.0), step=step, operation=half)) == 10
    end, start, step = np.array([0, 7, -3], np.int32)
    np.testing.assert_array_equal(range_1d(end, start, step), [7, 4, 1])
    assert len(range_1d(end=np.array(2e6), start=np.array(0.0), step=np.array(1.0))) == 2_000_000


@pytest.mark.parametrize("ascending", [False, True])
def test_sorting_keeps_the_order_of_equals(ascending: bool) -> None:
    x = np.array([3, 0, 255, 3, 0], np.uint8)
    expected = [1, 4, 0, 3, 2] if ascending else [2, 0, 3, 1, 4]
    np.testing.assert_array_equal(argsort(x, ascending=ascending), expected)
    values, indices = topk(x, k=3, ascending=ascending)
    np.testing.assert_array_equal(indices, expected[:3])
    np.testing.assert_array_equal(values, x[expected[:3]])


def test_topk_along_an_inner_axis() -> None:
    values, indices = torch.topk(torch.from_numpy(X), 2, dim=1)
    for computed, expected in zip(topk(X, 2, axis=1), (values, indices), strict=True):
        np.testing.assert_array_equal(computed, expected)
    everything = topk(X.T, -1, axis=1, return_indices=False)
    np.testing.assert_array_equal(everything, np.sort(X.T, axis=1)[:, ::-1])


# (center x, center y, width, height): the first two overlap by 1/3, the third is far away.
BOXES = np.array([[[1.0, 1.0, 2.0, 2.0], [2.0, 1.0, 2.0, 2.0], [9.0, 9.0, 1.0, 1.0]]])
SCORES = np.array([[[0.1, 0.8], [0.9, 0.2], [0.3, 0.4]]])


@pytest.mark.parametrize(
    ("iou", "lowest", "per_class", "expected"),
    [(0.3, 0.0, False, [1, 2]), (0.4, 0.0, False, [1, 0, 2]), (0.3, 0.0, True, [1, 0, 2]), (0.3, 0.95, False, [1])],
)
def test_non_maximum_suppression(iou: float, lowest: float, per_class: bool, expected: list[int]) -> None:
    boxes, scores, indices, count = non_maximum_suppression(BOXES, SCORES, iou, 4, lowest, per_class)
    padding = [-1] * (4 - len(expected))
    np.testing.assert_array_equal(indices, [expected + padding])
    np.testing.assert_array_equal(boxes[0, : len(expected)], BOXES[0, expected])
    np.testing.assert_array_equal(scores[0, len(expected) :], 0)
    assert count == len(expected)


def test_non_maximum_suppression_with_the_boxes_last() -> None:
    boxes, scores, indices = non_maximum_suppression(BOXES.swapaxes(1, 2), SCORES.swapaxes(1, 2), 0.3, max_boxes=1)
    np.testing.assert_array_equal(indices, [[1]])
    np.testing.assert_array_equal(boxes[0, :, 0], BOXES[0, 1])
    np.testing.assert_array_equal(scores[0, :, 0], SCORES[0, 1])
