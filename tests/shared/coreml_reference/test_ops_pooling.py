"""The pooling kernels against torch, in float64."""

from typing import Any

from shared.coreml_reference.ops.pooling import avg_pool, l2_pool, max_pool

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

RANDOM = np.random.default_rng(0)
SIZES, KERNEL, STRIDES, PADS = (9, 8, 7), (3, 2, 5), (2, 3, 2), (1, 1, 2)
TORCH_AVG = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
TORCH_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


def case(rank: int) -> tuple[NDArray[Any], dict[str, Any], dict[str, Any]]:
    x = RANDOM.standard_normal((2, 3, *SIZES[:rank]))
    torch_options = {"kernel_size": KERNEL[:rank], "stride": STRIDES[:rank], "padding": PADS[:rank]}
    options = {"kernel_sizes": np.array(KERNEL[:rank]), "strides": STRIDES[:rank], "pad": np.repeat(PADS[:rank], 2)}
    return x, torch_options, {**options, "pad_type": "custom"}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("exclude", [False, True])
def test_avg_pool(rank: int, ceil_mode: bool, exclude: bool) -> None:
    x, torch_options, options = case(rank)
    expected = TORCH_AVG[rank](torch.from_numpy(x), **torch_options, ceil_mode=ceil_mode, count_include_pad=not exclude)
    got = avg_pool(x, **options, ceil_mode=ceil_mode, exclude_padding_from_average=exclude)
    np.testing.assert_allclose(got, expected, atol=1e-13)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_max_pool(rank: int, ceil_mode: bool) -> None:
    x, torch_options, options = case(rank)
    expected = TORCH_MAX[rank](torch.from_numpy(x), **torch_options, ceil_mode=ceil_mode)
    np.testing.assert_array_equal(max_pool(x, **options, ceil_mode=ceil_mode), expected)


def test_l2_pool_is_the_root_of_the_sum_of_squares() -> None:
    np.testing.assert_allclose(l2_pool(np.array([[[3.0, 4.0, 12.0]]]), [2], [1], "valid"), [[[5, np.sqrt(160)]]])


def test_same_lower_pads_before() -> None:
    np.testing.assert_array_equal(avg_pool(np.array([[[1.0, 2.0]]]), [2], None, "same_lower"), [[[0.5, 1.5]]])
    np.testing.assert_array_equal(avg_pool(np.array([[[1.0, 2.0]]]), [2], None, "same"), [[[1.5, 1.0]]])


def test_pooling_leaves_its_input_alone() -> None:
    x = np.ones((1, 1, 4))
    max_pool(x, [1], [1], "valid")[...] = 5
    np.testing.assert_array_equal(x, 1)
