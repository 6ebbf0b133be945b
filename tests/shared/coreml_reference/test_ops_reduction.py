"""The reductions: axes, kept dimensions, dtypes and extremes."""

from shared.coreml_reference.ops.reduction import REDUCTIONS, reduce_argmax, reduce_argmin
from shared.coreml_reference.registry import KERNELS

import numpy as np
import pytest
import torch

X = np.random.default_rng(0).uniform(0.5, 2, (2, 3, 4))


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
