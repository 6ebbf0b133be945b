"""What the recurrent architectures share: layers of one kind of cell, and a linear layer on the last state."""

from typing import Any, ClassVar

from shared.kit.params import Depth, StageParams, Width
from shared.network.architectures.base import Architecture, Sizes, steps_like

import torch
from pydantic import Field
from torch import Tensor, nn

Cell = nn.LSTM | nn.GRU


class Recurrent(Architecture):
    """Recurrent layers that read the sequence, and a linear layer on the last state.

    The zero initial state stays implicit: written out, exporters bake the traced batch size into it.

    Attributes:
        cell: torch's module.
        onnx_op: ONNX's operator.
        onnx_attributes: Those that make it compute what torch does.
        onnx_gates: Where torch has each of ONNX's gates.
    """

    cell: ClassVar[type[Cell]]
    onnx_op: ClassVar[str]
    onnx_attributes: ClassVar[dict[str, Any]]
    onnx_gates: ClassVar[tuple[int, ...]]

    class Options(StageParams):
        """Options of every recurrent architecture.

        Attributes:
            hidden_size: Width of the state.
            layers: Layers on top of each other.
            bidirectional: Whether a second net of each layer reads the sequence backwards.
            dropout: Share of the values that are dropped in training, between layers and after the last one.
        """

        hidden_size: Width
        layers: Depth
        bidirectional: bool
        dropout: float = Field(ge=0, lt=1)

    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        hidden, self.directions = options.hidden_size, 2 if options.bidirectional else 1
        if sizes.ragged:
            # One net for each direction of each layer, since each begins at another step of each sequence.
            self.rnn: nn.Module = nn.ModuleList(
                self.cell(hidden * self.directions if layer else sizes.features, hidden, batch_first=True)
                for layer in range(options.layers)
                for _ in range(self.directions)
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
        self.linear = nn.Linear(hidden * self.directions, sizes.classes)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        """See `Architecture`."""
        if torch.onnx.is_in_onnx_export() and (lengths is not None or self.options.layers > 1 or self.directions > 1):
            last = self._read_in_onnx(sequence, lengths)
        elif lengths is None:
            last = self._read(sequence)
        else:
            last = self._read_ragged(sequence, lengths)
        logits: Tensor = self.linear(self.dropout(last))
        return logits

    def _read(self, sequence: Tensor) -> Tensor:
        """The last state, from h_n and not from the outputs: that gives the leaner graph in every format."""
        _, state = self.rnn(sequence)
        h_n: Tensor = state[0] if isinstance(state, tuple) else state
        return torch.cat([h_n[-2], h_n[-1]], dim=1) if self.directions == 2 else h_n[-1]

    def _read_ragged(self, sequence: Tensor, lengths: Tensor) -> Tensor:
        """The state after each sequence's own last step; torch's way to it, a packed sequence, does not export."""
        assert isinstance(self.rnn, nn.ModuleList)
        states = []
        for start in range(0, len(self.rnn), self.directions):
            nets = self.rnn[start : start + self.directions]
            outputs = [nets[0](sequence)[0], *(net(reverse(sequence, lengths))[0] for net in nets[1:])]
            states = [last_step(part, lengths) for part in outputs]
            aligned = [outputs[0], *(reverse(part, lengths) for part in outputs[1:])]
            sequence = self.dropout(torch.cat(aligned, dim=2))
        return torch.cat(states, dim=1)

    def _read_in_onnx(self, sequence: Tensor, lengths: Tensor | None) -> Tensor:
        """The same as ONNX's own operators: one a layer, which knows of both directions and of lengths.

        The exporter writes two to five times as many nodes for the other two, and for `_read_ragged` it freezes the
        time axis of the second layer without a word.
        """
        batch, time, hidden = sequence.shape[0], sequence.shape[1], self.options.hidden_size
        attributes = {"hidden_size": hidden, "direction": "bidirectional" if self.directions == 2 else "forward"}
        outputs, state = sequence.transpose(0, 1), sequence
        for weights in self._weights_of_layers():
            w, r, b, rb = (
                torch.stack([self._in_onnx_order(part) for part in parts]) for parts in zip(*weights, strict=True)
            )
            y, y_h = torch.onnx.ops.symbolic_multi_out(
                self.onnx_op,
                [outputs, w, r, torch.cat([b, rb], dim=1), lengths],
                attributes | self.onnx_attributes,
                dtypes=[sequence.dtype, sequence.dtype],
                shapes=[(time, self.directions, batch, hidden), (self.directions, batch, hidden)],
            )
            outputs, state = y.transpose(1, 2).flatten(2), y_h.transpose(0, 1).flatten(1)
        return state

    def _weights_of_layers(self) -> list[list[list[Tensor]]]:
        """For each layer and each direction the weights of the input and of the state, and the biases of both."""
        nets = [net for net in self.rnn.modules() if isinstance(net, Cell)]
        weights: list[list[Tensor]] = [list(direction) for net in nets for direction in net.all_weights]
        return [weights[start : start + self.directions] for start in range(0, len(weights), self.directions)]

    def _in_onnx_order(self, weights: Tensor) -> Tensor:
        hidden = self.options.hidden_size
        return torch.cat([weights[gate * hidden : (gate + 1) * hidden] for gate in self.onnx_gates])


def last_step(outputs: Tensor, lengths: Tensor) -> Tensor:
    """The last step of each sequence: (batch, time, width) to (batch, width)."""
    is_last = steps_like(outputs.shape[1], lengths) == (lengths - 1).unsqueeze(1)
    return (outputs * is_last.unsqueeze(2)).sum(dim=1)


def reverse(sequence: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence (batch, time, width) backwards within its own length; what comes after it is of no account."""
    index = (lengths.unsqueeze(1) - 1 - steps_like(sequence.shape[1], lengths)).clamp(min=0).long()
    # Broadcast by an addition, since the Core ML converter computes the wrong shape for `expand` of a ranged axis.
    return sequence.gather(1, index.unsqueeze(2) + torch.zeros_like(sequence[0, 0], dtype=torch.long))
