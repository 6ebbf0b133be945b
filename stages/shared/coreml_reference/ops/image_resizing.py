"""Ops that sample an image on another grid."""

from typing import Any, SupportsInt

from shared.coreml_reference.errors import EvaluationError
from shared.coreml_reference.ops.broadcasting import along_axis
from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _grid(last: Any, count: int, mode: str) -> Array:
    """`count` points of the interval [0, last] (an image of `last + 1` pixels), clipped to it.

    With N = count and i = 0 .. N-1:
    STRICT_ALIGN_CORNERS  i * last / (N - 1), 0 if N = 1
    ALIGN_CORNERS         the same, last / 2 if N = 1
    DEFAULT               i * (last + 1) / N
    UNALIGN_CORNERS       (i + 0.5) * (last + 1) / N - 0.5
    OFFSET_CORNERS        (i + 0.5) * max(1, last) / N
    `last` may be an array of shape (..., 1): one interval each.
    """
    i = np.arange(count)
    match mode:
        case "STRICT_ALIGN_CORNERS" | "ALIGN_CORNERS" if count > 1:
            points = i * (last / (count - 1))
        case "STRICT_ALIGN_CORNERS":
            points = i * last
        case "ALIGN_CORNERS":
            points = (i + 0.5) * last
        case "DEFAULT":
            points = i * ((last + 1) / count)
        case "UNALIGN_CORNERS":
            points = (i + 0.5) * ((last + 1) / count) - 0.5
        case "OFFSET_CORNERS":
            points = (i + 0.5) * (np.maximum(1, last) / count)
        case _:
            raise EvaluationError(f"unknown sampling mode {mode!r}")
    return np.asarray(np.clip(points, np.minimum(last, 0), np.maximum(last, 0)))


def _linear(x: Array, axis: int, points: Array) -> Array:
    """`output[k] = (1 - t) * x[floor(p)] + t * x[floor(p) + 1]` along `axis`, p = points[k] and t = p - floor(p)."""
    low = np.floor(points).astype(np.int64)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    weight = along_axis(points - low, x.ndim, axis)
    output: Array = (1 - weight) * np.take(x, low, axis) + weight * np.take(x, high, axis)
    return output


def _nearest(x: Array, axis: int, count: int, mode: str) -> Array:
    """The pixel nearest to each grid point, halves upwards.

    `DEFAULT` takes pixel centers (UNALIGN_CORNERS), `floor((i + 0.5) * size / N)`, as TensorFlow's half-pixel-centers
    resize, which the converter writes with it; the grid of the linear `DEFAULT` would differ.
    """
    points = _grid(x.shape[axis] - 1, count, "UNALIGN_CORNERS" if mode == "DEFAULT" else mode)
    return np.take(x, np.floor(points + 0.5).astype(np.int64), axis)


@kernel("resize_bilinear")
def resize_bilinear(
    x: Array,
    target_size_height: SupportsInt = 1,
    target_size_width: SupportsInt = 1,
    sampling_mode: str = "DEFAULT",
) -> Array:
    """Interpolate linearly along the last two axes, on the grid of `sampling_mode`: see `_grid`."""
    for axis, count in ((-2, int(target_size_height)), (-1, int(target_size_width))):
        x = _linear(x, axis, _grid(x.shape[axis] - 1, count, sampling_mode))
    return x


@kernel("resize_nearest_neighbor")
def resize_nearest_neighbor(x: Array, target_size_height: SupportsInt, target_size_width: SupportsInt) -> Array:
    """`output[..., i, j] = x[..., floor((i + 0.5) * H / N), floor((j + 0.5) * W / M)]` for N x M pixels."""
    x = _nearest(x, -2, int(target_size_height), "DEFAULT")
    return _nearest(x, -1, int(target_size_width), "DEFAULT")


