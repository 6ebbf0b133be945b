"""Sampling on other grids against torch and the examples of the op's documentation."""

from typing import Any

from shared.coreml_reference.errors import EvaluationError
from shared.coreml_reference.ops.image_resizing import (
    affine,
    crop_resize,
    resample,
    resize,
    resize_bilinear,
    resize_nearest_neighbor,
    upsample_bilinear,
    upsample_nearest_neighbor,
)

import numpy as np
import pytest
import torch

X = np.random.default_rng(0).standard_normal((2, 3, 5, 7))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("UNALIGN_CORNERS", [0, 0, 1 / 3, 2 / 3, 1, 1]),
        ("STRICT_ALIGN_CORNERS", [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("ALIGN_CORNERS", [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("DEFAULT", [0, 1 / 3, 2 / 3, 1, 1, 1]),
        ("OFFSET_CORNERS", [1 / 12, 0.25, 5 / 12, 7 / 12, 0.75, 11 / 12]),
    ],
)
def test_the_documented_grids(mode: str, expected: Any) -> None:
    np.testing.assert_allclose(resize_bilinear(np.array([[[0.0, 1.0]]]), 1, 6, mode), [[expected]], atol=1e-12)


@pytest.mark.parametrize(("mode", "expected"), [("STRICT_ALIGN_CORNERS", 0), ("ALIGN_CORNERS", 0.5)])
def test_one_point_of_an_aligned_grid(mode: str, expected: Any) -> None:
    assert resize_bilinear(np.array([[[0.0, 1.0]]]), 1, 1, mode) == expected


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(10, 3), (5, 16), (1, 7)])
def test_bilinear_against_torch(size: tuple[int, int], align_corners: bool) -> None:
    expected = torch.nn.functional.interpolate(torch.from_numpy(X), size, mode="bilinear", align_corners=align_corners)
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS"
    np.testing.assert_allclose(resize_bilinear(X, *size, mode), expected, atol=1e-12)
    vertical, horizontal = ((target + 0.01) / source for target, source in zip(size, X.shape[2:], strict=True))
    np.testing.assert_allclose(upsample_bilinear(X, vertical, horizontal, align_corners), expected, atol=1e-12)


@pytest.mark.parametrize("size", [(10, 3), (5, 16), (7, 11)])
def test_nearest_against_torch(size: tuple[int, int]) -> None:
    scales = [(target + 0.01) / source for target, source in zip(size, X.shape[2:], strict=True)]
    for resized, mode in (
        (upsample_nearest_neighbor(X, *scales), "nearest"),
        (resize_nearest_neighbor(X, *size), "nearest-exact"),
    ):
        expected = torch.nn.functional.interpolate(torch.from_numpy(X), size, mode=mode)
        np.testing.assert_array_equal(resized, expected)


def test_resize_takes_the_last_sizes_and_inherits_zeros() -> None:
    shape = np.array([9, 0, 14])
    assert resize(X, shape, 2).shape == (2, 3, 5, 14)
    np.testing.assert_array_equal(resize(X, shape, 2, "NEAREST_NEIGHBOR"), resize_nearest_neighbor(X, 5, 14))
    assert resize(X, shape, 1).shape == (2, 3, 5, 14)


def test_nearest_takes_halves_upwards() -> None:
    x = np.array([[[0.0, 1.0, 2.0]]])
    resized = resize(x, np.array([5]), 1, "NEAREST_NEIGHBOR", "STRICT_ALIGN_CORNERS")
    np.testing.assert_array_equal(resized, [[[0, 1, 1, 2, 2]]])


IMAGE = np.arange(1.0, 17.0).reshape(1, 1, 4, 4)


def test_crop_resize_pads_outside_the_image() -> None:
    boxes = np.array([[0.1, 0.3, 1.3, 1.0], [0.5, 1.8, 1.0, 0.3]])
    common: dict[str, Any] = {
        "target_height": 2,
        "target_width": 2,
        "normalized_coordinates": True,
        "sampling_mode": "ALIGN_CORNERS",
    }
    patches = crop_resize(IMAGE, boxes=boxes, box_indices=np.array([0, 0]), pad_value=9.0, **common)
    np.testing.assert_allclose(patches[:, 0], [[[3.1, 5.2], [9.0, 9.0]], [[9.0, 7.9], [9.0, 13.9]]])
    roi = np.concatenate([np.zeros((2, 1)), boxes], axis=1).reshape(2, 1, 5, 1, 1)
    np.testing.assert_array_equal(crop_resize(IMAGE, roi, pad_value=9.0, **common)[:, 0], patches)


