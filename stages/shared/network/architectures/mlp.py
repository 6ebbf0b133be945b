"""Multilayer perceptron."""

from itertools import pairwise

from shared.kit.params import Depth, StageParams, Width
from shared.network.architectures.base import Architecture, Sizes

from pydantic import Field
from torch import Tensor, nn


class MLP(Architecture, name="mlp"):
    """Layers that see all steps at once. What comes after a sequence's end is zero, so its length is not needed."""

    any_time = False

    class Options(StageParams):
        """Options of the perceptron.

        Attributes:
            hidden_size: Width of every hidden layer.
            layers: Hidden layers.
            dropout: Share of each hidden layer's values that is dropped in training.
        """

        hidden_size: Width
        layers: Depth
        dropout: float = Field(ge=0, lt=1)

    def __init__(self, sizes: Sizes, options: Options) -> None:
        super().__init__(sizes, options)
        widths = [sizes.time_steps * sizes.features, *[options.hidden_size] * options.layers]
        hidden = [
            nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Dropout(options.dropout))
            for before, after in pairwise(widths)
        ]
        self.layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(options.hidden_size, sizes.classes))

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """See `Architecture`."""
        logits: Tensor = self.layers(sequence)
        return logits