@kernel("resize")
def resize(
    x: Array,
    shape: Array,
    resized_dims: SupportsInt,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Array:
    """Resize the last `resized_dims` axes to the last sizes in `shape`, where 0 keeps the size of x."""
    if interpolation_mode not in ("LINEAR", "NEAREST_NEIGHBOR"):
        raise EvaluationError(f"unknown interpolation mode {interpolation_mode!r}: LINEAR or NEAREST_NEIGHBOR")
    resized = int(resized_dims)
    for axis, size in zip(range(-resized, 0), shape[len(shape) - resized :], strict=True):
        count = int(size) or x.shape[axis]
        if interpolation_mode == "LINEAR":
            x = _linear(x, axis, _grid(x.shape[axis] - 1, count, sampling_mode))
        else:
            x = _nearest(x, axis, count, sampling_mode)
    return x


@kernel("upsample_bilinear")
def upsample_bilinear(
    x: Array,
    scale_factor_height: float | Array = 1,
    scale_factor_width: float | Array = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Array:
    """Resize to `floor(size * scale)` and interpolate linearly; the spacing follows from the two sizes.

    `align_corners`: STRICT_ALIGN_CORNERS, else `half_pixel_centers` (the default): UNALIGN_CORNERS, else DEFAULT.
    """
    if half_pixel_centers is None:
        half_pixel_centers = not align_corners
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half_pixel_centers else "DEFAULT"
    height, width = _scaled_size(x, scale_factor_height, scale_factor_width)
    return resize_bilinear(x, height, width, mode)


@kernel("upsample_nearest_neighbor")
def upsample_nearest_neighbor(
    x: Array, scale_factor_height: float | Array = 1, scale_factor_width: float | Array = 1
) -> Array:
    """`output[..., i, j] = x[..., floor(i * H / N), floor(j * W / M)]` for N x M = `floor(size * scale)` pixels."""
    for axis, count in zip((-2, -1), _scaled_size(x, scale_factor_height, scale_factor_width), strict=True):
        x = np.take(x, np.arange(count) * x.shape[axis] // count, axis)
    return x


def _scaled_size(x: Array, height: float | Array, width: float | Array) -> tuple[int, int]:
    """`floor(size * scale)` of the last two axes."""
    return int(np.floor(x.shape[-2] * float(height))), int(np.floor(x.shape[-1] * float(width)))


def _pixels(x: Array, batch: Array, row: Array, column: Array) -> Array:
    """`output[n, c, i, j] = x[batch[n], c, row[n, i, j], column[n, i, j]]`."""
    return np.moveaxis(x[batch[:, np.newaxis, np.newaxis], :, row, column], -1, 1)


def _bilinear(x: Array, batch: Array, row: Array, column: Array, padding: float | None) -> Array:
    """Interpolate between the four pixels around (row, column); pixels outside are `padding`, or the edge if None."""
    height, width = x.shape[-2:]
    output = np.zeros(())
    top, left = np.floor(row), np.floor(column)
    for i in (top, top + 1):
        for j in (left, left + 1):
            inside_i, inside_j = np.clip(i, 0, height - 1), np.clip(j, 0, width - 1)
            pixels = _pixels(x, batch, inside_i.astype(np.int64), inside_j.astype(np.int64))
            if padding is not None:
                pixels = np.where(((i == inside_i) & (j == inside_j))[:, np.newaxis], pixels, padding)
            weight = (1 - np.abs(row - i)) * (1 - np.abs(column - j))
            output = output + weight[:, np.newaxis] * pixels
    return output


@kernel("crop_resize")
def crop_resize(
    x: Array,
    roi: Array | None = None,
    boxes: Array | None = None,
    box_indices: Array | None = None,
    target_height: SupportsInt = 1,
    target_width: SupportsInt = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float | Array = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float | Array = 0.0,
) -> Array:
    """Cut each box out of an image and resize it linearly: the pixels at `start + _grid(end - start)` of each axis.

    Normalised coordinates are multiplied by (size - 1), all of them by `spatial_scale`. A point outside the image gets
    `pad_value`. iOS17: `boxes` (N, 4) of the images `box_indices` give (N, C, h, w); earlier: `roi` (N, 1, 4, 1, 1)
    cuts every image into (N, B, C, h, w), and `roi` (N, 1, 5, 1, 1) starts with the image's index.
    """
    if roi is None:
        if boxes is None:
            raise EvaluationError("neither roi nor boxes is given")
        images = np.arange(len(boxes)) if box_indices is None else box_indices.astype(np.int64)
        output_shape: tuple[int, ...] = (len(boxes),)
    else:
        boxes = roi.reshape(len(roi), -1)
        if boxes.shape[1] == 5:
            images, boxes = boxes[:, 0].astype(np.int64), boxes[:, 1:]
            output_shape = (len(boxes), 1)
        else:
            output_shape = (len(boxes), x.shape[0])
            images, boxes = np.tile(np.arange(x.shape[0]), len(boxes)), np.repeat(boxes, x.shape[0], axis=0)
    first, second = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    if box_coordinate_mode.startswith("CENTER_SIZE"):
        first, second = first - second / 2, first + second / 2
    if box_coordinate_mode.endswith("WIDTH_FIRST"):
        first, second = first[:, ::-1], second[:, ::-1]
    last_pixel = np.array(x.shape[-2:]) - 1
    scale = float(spatial_scale) * (last_pixel if normalized_coordinates else np.ones(2))
    start, extent = first * scale, (second - first) * scale
    row = start[:, :1] + _grid(extent[:, :1], int(target_height), sampling_mode)
    column = start[:, 1:] + _grid(extent[:, 1:], int(target_width), sampling_mode)
    rows, columns = np.broadcast_arrays(row[:, :, np.newaxis], column[:, np.newaxis, :])
    inside = (rows >= 0) & (rows <= last_pixel[0]) & (columns >= 0) & (columns <= last_pixel[1])
    rows, columns = np.clip(rows, 0, last_pixel[0]), np.clip(columns, 0, last_pixel[1])
    patches = np.where(inside[:, np.newaxis], _bilinear(x, images, rows, columns, None), pad_value)
    return patches.reshape(output_shape + patches.shape[1:])


def _to_pixels(coordinates: Array, size: int, mode: str, align_corners: bool) -> Array:
    """Coordinates in pixels: with aligned corners the range ends at the outer pixels' centers, else at their edges."""
    match mode:
        case "unnormalized":
            return coordinates
        case "normalized_minus_one_to_one":
            unit = (coordinates + 1) / 2
        case "normalized_zero_to_one":
            unit = coordinates
        case _:
            raise EvaluationError(f"unknown coordinates mode {mode!r}")
    return unit * (size - 1) if align_corners else unit * size - 0.5


def _reflect(pixels: Array, low: float, high: float) -> Array:
    """Fold the line onto [low, high] by mirrors at both ends."""
    length = high - low
    if length == 0:
        return np.full_like(pixels, low)
    folded = np.mod(pixels - low, 2 * length)
    reflected: Array = low + np.minimum(folded, 2 * length - folded)
    return reflected


@kernel("resample")
def resample(
    x: Array,
    coordinates: Array,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float | Array,
    coordinates_mode: str,
    align_corners: bool,
) -> Array:
    """`output[b, c, i, j] = x[b, c, y, w]` at `(w, y) = coordinates[b, i, j]` (as `torch`'s `grid_sample`).

    Outside the image: `padding_value` (`constant`), the edge (`border`), the mirror image without the edge
    (`reflection`) or with it (`symmetric`). `nearest` rounds halves to even.
    """
    if sampling_mode not in ("bilinear", "nearest"):
        raise EvaluationError(f"unknown sampling mode {sampling_mode!r}: bilinear or nearest")
    where = []
    for axis, size in ((1, x.shape[2]), (0, x.shape[3])):
        pixels = _to_pixels(coordinates[..., axis].astype(np.float64), size, coordinates_mode, bool(align_corners))
        match padding_mode:
            case "reflection":
                pixels = _reflect(pixels, 0, size - 1)
            case "symmetric":
                pixels = np.clip(_reflect(pixels, -0.5, size - 0.5), 0, size - 1)
            case "border":
                pixels = np.clip(pixels, 0, size - 1)
            case "constant":
                pass
            case _:
                raise EvaluationError(f"unknown padding mode {padding_mode!r}")
        where.append(np.rint(pixels) if sampling_mode == "nearest" else pixels)
    padding = float(padding_value) if padding_mode == "constant" else None
    return _bilinear(x, np.arange(len(x)), where[0], where[1], padding)


@kernel("affine")
def affine(
    x: Array,
    transform_matrix: Array,
    output_height: SupportsInt,
    output_width: SupportsInt,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float | Array,
    coordinates_mode: str,
    align_corners: bool,
) -> Array:
    """Resample at `x' = a0 x + a1 y + a2`, `y' = b0 x + b1 y + b2`, (x, y) the output's pixels in [-1, 1].

    `transform_matrix` is [a0, a1, a2, b0, b1, b2], one for each image or one for all.
    """
    row, column = (
        np.linspace(-1, 1, int(size)) if int(size) > 1 else np.zeros(1) for size in (output_height, output_width)
    )
    y, w = np.meshgrid(row, column, indexing="ij")
    points = np.stack([w, y, np.ones_like(w)], axis=-1)
    matrix = np.broadcast_to(transform_matrix.reshape(-1, 2, 3), (len(x), 2, 3))
    coordinates = np.einsum("hwk,bik->bhwi", points, matrix)
    return resample(x, coordinates, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)
