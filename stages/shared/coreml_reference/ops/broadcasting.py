"""How one value per channel, per row or per step meets a whole tensor."""

from typing import Any, SupportsInt

from numpy.typing import NDArray

Array = NDArray[Any]


def along_axis(values: Array, rank: int, axis: SupportsInt | None) -> Array:
    """Shape a vector so that it broadcasts along `axis` of a tensor of `rank`; a scalar stays as it is."""
    if values.ndim == 0 or axis is None:
        return values
    shape = [1] * rank
    shape[int(axis)] = -1
    return values.reshape(shape)
