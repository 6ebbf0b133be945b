"""Rounding to the declared precision, against numpy's own conversions."""

from shared.coreml_reference.rounding import BLOCK, round_in_place

import numpy as np
import pytest
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SPECIAL = np.array([0, 5e-324, 2.0**-25, 2.0**-24, 65519.999, 65520, 65536, 2.0**127, 1e39, 1e300, np.inf, np.nan])


def same(ours: Floats, theirs: Floats) -> bool:
    """Whether all values are equal to the last bit: zeros of the same sign, NaN where NaN is."""
    number = ~np.isnan(theirs)
    return (
        np.array_equal(np.isnan(ours), np.isnan(theirs))
        and np.array_equal(ours[number], theirs[number])
        and np.array_equal(np.signbit(ours[number]), np.signbit(theirs[number]))
    )


def halves() -> Floats:
    """Every value of float16, the middle between any two neighbours, and what lies just beside each middle."""
    values = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64)
    finite = np.unique(values[np.isfinite(values)])
    middles = (finite[1:] + finite[:-1]) / 2
    return np.concatenate([values, middles, np.nextafter(middles, np.inf), np.nextafter(middles, -np.inf)])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_values_are_rounded_as_numpy_rounds_them(dtype: type[np.floating]) -> None:
    random = np.random.default_rng(0)
    spread = random.normal(size=200_000) * 10.0 ** random.integers(-50, 50, 200_000)
    values = np.concatenate([halves(), spread, SPECIAL, -SPECIAL])
    with np.errstate(all="ignore"):  # as the interpreter runs every op
        expected = values.astype(dtype).astype(np.float64)
        assert round_in_place(values, np.dtype(dtype))
    assert same(values, expected)


@pytest.mark.parametrize(("dtype", "largest"), [(np.float16, 65519.0), (np.float32, 3.4028235e38)])
def test_only_a_finite_value_that_becomes_infinite_is_an_overflow(dtype: type[np.floating], largest: float) -> None:
    values = np.array([largest, -largest, np.inf, -np.inf, np.nan])
    assert not round_in_place(values, np.dtype(dtype))
    late = np.ones(BLOCK + 1)
    late[-1] = largest * 1.001
    assert round_in_place(late, np.dtype(dtype))
    assert late[-1] == np.inf


@pytest.mark.parametrize("shape", [(), (0,), (3, 4)])
def test_any_shape_and_order_is_rounded_in_place(shape: tuple[int, ...]) -> None:
    values = np.full(shape, 1 / 3, order="F")
    assert not round_in_place(values, np.dtype(np.float16))
    assert (values == float(np.float16(1 / 3))).all()
