"""What the recurrent architectures share: layers of one kind of cell, and a linear layer on the last state."""

from typing import Any, ClassVar

from shared.architectures.base import Architecture, Sizes
from shared.params import Count, StageParams

import torch
from pydantic import Field
from torch import Tensor, nn


class Recurrent(Architecture):
    """Recurrent layers that read the sequence, and a linear layer on the last state.

    The zero initial state stays implicit: written out, exporters bake the traced batch size into it.
    """

    cell: ClassVar[type[nn.LSTM | nn.GRU]]

    class Options(StageParams):
        """Options of every recurrent architecture.

        Attributes:
            hidden_size: Width of the state.
            layers: Layers on top of each other.
            bidirectional: Whether a second net of each layer reads the sequence backwards.
            dropout: Share of the values that are dropped in training, between layers and before the last one.
        """

        hidden_size: Count
        layers: Count
        bidirectional: bool
        dropout: float = Field(ge=0, lt=1)

    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        hidden, directions = options.hidden_size, 2 if options.bidirectional else 1
        if sizes.ragged and options.bidirectional:
            # Read backwards, a padded sequence begins in its padding: each direction of each layer is a net of its own.
            self.rnn: nn.Module = nn.ModuleList(
                self.cell(hidden * directions if layer else sizes.features, hidden, batch_first=True)
                for layer in range(options.layers)
                for _ in range(directions)
            )
        else:
            self.rnn = self.cell(
                sizes.features,
                hidden,
                options.layers,
                batch_first=True,
                dropout=options.dropout if options.layers > 1 else 0,
                bidirectional=options.bidirectional,
            )
        self.dropout = nn.Dropout(options.dropout)
        self.linear = nn.Linear(hidden * directions, sizes.classes)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        """See `Architecture`."""
        if lengths is None:
            last = self._last_state(sequence)
        elif isinstance(self.rnn, nn.ModuleList):
            last = self._last_outputs_of_both_directions(sequence, lengths)
        else:
            last = last_step(self.rnn(sequence)[0], lengths)
        logits: Tensor = self.linear(self.dropout(last))
        return logits

    def _last_state(self, sequence: Tensor) -> Tensor:
        """From h_n and not from the outputs, which gives the leaner graph in every format."""
        _, state = self.rnn(sequence)
        h_n: Tensor = state[0] if isinstance(state, tuple) else state
        return torch.cat([h_n[-2], h_n[-1]], dim=1) if self.options.bidirectional else h_n[-1]

    def _last_outputs_of_both_directions(self, sequence: Tensor, lengths: Tensor) -> Tensor:
        assert isinstance(self.rnn, nn.ModuleList)
        for forward, backward in zip(self.rnn[::2], self.rnn[1::2], strict=True):
            there, back = forward(sequence)[0], backward(reverse(sequence, lengths))[0]
            if backward is self.rnn[-1]:
                break
            sequence = self.dropout(torch.cat([there, reverse(back, lengths)], dim=2))
        return torch.cat([last_step(there, lengths), last_step(back, lengths)], dim=1)


def last_step(outputs: Tensor, lengths: Tensor) -> Tensor:
    """The last step of each sequence: (batch, time, width) to (batch, width)."""
    index = (lengths - 1).long().reshape(-1, 1, 1).expand(-1, 1, outputs.shape[2])
    return outputs.gather(1, index).squeeze(1)


def reverse(sequence: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence (batch, time, width) backwards within its own length; what comes after it is of no account."""
    steps = torch.arange(sequence.shape[1], dtype=lengths.dtype, device=lengths.device)
    index = (lengths.unsqueeze(1) - 1 - steps).clamp(min=0).long()
    return sequence.gather(1, index.unsqueeze(2).expand(-1, -1, sequence.shape[2]))
