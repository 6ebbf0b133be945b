"""Ops that build, join, order and select tensors (MIL's `tensor_operation` family)."""

from typing import Any, SupportsFloat, SupportsInt

from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@kernel("identity", moving=True)
def identity(x: Any) -> Any:
    """`output = x`."""
    return x


@kernel("shape")
def shape(x: Array) -> Array:
    """The sizes of x's dimensions, as int32."""
    return np.array(x.shape, dtype=np.int32)


@kernel("fill")
def fill(shape: Array, value: float | Array = 0.0) -> Array:
    """A tensor of `shape` whose every element is `value`."""
    return np.full([int(size) for size in shape], value)


@kernel("fill_like")
def fill_like(ref_tensor: Array, value: float | Array = 0.0) -> Array:
    """A tensor of `ref_tensor`'s shape (not its dtype) whose every element is `value`."""
    return np.full(ref_tensor.shape, value)


@kernel("tile", moving=True)
def tile(x: Array, reps: Array) -> Array:
    """Repeat x `reps[i]` times along axis i."""
    return np.tile(x, [int(count) for count in reps])


@kernel("concat", moving=True)
def concat(values: list[Array], axis: SupportsInt, interleave: bool = False) -> Array:
    """Join along an existing axis, scalars into a vector.

    Interleaved, with n equal shapes: `output[i * n + k] = values[k][i]` along `axis`.
    """
    arrays = [np.atleast_1d(value) for value in values]
    if not interleave:
        return np.concatenate(arrays, int(axis))
    position = int(axis) % arrays[0].ndim
    joined = list(arrays[0].shape)
    joined[position] *= len(arrays)
    return np.stack(arrays, position + 1).reshape(joined)


@kernel("stack", moving=True)
def stack(values: list[Array], axis: SupportsInt) -> Array:
    """Join along a new axis: `output[..., k, ...] = values[k]`."""
    return np.stack(values, int(axis))


@kernel("band_part", moving=True)
def band_part(x: Array, lower: SupportsInt = -1, upper: SupportsInt = -1) -> Array:
    """`output[..., m, n] = x[..., m, n]` if `m - n <= lower` and `n - m <= upper`, else 0; a negative bound is open."""
    below = np.subtract.outer(np.arange(x.shape[-2]), np.arange(x.shape[-1]))
    kept = np.ones(below.shape, dtype=bool)
    if int(lower) >= 0:
        kept &= below <= int(lower)
    if int(upper) >= 0:
        kept &= -below <= int(upper)
    return np.where(kept, x, np.zeros((), dtype=x.dtype))


@kernel("cumsum")
def cumsum(x: Array, axis: SupportsInt = 0, exclusive: bool = False, reverse: bool = False) -> Array:
    """`output[i] = sum(x[j] for j <= i)` along `axis`; `exclusive`: j < i; `reverse`: from the end."""
    along = np.moveaxis(x, int(axis), 0)
    if reverse:
        along = along[::-1]
    if exclusive:
        along = np.concatenate([np.zeros_like(along[:1]), along[:-1]])
    total = np.cumsum(along, axis=0)
    return np.moveaxis(total[::-1] if reverse else total, 0, int(axis))


@kernel("non_zero")
def non_zero(x: Array) -> Array:
    """One row of indices per element that is not 0, in row-major order."""
    return np.argwhere(x)


@kernel("one_hot")
def one_hot(
    indices: Array,
    one_hot_vector_size: SupportsInt,
    axis: SupportsInt = -1,
    on_value: float | Array = 1,
    off_value: float | Array = 0,
) -> Array:
    """`output[..., k, ...] = on_value if indices[...] == k else off_value`, k along the new `axis`."""
    hot = indices[..., np.newaxis] == np.arange(int(one_hot_vector_size))
    return np.moveaxis(np.where(hot, on_value, off_value), -1, int(axis))


@kernel("range_1d")
def range_1d(end: Array, start: Array, step: Array, operation: Any = None) -> Array:
    """`output[i] = start + i * step` for `ceil((end - start) / step)` elements.

    The number of elements is computed in the declared precision, as the converter does: 1 / float16(0.1) is exactly 10
    in float16 and a little more in float64.
    """
    declared = "fp32" if operation is None else operation.outputs[0].dtype.__name__
    narrow = {"fp16": np.float16, "fp32": np.float32}.get(declared, np.float64)
    steps = np.subtract(end, start).astype(narrow) / np.asarray(step).astype(narrow)
    values: Array = start + step * np.arange(max(0, int(np.ceil(steps))))
    return values


