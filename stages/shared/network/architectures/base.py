"""What every architecture is given and what it owes, and how sequences of different lengths are masked."""

from dataclasses import dataclass
from typing import Any, ClassVar

from shared.kit.params import StageParams

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """What an architecture is built for.

    Attributes:
        features: Values at each time step.
        time_steps: Length of a sequence, or of the longest.
        classes: Logits.
        ragged: Whether `forward` is given the lengths of its sequences.
    """

    features: int
    time_steps: int
    classes: int
    ragged: bool


class Architecture(nn.Module):
    """Base of every architecture: sequences (batch, time, features) in, logits (batch, classes) out, both float32.

    A subclass registers itself by its name, takes `sizes` and its own `Options`, and defines `forward(sequence,
    lengths)`. The logits of a row depend on no other row of its batch. If `sizes.ragged`, `lengths` (batch,), int32,
    says how many steps of each sequence count. They are within 1..time, and the steps after them are zero: what is
    there must not reach the logits, nor may the number of them.

    Attributes:
        Options: What can be chosen in its block of params.yaml: ranges checked, no defaults.
        any_time: Whether it reads sequences of another number of steps than it was built for.
    """

    Options: ClassVar[type[StageParams]]
    any_time: ClassVar[bool] = True

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            ARCHITECTURES[name] = cls

    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__()
        self.sizes = sizes
        self.options = options

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Map sequences to logits."""
        raise NotImplementedError


ARCHITECTURES: dict[str, type[Architecture]] = {}
"""By name."""


def steps_like(time: int, like: Tensor) -> Tensor:
    """The number of each step: (time,), of the type and on the device of another tensor."""
    return torch.arange(time, dtype=like.dtype, device=like.device)


def within(time: int, lengths: Tensor) -> Tensor:
    """Which of so many steps count: (batch, time), bool."""
    return steps_like(time, lengths) < lengths.unsqueeze(1)


def mean_over_time(values: Tensor, lengths: Tensor | None, time_axis: int) -> Tensor:
    """The mean of the steps that count: (batch, time, width), or time last, to (batch, width).

    Each step is divided before the sum, which in half precision would overflow for long sequences.
    """
    if lengths is None:
        return values.mean(dim=time_axis)
    weights = within(values.shape[time_axis], lengths) / lengths.unsqueeze(1)
    return (values * weights.unsqueeze(3 - time_axis)).sum(dim=time_axis)
