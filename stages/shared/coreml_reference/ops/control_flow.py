"""Branches, loops and lists of tensors: `cond`, `while_loop`, `make_list` and `list_*`."""

from typing import Any, SupportsInt

from shared.coreml_reference.errors import EvaluationError
from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@kernel("cond", moving=True)
def cond(pred: Array, operation: Any, execution: Any) -> tuple[Any, ...]:
    """Run the first block if `pred` holds, else the second; return that block's outputs."""
    return tuple(execution.run_block(operation.blocks[0 if pred else 1]))


@kernel("while_loop", moving=True)
def while_loop(loop_vars: list[Any], operation: Any, execution: Any) -> tuple[Any, ...]:
    """Repeat `loop_vars = body(*loop_vars)` while `condition(*loop_vars)` holds; return the last `loop_vars`."""
    condition, body = operation.blocks
    while execution.run_block(condition, loop_vars)[0]:
        execution.count_pass()
        loop_vars = execution.run_block(body, loop_vars)
    return tuple(loop_vars)


@kernel("make_list")
def make_list(
    elem_shape: list[Any] | None = None,
    init_length: SupportsInt = 1,
    dynamic_length: bool = True,  # noqa: ARG001 (the file does not keep it: every saved list may grow)
    dtype: str = "fp32",
) -> list[Array | None]:
    """Return a list of `init_length` zeros of shape `elem_shape`, or of nothing where a size is known only later."""
    if elem_shape is None or any(isinstance(size, str) for size in elem_shape):
        return [None] * int(init_length)
    kinds: dict[str, Any] = {"bool": np.bool_, "int32": np.int32}
    zeros: Array = np.zeros([int(size) for size in elem_shape], kinds.get(dtype, np.float64))
    return [zeros] * int(init_length)


@kernel("list_length")
def list_length(ls: list[Array | None]) -> Array:
    """Return the number of elements."""
    return np.array(len(ls), np.int32)


@kernel("list_read")
def list_read(ls: list[Array | None], index: SupportsInt) -> Array:
    """Return `ls[index]`."""
    return _read(ls, int(index))


@kernel("list_write")
def list_write(ls: list[Array | None], index: SupportsInt, value: Array) -> list[Array | None]:
    """Return the list with `ls[index] = value`; a list grows to hold the index."""
    return _written(ls, {int(index): value})


@kernel("list_gather")
def list_gather(ls: list[Array | None], indices: Array) -> Array:
    """Return the elements at `indices`, stacked: (number of indices, *element shape)."""
    return np.stack([_read(ls, int(index)) for index in indices])


@kernel("list_scatter")
def list_scatter(ls: list[Array | None], indices: Array, value: Array) -> list[Array | None]:
    """Return the list with `ls[indices[i]] = value[i]` for every i; a list grows to hold the indices."""
    return _written(ls, {int(index): element for index, element in zip(indices, value, strict=True)})


def _read(ls: list[Array | None], index: int) -> Array:
    if not -len(ls) <= index < len(ls):
        raise EvaluationError(f"index {index} of a list of {len(ls)}")
    element = ls[index]
    if element is None:
        raise EvaluationError(f"element {index} of the list was never written")
    return element


def _written(ls: list[Array | None], elements: dict[int, Array]) -> list[Array | None]:
    if any(index < 0 for index in elements):
        raise EvaluationError(f"a write to index {min(elements)} of a list")
    unwritten = None if ls == [] or ls[0] is None else np.zeros_like(ls[0])
    written = ls + [unwritten] * (max(elements, default=-1) + 1 - len(ls))
    for index, element in elements.items():
        written[index] = element
    return written
