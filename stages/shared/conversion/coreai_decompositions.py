"""What coreai-torch refuses or gets wrong, in terms of what it does well: entries of a decomposition table.

Each function here has the arguments of the operation that it takes apart. It returns `NotImplemented` where it has
nothing better to offer: then the operation stays, and the converter says what it thinks of it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from shared.files.aimodel import import_coreai

import torch
from torch import Tensor

aten = torch.ops.aten

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {}


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The table for `run_decompositions`: coreai-torch's own, and what is below."""
    table: dict[Any, Callable[..., Any]] = import_coreai("coreai_torch").get_decomp_table()
    table.update(DECOMPOSITIONS)  # in place: it is lazy, and joined with another it would forget most of itself
    return table


def of(operation: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a function as the one that takes an operation apart."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        DECOMPOSITIONS[operation] = function
        return function

    return mark


@of(aten.elu.default)
def elu(x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor:
    """Also what SELU and CELU are."""
    negative = (x.clamp(max=0) * input_scale).exp() - 1
    return torch.where(x > 0, x * scale, negative * (alpha * scale))


@of(aten.var.correction)
def var(x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False) -> Any:
    """The mean of the squares, with the number of them one smaller; `std` is the root of it."""
    axes = [axis % x.dim() for axis in dim] if dim else list(range(x.dim()))
    count = math.prod(x.shape[axis] for axis in axes)
    if not isinstance(count, int):  # a length that is known when the program runs
        count = torch.ones_like(x).sum(axes, keepdim=keepdim)
    squares = (x - x.mean(axes, keepdim=True)).square().sum(axes, keepdim=keepdim)
    return squares / (count - (1 if correction is None else correction))


@of(aten.var_mean.correction)
def var_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Any:
    """Both of them."""
    axes = list(dim) if dim else list(range(x.dim()))
    return var(x, axes, correction=correction, keepdim=keepdim), x.mean(axes, keepdim=keepdim)


@of(aten.avg_pool2d.default)
def avg_pool2d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Without the padding in the count, which coreai-torch overlooks: the mean, by the share that was no padding."""
    if count_include_pad or divisor_override is not None or not any(padding):
        return NotImplemented
    mean, share = (
        aten.avg_pool2d.default(one, kernel, stride, padding, ceil_mode, True) for one in (x, torch.ones_like(x))
    )
    return mean / share


@of(aten.adaptive_avg_pool1d.default)
def adaptive_avg_pool1d(x: Tensor, output_size: Sequence[int]) -> Any:
    """The mean of each part; parts overlap where the length is no multiple of their number."""
    [parts] = output_size
    if parts == 1:
        return x.mean(-1, keepdim=True)
    length = x.shape[-1]
    if not isinstance(length, int):
        return NotImplemented
    bounds = [(part * length // parts, -(-(part + 1) * length // parts)) for part in range(parts)]
    return torch.cat([x[..., begin:end].mean(-1, keepdim=True) for begin, end in bounds], -1)


@of(aten.adaptive_max_pool2d.default)
def adaptive_max_pool2d(x: Tensor, output_size: Sequence[int]) -> Any:
    """Of all, and where it is; torch has no operation of its own for one dimension."""
    if list(output_size) != [1, 1]:
        return NotImplemented
    return x.amax((-2, -1), keepdim=True), x.flatten(-2).argmax(-1)[..., None, None]


@of(aten.unfold.default)
def unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows: the first step of all, the second of all ..., side by side in a new last axis."""
    axis = dimension % x.dim()
    last = x.shape[axis] - size + 1
    return torch.stack([aten.slice.Tensor(x, axis, begin, last + begin, step) for begin in range(size)], -1)


@of(aten.sort.default)
def sort(x: Tensor, dim: int = -1, descending: bool = False) -> Any:
    """As the largest of so many as there are."""
    length = x.shape[dim]
    return torch.topk(x, length, dim, descending) if isinstance(length, int) else NotImplemented
