"""Which function computes which Core ML op.

A kernel is a plain numpy function that is called with the op's inputs by their MIL names:

- floating-point tensors arrive as float64 arrays (scalars as 0-d arrays), whatever precision the program declares; a
  kernel that is `single` gets them as float32, unless the evaluator computes exactly;
- integer and boolean tensors keep the dtype that the program declares;
- strings arrive as `str`, tuple inputs (`concat`'s `values`) as a list of arrays, lists as `list`;
- an optional input that the program leaves out is not passed;
- a parameter called `operation` gets coremltools' object of the op, one called `execution` what runs nested blocks.

It returns the op's output, or a tuple of outputs. The interpreter then checks every result against the shape that the
program declares and rounds it to the declared dtype, so no kernel rounds by itself. A kernel must not modify its
inputs.

A kernel that only moves elements says so: what was rounded before is not rounded again, nor copied for it. One whose
sums and functions are good enough in float32, for programs that declare no more, says that: it is twice as fast.
"""

from collections.abc import Callable
from typing import Any, TypeVar

Kernel = Callable[..., Any]
Decorated = TypeVar("Decorated", bound=Kernel)

KERNELS: dict[str, Kernel] = {}
REFUSED: dict[str, str] = {}
MOVING: dict[str, bool | str] = {}
SINGLE: dict[str, bool] = {}


def kernel(*op_types: str, moving: bool | str = False, single: bool = False) -> Callable[[Decorated], Decorated]:
    """Register the decorated function as the definition of `op_types` (MIL op names, such as `"conv"`).

    Args:
        op_types: The ops that it computes.
        moving: Whether their results hold elements of their inputs, or zeros, and nothing else; a text: only where this
            is their `mode`.
        single: Whether float32 is enough for them: what they compute has no pole, where a result that is infinite is
            right, and of float32 or float16 no more is lost than the last bits. What only moves elements has neither.
    """

    def register(function: Decorated) -> Decorated:
        for op_type in op_types:
            if op_type in KERNELS:
                raise ValueError(f"op {op_type!r} has two kernels")
            KERNELS[op_type] = function
            MOVING[op_type] = moving
            SINGLE[op_type] = single or moving is True
        return function

    return register


def refuse(op_type: str, reason: str) -> None:
    """Record that `op_type` is known and deliberately not computed, with the reason a user will read."""
    REFUSED[op_type] = reason
