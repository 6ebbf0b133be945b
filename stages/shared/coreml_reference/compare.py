"""Where a result departs from the exact one: op by op, in the program's order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shared.coreml_reference.errors import InputError
from shared.coreml_reference.reference import CoreMLReference

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Distance:
    """How far an array is from the exact one: the largest difference, and that over the largest exact magnitude."""

    absolute: float
    relative: float

    def __str__(self) -> str:
        return f"relative {self.relative:.2e}, absolute {self.absolute:.2e}"


@dataclass(frozen=True)
class Comparison:
    """One result of one op.

    Attributes:
        name: The result's name in the program.
        op_name, op_type: The op that computes it.
        declared: How far the declared precision takes it from the exact result.
        other: How far another runtime's value of that name is from the exact result; None where there is none.
    """

    name: str
    op_name: str
    op_type: str
    declared: Distance
    other: Distance | None = None

    def __str__(self) -> str:
        return f"op {self.op_name!r} ({self.op_type}), result {self.name!r}"


def distance(found: Any, exact: Any) -> Distance:
    """Measure how far `found` is from `exact`; NaN and infinities must be the same in both."""
    found, exact = (np.asarray(array, dtype=np.float64) for array in (found, exact))
    if found.size == 0 or np.array_equal(found, exact, equal_nan=True):
        return Distance(0.0, 0.0)
    finite = np.isfinite(exact)
    if not np.array_equal(finite, np.isfinite(found)) or not np.array_equal(
        found[~finite], exact[~finite], equal_nan=True
    ):
        return Distance(np.inf, np.inf)
    absolute = float(np.abs(found[finite] - exact[finite]).max())
    scale = float(np.abs(exact[finite]).max())
    return Distance(absolute, absolute / scale if scale else np.inf)


def compare(
    declared: CoreMLReference,
    exact: CoreMLReference,
    data: Mapping[str, Any],
    other: Mapping[str, Array] | None = None,
) -> Iterator[Comparison]:
    """Walk two evaluations of one program side by side; yield every result that is a tensor.

    Args:
        declared: The program in its declared precision.
        exact: The same program with `compute="exact"`.
        data: The inputs; states start at zero.
        other: Values that another runtime computed, by their names in the program.
    """
    other = other or {}
    walks = (
        reference._interpreter.walk(reference.arguments(data, reference.make_state()))
        for reference in (declared, exact)
    )
    for (step, rounded), (_, results) in zip(*walks, strict=True):
        for result, found, value in zip(step.results, rounded, results, strict=True):
            if result.dtype is None:
                continue
            yield Comparison(
                result.name,
                step.operation.name,
                step.operation.op_type,
                distance(found, value),
                distance(_aligned(result.name, other[result.name], value), value) if result.name in other else None,
            )


def _aligned(name: str, found: Any, exact: Array) -> Array:
    """Return another runtime's value; Core ML gives scalars in shape (1,)."""
    array = np.asarray(found)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name!r}: dtype {array.dtype}; expected numbers")
    if array.shape == (1,) and exact.shape == ():
        array = array.reshape(())
    if array.shape != exact.shape:
        raise InputError(f"{name!r}: shape {array.shape}; the program computes {exact.shape}")
    return array