@kernel("argsort")
def argsort(x: Array, axis: SupportsInt = -1, ascending: bool = False) -> Array:
    """The indices that sort x along `axis`, from the largest unless `ascending`; equal elements keep their order."""
    wide = x.astype(np.int64) if x.dtype.kind in "biu" else x  # -x wraps around in an unsigned dtype
    return np.argsort(wide if ascending else -wide, axis=int(axis), kind="stable")


@kernel("topk")
def topk(
    x: Array,
    k: SupportsInt = 1,
    axis: SupportsInt = -1,
    ascending: bool = False,
    sort: bool = True,  # noqa: ARG001 - unsorted means any order, so the sorted one too
    return_indices: bool = True,
    output_indices_dtype: str = "int32",  # noqa: ARG001 - the output declares it
) -> Array | tuple[Array, Array]:
    """The k largest (smallest if `ascending`) elements along `axis`, in order, and their indices; k = -1 takes all.

    Of equal elements the first comes first. The index output is absent when `return_indices` is false.
    """
    order = argsort(x, axis, ascending)
    count = x.shape[int(axis)] if int(k) == -1 else int(k)
    indices = np.moveaxis(np.moveaxis(order, int(axis), 0)[:count], 0, int(axis))
    values = np.take_along_axis(x, indices, int(axis))
    return (values, indices) if return_indices else values


def _intersection_over_union(box: Array, boxes: Array) -> Array:
    """Area of overlap / area covered, of one (center x, center y, width, height) with each of `boxes`; 0 if empty."""
    low = np.maximum(box[:2] - box[2:] / 2, boxes[:, :2] - boxes[:, 2:] / 2)
    high = np.minimum(box[:2] + box[2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2)
    overlap = np.prod(np.maximum(high - low, 0), axis=1)
    union = np.prod(box[2:]) + np.prod(boxes[:, 2:], axis=1) - overlap
    ratio: Array = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return ratio


def _suppress(boxes: Array, scores: Array, iou_threshold: float, score_threshold: float, per_class: bool) -> Array:
    """The indices of the boxes that survive, by falling score; the best box alone when no score reaches the threshold.

    Greedy: take the best box left, drop those that overlap it by more than `iou_threshold` (of its class only, if
    `per_class`), repeat. A box's score is its best class's, its class the one with that score.
    """
    best, classes = scores.max(axis=1), scores.argmax(axis=1)
    order = np.argsort(-best, kind="stable")
    left = order[best[order] >= score_threshold]
    kept = []
    while left.size:
        first, left = left[0], left[1:]
        kept.append(first)
        suppressed = _intersection_over_union(boxes[first], boxes[left]) > iou_threshold
        if per_class:
            suppressed &= classes[left] == classes[first]
        left = left[~suppressed]
    return np.array(kept or order[:1], dtype=np.int64)


@kernel("non_maximum_suppression")
def non_maximum_suppression(
    boxes: Array,
    scores: Array,
    iou_threshold: SupportsFloat,
    max_boxes: SupportsInt,
    score_threshold: SupportsFloat | None = None,
    per_class_suppression: bool = False,
) -> tuple[Array, ...]:
    """Keep at most `max_boxes` boxes by falling score, none overlapping a better one by more than `iou_threshold`.

    Boxes are (center x, center y, width, height). Up to iOS16 they are (n, B, 4), the scores (n, B, K), boxes below
    `score_threshold` are dropped and the number kept is a fourth output; from iOS17 on, without that threshold, they
    are (n, 4, B) and (n, K, B). Unused places hold 0, index -1.
    """
    boxes_last = score_threshold is None
    if boxes_last:
        boxes, scores = np.swapaxes(boxes, 1, 2), np.swapaxes(scores, 1, 2)
    lowest = -np.inf if score_threshold is None else float(score_threshold)
    batch, places = boxes.shape[0], int(max_boxes)
    kept_boxes, kept_scores = np.zeros((batch, places, 4)), np.zeros((batch, places, scores.shape[2]))
    indices, counts = np.full((batch, places), -1), np.zeros(batch, dtype=np.int64)
    for n in range(batch):
        kept = _suppress(boxes[n], scores[n], float(iou_threshold), lowest, per_class_suppression)[:places]
        counts[n] = len(kept)
        indices[n, : len(kept)] = kept
        kept_boxes[n, : len(kept)], kept_scores[n, : len(kept)] = boxes[n, kept], scores[n, kept]
    if boxes_last:
        return np.swapaxes(kept_boxes, 1, 2), np.swapaxes(kept_scores, 1, 2), indices
    return kept_boxes, kept_scores, indices, counts
