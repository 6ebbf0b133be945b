"""The reductions: their values, axes, kept dimensions, dtypes and extremes."""

import math
from collections.abc import Callable

from shared.coreml_reference.ops.reduction import REDUCTIONS, reduce_argmax, reduce_argmin
from shared.coreml_reference.registry import KERNELS

import numpy as np
import pytest
import torch

X = np.random.default_rng(0).uniform(0.5, 2, (2, 3, 4))
X[0, :, 0] *= -1

OF_A_LIST: dict[str, Callable[[list[float]], float]] = {
    "reduce_l1_norm": lambda values: math.fsum(map(abs, values)),
    "reduce_l2_norm": lambda values: math.hypot(*values),
    "reduce_log_sum": lambda values: math.log(math.fsum(values)),
    "reduce_log_sum_exp": lambda values: math.log(math.fsum(map(math.exp, values))),
    "reduce_max": max,
    "reduce_mean": lambda values: math.fsum(values) / len(values),
    "reduce_min": min,
    "reduce_prod": math.prod,
    "reduce_sum": math.fsum,
    "reduce_sum_square": lambda values: math.fsum(value * value for value in values),
}


def test_no_op_lacks_its_expected_function() -> None:
    assert OF_A_LIST.keys() == REDUCTIONS.keys()


@pytest.mark.parametrize("op_type", sorted(OF_A_LIST))
def test_values(op_type: str) -> None:
    reduce, expected = KERNELS[op_type], OF_A_LIST[op_type]
    np.testing.assert_allclose(reduce(x=X), expected(X.ravel().tolist()))
    over_the_others = [expected(X[:, channel].ravel().tolist()) for channel in range(3)]
    np.testing.assert_allclose(reduce(x=X, axes=[-1, 0]), over_the_others)


@pytest.mark.parametrize("op_type", sorted(REDUCTIONS))
def test_shapes_and_integers(op_type: str) -> None:
    reduce = KERNELS[op_type]
    assert reduce(x=X).shape == ()
    assert reduce(x=X, axes=np.array([-1, 0]), keep_dims=np.bool_(True)).shape == (1, 3, 1)
    assert reduce(x=np.ones((2, 3), np.int32), axes=[1]).dtype == np.int32


def test_log_sum_exp_neither_overflows_nor_loses_an_empty_sum() -> None:
    values = np.array([[1000.0, 1000.0], [-np.inf, -np.inf]])
    got = KERNELS["reduce_log_sum_exp"](x=values, axes=[1])
    np.testing.assert_allclose(got, torch.logsumexp(torch.from_numpy(values), 1))


def test_a_mean_of_integers_is_cut_towards_zero() -> None:
    assert KERNELS["reduce_mean"](x=np.array([-1, -2], np.int32)) == -1


def test_position_of_the_extremes() -> None:
    x = np.array([[1.0, 3.0, 3.0], [0.0, 0.0, 2.0]])
    np.testing.assert_array_equal(reduce_argmax(x), [1, 2])
    got = reduce_argmin(x, axis=np.int32(1), keep_dims=True, output_dtype="uint16")
    np.testing.assert_array_equal(got, [[0], [0]])
    assert got.dtype == np.uint16