@pytest.mark.parametrize(
    ("mode", "box"),
    [
        ("CORNERS_HEIGHT_FIRST", [0, 1, 2, 2]),
        ("CORNERS_WIDTH_FIRST", [1, 0, 2, 2]),
        ("CENTER_SIZE_HEIGHT_FIRST", [1, 1.5, 2, 1]),
        ("CENTER_SIZE_WIDTH_FIRST", [1.5, 1, 1, 2]),
    ],
)
def test_crop_resize_reads_every_box_convention(mode: str, box: list[float]) -> None:
    images = np.concatenate([IMAGE, -IMAGE])
    roi = np.array(box, dtype=float).reshape(1, 1, 4, 1, 1)
    patches = crop_resize(
        images, roi, target_height=3, target_width=2, box_coordinate_mode=mode, sampling_mode="STRICT_ALIGN_CORNERS"
    )
    np.testing.assert_array_equal(patches[0], images[:, :, 0:3, 1:3])


def test_crop_resize_scales_its_boxes() -> None:
    boxes = np.array([[0.0, 2.0, 4.0, 4.0]])
    patches = crop_resize(
        IMAGE, boxes=boxes, target_height=3, target_width=2, spatial_scale=0.5, sampling_mode="STRICT_ALIGN_CORNERS"
    )
    np.testing.assert_array_equal(patches, IMAGE[:, :, 0:3, 1:3])


def test_resample_pads_with_a_value() -> None:
    points = np.array([[[[-9.0, 0.0], [3.5, 0.0], [0.0, 1.0]]]])
    sampled = resample(IMAGE, points, "bilinear", "constant", np.array(10.0), "unnormalized", True)
    np.testing.assert_array_equal(sampled, [[[[10, 7, 5]]]])


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["constant", "border", "reflection"])
def test_resample_against_torch(sampling: str, padding: str, align_corners: bool) -> None:
    grid = np.random.default_rng(1).uniform(-3, 3, (2, 4, 6, 2))
    torch_padding = "zeros" if padding == "constant" else padding
    expected = torch.nn.functional.grid_sample(
        torch.from_numpy(X), torch.from_numpy(grid), sampling, torch_padding, align_corners
    )
    if padding == "reflection" and not align_corners:
        padding = "symmetric"  # torch mirrors at the outer pixels' edges then
    mode = "normalized_minus_one_to_one"
    sampled = resample(X, grid, sampling, padding, np.array(0.0), mode, align_corners)
    np.testing.assert_allclose(sampled, expected, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 6), (5, 2)])
def test_affine_against_torch(size: tuple[int, int]) -> None:
    matrix = np.random.default_rng(2).standard_normal((2, 6))
    grid = torch.nn.functional.affine_grid(torch.from_numpy(matrix.reshape(2, 2, 3)), [2, 3, *size], align_corners=True)
    expected = torch.nn.functional.grid_sample(torch.from_numpy(X), grid, align_corners=True)
    mode = "normalized_minus_one_to_one"
    sampled = affine(X, matrix, *size, "bilinear", "constant", np.array(0.0), mode, True)
    np.testing.assert_allclose(sampled, expected, atol=1e-12)


@pytest.mark.parametrize("mode", ["normalized_zero_to_one", "unnormalized"])
def test_resample_reads_every_coordinates_mode(mode: str) -> None:
    row, column = np.meshgrid([0.0, 2.0, 4.0], [6.0, 3.0], indexing="ij")
    points = np.stack([column, row], axis=-1)[np.newaxis]
    if mode == "normalized_zero_to_one":
        points = points / [6, 4]
    sampled = resample(X[:1], points, "bilinear", "border", np.array(0.0), mode, True)
    np.testing.assert_allclose(sampled, X[:1, :, ::2, 6:2:-3], atol=1e-12)


def test_unknown_modes_are_named() -> None:
    points = np.zeros((2, 1, 1, 2))
    with pytest.raises(EvaluationError, match="unknown interpolation mode 'CUBIC'"):
        resize(X, np.array([2, 2]), 2, "CUBIC")
    with pytest.raises(EvaluationError, match="unknown sampling mode 'CENTERS'"):
        resize(X, np.array([2, 2]), 2, sampling_mode="CENTERS")
    with pytest.raises(EvaluationError, match="unknown sampling mode 'bicubic'"):
        resample(X, points, "bicubic", "border", np.array(0.0), "unnormalized", True)
    with pytest.raises(EvaluationError, match="unknown padding mode 'edge'"):
        resample(X, points, "nearest", "edge", np.array(0.0), "unnormalized", True)
    with pytest.raises(EvaluationError, match="unknown coordinates mode 'pixels'"):
        resample(X, points, "nearest", "border", np.array(0.0), "pixels", True)
