"""What a model's description says of its inputs, outputs and states: dtypes, shapes and their bounds."""

import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.coreml_reference.errors import InputError, UnsupportedError, reported

import numpy as np

Shape = tuple[int, ...]
Bounds = tuple[int, int | None]


def _memory() -> int:
    """The bytes that this process may use: the machine's memory, or less where the process or its group is limited."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        memory = min(memory, limit)
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # there is none, or it is "max"
            memory = min(memory, int(Path(file).read_text()))
    return memory


# A larger tensor is an absurd shape, not something to try: an op needs memory for what it reads and what it makes.
LARGEST_TENSOR = _memory() // 2 // np.dtype(np.float64).itemsize

KINDS = {
    "multiArrayType": "tensor",
    "stateType": "state",
    "imageType": "image",
    "dictionaryType": "dictionary",
    "stringType": "string",
    "int64Type": "int64",
    "doubleType": "double",
    "sequenceType": "sequence",
}
# By the numbers that the format gives them (`ArrayDataType`).
DTYPES: dict[int, np.dtype[Any]] = {
    65552: np.dtype(np.float16),
    65568: np.dtype(np.float32),
    65600: np.dtype(np.float64),
    131080: np.dtype(np.int8),
    131104: np.dtype(np.int32),
}


@dataclass(frozen=True)
class Feature:
    """One input, output or state.

    Attributes:
        name: Its name.
        kind: "tensor", "state", "image", "dictionary", "string", "int64", "double" or "sequence".
        dtype: A tensor's or a state's type at the interface; None for every other kind.
        shape: The default shape; empty where the description leaves it open, as it does for outputs of flexible models.
        bounds: The lowest and highest size of every axis (None is unbounded), or None where sizes do not range.
        shapes: The shapes that are allowed, where they are enumerated; else empty.
        default: What fills the input when it is left out; None where it is required.
        description: The author's words.
    """

    name: str
    kind: str
    dtype: np.dtype[Any] | None = None
    shape: Shape = ()
    bounds: tuple[Bounds, ...] | None = None
    shapes: tuple[Shape, ...] = ()
    default: float | None = None
    description: str = ""

    def accepts(self, shape: Shape) -> bool:
        """Tell whether a value may have this shape."""
        if self.shapes:
            return shape in self.shapes
        if self.bounds is not None:
            return len(shape) == len(self.bounds) and all(
                low <= size and (high is None or size <= high)
                for size, (low, high) in zip(shape, self.bounds, strict=True)
            )
        return shape == self.shape

    def shape_text(self) -> str:
        """Write the shapes that are allowed, such as `(1..4096, 6, 1)`."""
        if self.shapes:
            return " or ".join(str(shape) for shape in self.shapes)
        if self.bounds is None:
            return str(self.shape) if self.shape else "(any)"
        sizes = [str(low) if low == high else f"{low}..{'' if high is None else high}" for low, high in self.bounds]
        return f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"

    def convert(self, value: Any) -> np.ndarray[Any, Any]:
        """Check a value's shape and type and return it in the interface's dtype; an integer input cuts fractions."""
        if self.kind not in {"tensor", "state"} or self.dtype is None:
            raise UnsupportedError(f"input {self.name!r} is of type {self.kind}: only tensors can be passed")
        with reported(InputError, f"input {self.name!r}"):
            array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise InputError(f"input {self.name!r}: dtype {array.dtype}; expected numbers ({self.dtype})")
        if not self.accepts(array.shape):
            raise InputError(f"input {self.name!r}: shape {array.shape}; the model allows {self.shape_text()}")
        with np.errstate(all="ignore"):
            converted = array.astype(self.dtype)
        if self.dtype.kind == "i" and not np.array_equal(converted, np.trunc(array)):
            raise InputError(f"input {self.name!r}: values that {self.dtype} cannot hold, in {array.dtype}")
        return converted


def read_feature(description: Any) -> Feature:
    """Read a `FeatureDescription` of the model's protobuf."""
    kind = KINDS[description.type.WhichOneof("Type")]
    if kind not in {"tensor", "state"}:
        return Feature(description.name, kind, description=description.shortDescription)
    array = description.type.multiArrayType if kind == "tensor" else description.type.stateType.arrayType
    flexibility = array.WhichOneof("ShapeFlexibility")
    default = array.WhichOneof("defaultOptionalValue")
    bounds = tuple(
        (int(size.lowerBound), None if size.upperBound < 0 else int(size.upperBound))
        for size in array.shapeRange.sizeRanges
    )
    return Feature(
        description.name,
        kind,
        dtype=DTYPES[array.dataType],
        shape=tuple(array.shape),
        bounds=bounds if flexibility == "shapeRange" else None,
        shapes=tuple(tuple(shape.shape) for shape in array.enumeratedShapes.shapes),
        default=float(getattr(array, default)) if default and description.type.isOptional else None,
        description=description.shortDescription,
    )
