"""Quantise and dequantise: the formula, its rounding and its limits."""

from shared.coreml_reference.ops.quantization import dequantize, quantize

import numpy as np


def test_quantize_rounds_halves_to_even_and_saturates() -> None:
    x = np.array([0.5, 1.5, -2.5, 1000.0, -1000.0])
    np.testing.assert_array_equal(quantize(x, np.array(1.0), "int8"), [0, 2, -2, 127, -128])
    np.testing.assert_array_equal(quantize(x, np.array(1.0), "uint8", np.array(10, np.uint8)), [10, 12, 8, 255, 0])


def test_a_scale_for_each_channel() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    scale, zero_point = np.array([0.25, 0.5, 0.125]), np.array([3, 0, -2], np.int8)
    quantized = quantize(x, scale, "int8", zero_point, axis=1)
    for channel in range(3):
        expected = np.round(x[:, channel] / scale[channel]) + zero_point[channel]
        np.testing.assert_array_equal(quantized[:, channel], expected)
    np.testing.assert_allclose(dequantize(quantized, scale, zero_point, axis=-2), x, atol=scale.max() / 2)


def test_dequantize_along_the_first_axis() -> None:
    x, zero_point = np.array([[5, 7], [-1, 0]], np.int8), np.array([1, -2], np.int8)
    np.testing.assert_array_equal(dequantize(x, np.array([0.5, 4.0]), zero_point, axis=0), [[2, 3], [4, 8]])


def test_dequantize_does_not_wrap_around() -> None:
    np.testing.assert_array_equal(dequantize(np.array([0], np.uint8), np.array(0.5), np.array(200, np.uint8)), [-100])
