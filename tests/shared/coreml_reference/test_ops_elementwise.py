"""The elementwise kernels: the cases in which a plain numpy call would be wrong or ambiguous."""

from shared.coreml_reference.ops.elementwise import BINARY, UNARY, cast, clip, log, power, real_div, select
from shared.coreml_reference.registry import KERNELS

import numpy as np
import pytest


@pytest.mark.parametrize("op_type", sorted(UNARY))
def test_a_scalar_stays_an_array(op_type: str) -> None:
    assert isinstance(KERNELS[op_type](x=np.array(0.5)), np.ndarray)


@pytest.mark.parametrize("op_type", sorted(BINARY))
def test_binary_ops_broadcast(op_type: str) -> None:
    assert KERNELS[op_type](x=np.ones((2, 1)), y=np.full(3, 2.0)).shape == (2, 3)


def test_round_takes_a_half_to_the_even_neighbour() -> None:
    np.testing.assert_array_equal(KERNELS["round"](x=np.array([0.5, 1.5, -0.5, 2.4])), [0, 2, 0, 2])


def test_mod_has_the_sign_of_the_divisor() -> None:
    np.testing.assert_array_equal(KERNELS["mod"](x=np.array([-5, 5]), y=np.array([3, -3])), [1, -1])


def test_integer_quotients_and_powers_stay_integer() -> None:
    x, y = np.array([7, -7, 2], np.int32), np.array([2, 2, -1], np.int32)
    for function, expected in ((real_div, [3, -3, -2]), (power, [49, 49, 0])):
        result = function(x, y)
        assert result.dtype == np.int32
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([-1.7, 1.7], "int32", [-1, 1]),
        ([np.nan, np.inf, -1e30], "int32", [0, 2**31 - 1, -(2**31)]),
        ([300.0, -1.0], "uint8", [44, 255]),
        ([0.0, -0.5], "bool", [False, True]),
    ],
)
def test_cast(values: list[float], dtype: str, expected: list[float]) -> None:
    np.testing.assert_array_equal(cast(np.array(values), dtype), expected)


def test_cast_to_a_float_does_not_round() -> None:
    assert cast(np.array(0.1), "fp16") == 0.1
    assert cast(np.array([3], np.int32), "fp16").dtype == np.float64


def test_select_without_branches_lists_the_true_elements() -> None:
    np.testing.assert_array_equal(select(np.array([[True, False], [False, True]])), [[0, 0], [1, 1]])


def test_clip_keeps_nan() -> None:
    np.testing.assert_array_equal(clip(np.array([np.nan, 3.0]), np.array(0.0), np.array(1.0)), [np.nan, 1])


def test_log_adds_its_epsilon() -> None:
    np.testing.assert_allclose(log(np.array(0.0)), -103.616329)
