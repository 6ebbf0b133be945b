"""Attention against torch, in float64."""

from shared.coreml_reference.ops.attention import scaled_dot_product_attention

import numpy as np
import pytest
import torch

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("mask", ["none", "boolean", "float"])
def test_scaled_dot_product_attention(mask: str) -> None:
    query, key, value = (RANDOM.standard_normal((2, 3, *shape)) for shape in ((5, 4), (6, 4), (6, 7)))
    masks = {"none": None, "boolean": RANDOM.random((1, 5, 6)) > 0.4, "float": RANDOM.standard_normal((3, 5, 6))}
    attn_mask = masks[mask]
    q, k, v = (torch.from_numpy(array) for array in (query, key, value))
    torch_mask = None if attn_mask is None else torch.from_numpy(attn_mask)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, torch_mask)
    np.testing.assert_allclose(scaled_dot_product_attention(query, key, value, attn_mask), expected, atol=1e-13)


def test_what_a_boolean_mask_leaves_out_never_takes_part() -> None:
    query, key = np.array([[1.0]]), np.array([[-5000.0], [5000.0]])
    attended = scaled_dot_product_attention(query, key, np.array([[2.0], [3.0]]), np.array([[True, False]]))
    np.testing.assert_array_equal(attended, [[2]])
