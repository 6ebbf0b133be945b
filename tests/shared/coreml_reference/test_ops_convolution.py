"""The convolution kernels against torch, in float64."""

from collections.abc import Callable
from typing import Any

from shared.coreml_reference.errors import EvaluationError
from shared.coreml_reference.ops import convolution
from shared.coreml_reference.ops.convolution import conv, conv_quantized, conv_transpose

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

RANDOM = np.random.default_rng(0)
SIZES, KERNEL, STRIDES, DILATIONS, PADS = (9, 8, 7), (3, 2, 4), (2, 1, 3), (1, 2, 1), (1, 2, 0)
TORCH_CONV: dict[int, Callable[..., torch.Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TORCH_TRANSPOSE: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def tensors(*arrays: NDArray[Any]) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("block_bytes", [1, 5000, 2**24])
def test_conv(rank: int, groups: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "BLOCK_BYTES", block_bytes)
    x = RANDOM.standard_normal((3, 4, *SIZES[:rank]))
    weight, bias = RANDOM.standard_normal((8, 4 // groups, *KERNEL[:rank])), RANDOM.standard_normal(8)
    options = STRIDES[:rank], PADS[:rank], DILATIONS[:rank]
    expected = TORCH_CONV[rank](*tensors(x, weight, bias), *options, groups)
    pad = np.repeat(PADS[:rank], 2)
    got = conv(x, weight, bias, np.array(options[0]), "custom", pad, np.array(options[2]), np.int32(groups))
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize(("pad_type", "before", "after"), [("same", 1, 2), ("same_lower", 2, 1), ("valid", 0, 0)])
def test_conv_puts_odd_padding_at_the_named_end(pad_type: str, before: int, after: int) -> None:
    x, weight = RANDOM.standard_normal((2, 3, 6)), RANDOM.standard_normal((5, 3, 4))
    padded = np.pad(x, [(0, 0), (0, 0), (before, after)])
    np.testing.assert_allclose(conv(x, weight, pad_type=pad_type), conv(padded, weight))


def test_custom_padding_is_before_and_after_each_axis() -> None:
    x, weight = RANDOM.standard_normal((2, 3, 6, 5)), RANDOM.standard_normal((5, 3, 4, 2))
    padded = np.pad(x, [(0, 0), (0, 0), (0, 3), (2, 1)])
    np.testing.assert_allclose(conv(x, weight, pad_type="custom", pad=[0, 3, 2, 1]), conv(padded, weight))


def test_same_padding_follows_the_stride() -> None:
    assert conv(np.ones((1, 1, 7)), np.ones((1, 1, 2)), strides=[3], pad_type="same").shape == (1, 1, 3)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_conv_transpose(rank: int, groups: int) -> None:
    x = RANDOM.standard_normal((3, 4, *SIZES[:rank]))
    weight, bias = RANDOM.standard_normal((4, 6 // groups, *KERNEL[:rank])), RANDOM.standard_normal(6)
    options = STRIDES[:rank], PADS[:rank], 0, groups, DILATIONS[:rank]
    expected = TORCH_TRANSPOSE[rank](*tensors(x, weight, bias), *options)
    pad = np.repeat(PADS[:rank], 2)
    got = conv_transpose(x, weight, bias, pad, None, "custom", options[0], options[4], groups)
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_conv_transpose_reaches_its_output_shape() -> None:
    x, weight = RANDOM.standard_normal((1, 2, 5)), RANDOM.standard_normal((2, 3, 3))
    expected = TORCH_TRANSPOSE[1](*tensors(x, weight), stride=2, padding=1, output_padding=1)
    got = conv_transpose(x, weight, pad=[1, 1], output_shape=[1, 3, 10], pad_type="custom", strides=[2])
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
def test_same_conv_transpose_is_the_gradient_of_same_conv(kernel_size: int) -> None:
    x, out = RANDOM.standard_normal((1, 2, 8)), RANDOM.standard_normal((1, 3, 4))
    weight = RANDOM.standard_normal((3, 2, kernel_size))
    forward = conv(x, weight, strides=[2], pad_type="same")
    backward = conv_transpose(out, weight, strides=[2], pad_type="same")
    np.testing.assert_allclose(np.vdot(forward, out), np.vdot(x, backward))


def test_conv_quantized_scales_each_output() -> None:
    x, weight = RANDOM.standard_normal((1, 2, 5)), RANDOM.integers(0, 255, (3, 2, 2)).astype(np.uint8)
    scale, offset = RANDOM.standard_normal((2, 3))
    real = weight * scale[:, None, None] + offset[:, None, None]
    np.testing.assert_allclose(conv_quantized(x, weight, scale, offset, "linear"), conv(x, real))
    with pytest.raises(EvaluationError, match="lut"):
        conv_quantized(x, weight, scale, offset, "lut")


def test_a_kernel_larger_than_its_input_is_refused() -> None:
    with pytest.raises(EvaluationError, match="window of 4 does not fit into 3"):
        conv(np.ones((1, 1, 3)), np.ones((1, 1, 4)))
