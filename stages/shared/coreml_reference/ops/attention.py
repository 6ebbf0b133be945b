"""Attention: `scaled_dot_product_attention`."""

from typing import Any

from shared.coreml_reference.ops.activation import softmax
from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@kernel("scaled_dot_product_attention")
def scaled_dot_product_attention(query: Array, key: Array, value: Array, attn_mask: Array | None = None) -> Array:
    """Return `softmax(query @ key.T / sqrt(width) + mask) @ value`.

    query is (..., targets, width), key is (..., sources, width), value is (..., sources, outputs). A boolean mask says
    who takes part (false adds -inf), any other is added as it is.
    """
    scores = query @ key.swapaxes(-1, -2)
    scores /= np.sqrt(query.shape[-1])
    if attn_mask is not None:
        scores = scores + (np.where(attn_mask, 0.0, -np.inf) if attn_mask.dtype == bool else attn_mask)
    return softmax(scores) @ value
