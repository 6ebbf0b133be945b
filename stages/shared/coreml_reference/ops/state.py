"""State that outlives a prediction: `read_state` and `coreml_update_state` (MIL's `write_state`, then `read_state`)."""

from typing import Any

from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class StateValue:
    """One state of a model between and during predictions; float64 or an integer type, as kernels take arrays."""

    is_state = True

    def __init__(self, value: Array) -> None:
        self.value = value


@kernel("read_state")
def read_state(input: StateValue) -> Array:  # noqa: A002 (MIL's name)
    """Return what the state holds now; a later write does not change it."""
    return input.value


@kernel("coreml_update_state")
def coreml_update_state(state: StateValue, value: Array) -> Array:
    """Store `value` in the state and return it."""
    state.value = np.array(value)
    return state.value
