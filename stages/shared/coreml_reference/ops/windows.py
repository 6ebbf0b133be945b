"""Where the windows of convolution and pooling lie: padding and output sizes, one spatial axis at a time."""

from collections.abc import Sequence
from typing import Any

from shared.coreml_reference.errors import EvaluationError

from numpy.typing import NDArray

# One number for each spatial axis, or two of padding.
Numbers = Sequence[int] | NDArray[Any]


def paddings(
    pad_type: str, pad: Numbers | None, sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Return the (before, after) padding of each spatial axis; `extents` are the kernel's, with its dilation.

    "valid" pads nothing and "custom" takes `pad`. "same" pads so that the output has ceil(size / stride) elements,
    as evenly as it can, with an odd one after ("same_lower": before).
    """
    pad_type = pad_type.lower()
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        if pad is None or len(pad) != 2 * len(sizes):
            raise EvaluationError(f"custom padding needs {2 * len(sizes)} numbers, found {pad}")
        return [(int(before), int(after)) for before, after in zip(pad[::2], pad[1::2], strict=True)]
    if pad_type not in ("same", "same_lower"):
        raise EvaluationError(f"unknown pad_type {pad_type!r}: valid, custom, same or same_lower")
    both = []
    for size, extent, stride in zip(sizes, extents, strides, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + extent - size)
        smaller, larger = total // 2, total - total // 2
        both.append((smaller, larger) if pad_type == "same" else (larger, smaller))
    return both


def output_size(size: int, extent: int, stride: int, padding: tuple[int, int], ceil_mode: bool = False) -> int:
    """Return how many windows fit: `(size + padding - extent) / stride + 1`, rounded down, or up in `ceil_mode`.

    As in torch, a window that `ceil_mode` would start beyond the input and its leading padding is dropped; MIL does
    so only where there is padding at all.
    """
    total = sum(padding)
    count = (size + total - extent + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and total > 0 and (count - 1) * stride >= size + padding[0]:
        count -= 1
    if count <= 0:
        raise EvaluationError(f"a window of {extent} does not fit into {size} elements padded with {padding}")
    return count
