"""One-dimensional convolutional net."""

from itertools import pairwise
from typing import Annotated

from shared.kit.params import Depth, StageParams, Width
from shared.network.architectures.base import Architecture, Sizes, mean_over_time, within

from pydantic import AfterValidator, Field
from torch import Tensor, nn


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("should be odd, so that a step is in the middle of its kernel")
    return value


class CNN(Architecture, name="cnn"):
    """Convolutions along time, the mean over time, and a linear layer on it."""

    class Options(StageParams):
        """Options of the convolutional net.

        Attributes:
            channels: Width of every layer.
            layers: Convolutions on top of each other.
            kernel_size: Time steps that a convolution sees at once; odd.
            dropout: Share of the channels' means that is dropped in training.
        """

        channels: Width
        layers: Depth
        kernel_size: Annotated[Width, AfterValidator(_odd)]
        dropout: float = Field(ge=0, lt=1)

    def __init__(self, sizes: Sizes, options: Options) -> None:
        super().__init__(sizes, options)
        widths = [sizes.features, *[options.channels] * options.layers]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, options.kernel_size, padding=options.kernel_size // 2)
            for before, after in pairwise(widths)
        )
        self.dropout = nn.Dropout(options.dropout)
        self.linear = nn.Linear(options.channels, sizes.classes)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        """See `Architecture`."""
        mask = None if lengths is None else within(sequence.shape[1], lengths).unsqueeze(1).to(sequence.dtype)
        channels = sequence.transpose(1, 2)
        for index, convolution in enumerate(self.convolutions):
            if index and mask is not None:
                channels = channels * mask  # the next kernel sees zeros after the end, as it does before the start
            channels = convolution(channels).relu()
        logits: Tensor = self.linear(self.dropout(mean_over_time(channels, lengths, time_axis=2)))
        return logits
