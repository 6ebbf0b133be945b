"""Rounding to the declared precision, against numpy's own conversions."""

from typing import Any

from shared.coreml_reference.rounding import BLOCK, rounded

import numpy as np
import pytest
from numpy.typing import NDArray

Floats = NDArray[Any]

SPECIAL = np.array([0, 5e-324, 2.0**-25, 2.0**-24, 65519.999, 65520, 65536, 2.0**127, 1e39, 1e300, np.inf, np.nan])
HELD = pytest.mark.parametrize("held", [np.float32, np.float64])


def same(ours: Floats, theirs: Floats) -> bool:
    """Whether all values are equal to the last bit: zeros of the same sign, NaN where NaN is."""
    number = ~np.isnan(theirs)
    return (
        np.array_equal(np.isnan(ours), np.isnan(theirs))
        and np.array_equal(ours[number], theirs[number])
        and np.array_equal(np.signbit(ours[number]), np.signbit(theirs[number]))
    )


def halves() -> NDArray[np.float64]:
    """Every value of float16, the middle between any two neighbours, and what lies just beside each middle."""
    values = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64)
    finite = np.unique(values[np.isfinite(values)])
    middles = (finite[1:] + finite[:-1]) / 2
    beside = [np.nextafter(middles.astype(held), held(end)) for held in (np.float32, np.float64) for end in (9e9, -9e9)]
    return np.concatenate([values, middles, *beside])


@HELD
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_values_are_rounded_as_numpy_rounds_them(held: Any, dtype: type[np.floating]) -> None:
    random = np.random.default_rng(0)
    spread = random.normal(size=200_000) * 10.0 ** random.integers(-50, 50, 200_000)
    with np.errstate(all="ignore"):  # as the interpreter runs every op
        values = np.concatenate([halves(), spread, SPECIAL, -SPECIAL]).astype(held)
        expected = values.astype(dtype).astype(np.float32)
        before = values.copy()
        found, overflow = rounded(values, np.dtype(dtype))
        assert overflow == (held != dtype)
        assert same(found, expected)
        assert same(values, before)
        found, _ = rounded(values, np.dtype(dtype), overwrite=True)
        assert same(found, expected)
    assert found.dtype == np.float32


@HELD
@pytest.mark.parametrize(("dtype", "largest"), [(np.float16, 65519.0), (np.float32, 3.4028235e38)])
def test_only_a_finite_value_that_becomes_infinite_is_an_overflow(
    held: Any, dtype: type[np.floating], largest: float
) -> None:
    values, late = np.array([largest, -largest, np.inf, -np.inf, np.nan], held), np.ones(BLOCK + 1, held)
    with np.errstate(all="ignore"):
        late[-1] = largest * 1.001
        assert not rounded(values, np.dtype(dtype))[1]
        found, overflow = rounded(late, np.dtype(dtype))
    assert overflow == (held != dtype)
    assert found[-1] == np.inf


@HELD
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (5, 1000, 30)])
def test_any_shape_and_order_is_rounded(held: Any, overwrite: bool, shape: tuple[int, ...]) -> None:
    values = np.asfortranarray(np.random.default_rng(0).normal(size=shape).astype(held))
    expected = values.astype(np.float16).astype(np.float32)
    found, overflow = rounded(values, np.dtype(np.float16), overwrite=overwrite)
    assert not overflow
    np.testing.assert_array_equal(found, expected)
    assert np.shares_memory(found, values) == (overwrite and held == np.float32 and values.size > 0)
    assert found.strides == values.astype(np.float32).strides or not values.size
