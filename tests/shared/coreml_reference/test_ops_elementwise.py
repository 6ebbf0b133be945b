"""The elementwise kernels: every one against torch, then the cases in which a plain numpy call would be wrong."""

from collections.abc import Callable

from shared.coreml_reference.ops.elementwise import (
    BINARY,
    INTEGERS,
    UNARY,
    cast,
    clip,
    inverse,
    log,
    power,
    real_div,
    rsqrt,
    select,
    threshold,
)
from shared.coreml_reference.registry import KERNELS

import numpy as np
import pytest
import torch

OF_X: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "round": torch.round,
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}
OF_X_AND_Y: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "equal": torch.eq,
    "floor_div": torch.floor_divide,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,
    "mul": torch.mul,
    "not_equal": torch.ne,
    "sub": torch.sub,
}


def test_no_op_lacks_its_expected_function() -> None:
    assert OF_X.keys() == UNARY.keys()
    assert OF_X_AND_Y.keys() == BINARY.keys()


@pytest.mark.parametrize("op_type", sorted(OF_X))
def test_unary(op_type: str) -> None:
    x = np.array([-2.5, -1.0, -0.3, 0.0, 0.4, 0.75, 1.5, 3.2])
    with np.errstate(all="ignore"):
        got = KERNELS[op_type](x=x)
    np.testing.assert_allclose(got, OF_X[op_type](torch.from_numpy(x)), rtol=1e-14)


@pytest.mark.parametrize("op_type", sorted(OF_X_AND_Y))
def test_binary(op_type: str) -> None:
    x, y = np.array([[-7.5], [-2.0], [0.0], [0.3], [3.0]]), np.array([-2.0, -0.7, 0.0, 0.3, 4.0])
    with np.errstate(all="ignore"):
        got = KERNELS[op_type](x=x, y=y)
    np.testing.assert_allclose(got, OF_X_AND_Y[op_type](torch.from_numpy(x), torch.from_numpy(y)), rtol=1e-14)


def test_functions_with_a_parameter() -> None:
    x, epsilon = np.array([0.25, 4.0]), np.array(2.0)
    np.testing.assert_allclose(rsqrt(x), [2, 0.5])
    np.testing.assert_allclose(rsqrt(x, epsilon), [1 / 1.5, 6**-0.5])
    np.testing.assert_allclose(inverse(x), [1 / 0.2501, 1 / 4.0001])
    np.testing.assert_allclose(inverse(x, epsilon), [1 / 2.25, 1 / 6])
    np.testing.assert_allclose(log(x, epsilon), [0.8109302162163288, 1.791759469228055])
    np.testing.assert_array_equal(threshold(x, np.array(1.0)), [1, 4])
    np.testing.assert_array_equal(clip(x, np.array(0.5), np.array(3.0)), [0.5, 3])
    np.testing.assert_array_equal(select(np.array([True, False]), x, -x), [0.25, -4])


def test_real_quotients_and_powers() -> None:
    x, y = np.array([7.0, -0.5]), np.array([[2.0], [-3.0]])
    np.testing.assert_allclose(real_div(x, y), [[3.5, -0.25], [-7 / 3, 0.5 / 3]])
    np.testing.assert_allclose(power(x, y), [[49, 0.25], [1 / 343, -8]])


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


@pytest.mark.parametrize("dtype", sorted(INTEGERS))
def test_cast_to_every_integer(dtype: str) -> None:
    got = cast(np.array([100.9, 0.0]), dtype)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, [100, 0])


def test_cast_to_a_float_does_not_round() -> None:
    assert cast(np.array(0.1), "fp16") == 0.1
    assert cast(np.array([3], np.int32), "fp16").dtype == np.float64


def test_select_without_branches_lists_the_true_elements() -> None:
    np.testing.assert_array_equal(select(np.array([[True, False], [False, True]])), [[0, 0], [1, 1]])


def test_clip_keeps_nan() -> None:
    np.testing.assert_array_equal(clip(np.array([np.nan, 3.0]), np.array(0.0), np.array(1.0)), [np.nan, 1])


def test_log_adds_its_epsilon() -> None:
    np.testing.assert_allclose(log(np.array(0.0)), -103.616329)
