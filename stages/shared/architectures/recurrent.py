"""What the recurrent architectures share: layers of one kind of cell, and a linear layer on the last state."""

from typing import Any, ClassVar

from shared.architectures.base import Architecture, Sizes, steps_like
from shared.params import Count, StageParams

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
        onnx_gates: Where torch's weights have each of ONNX's gates.
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

        hidden_size: Count
        layers: Count
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
        last = self._read(sequence) if lengths is None else self._read_ragged(sequence, lengths)
        logits: Tensor = self.linear(self.dropout(last))
        return logits

    def _read(self, sequence: Tensor) -> Tensor:
        """The last state, from h_n and not from the outputs: that gives the leaner graph in every format."""
        _, state = self.rnn(sequence)
        h_n: Tensor = state[0] if isinstance(state, tuple) else state
        return torch.cat([h_n[-2], h_n[-1]], dim=1) if self.directions == 2 else h_n[-1]

    def _read_ragged(self, sequence: Tensor, lengths: Tensor) -> Tensor:
        """The last state; torch's own way to lengths, a packed sequence, does not export."""
        assert isinstance(self.rnn, nn.ModuleList)
        read = self._onnx_layer if torch.onnx.is_in_onnx_export() else self._layer
        outputs = last = sequence
        for start in range(0, len(self.rnn), self.directions):
            nets = [net for net in self.rnn[start : start + self.directions] if isinstance(net, Cell)]
            outputs, last = read(nets, self.dropout(outputs) if start else outputs, lengths)
        return last

    def _layer(self, nets: list[Cell], sequence: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """One layer: its outputs (batch, time, directions x hidden) and its last state (batch, directions x hidden)."""
        outputs, *backward = nets[0](sequence)[0], *(net(reverse(sequence, lengths))[0] for net in nets[1:])
        last = [last_step(part, lengths) for part in (outputs, *backward)]
        aligned = [outputs, *(reverse(part, lengths) for part in backward)]
        return torch.cat(aligned, dim=2), torch.cat(last, dim=1)

    def _onnx_layer(self, nets: list[Cell], sequence: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The same as one ONNX operator, which knows of lengths.

        The graph is a tenth of what the exporter makes of `_layer`, where it also freezes the time axis of a second
        layer.
        """
        batch, time, hidden = sequence.shape[0], sequence.shape[1], nets[0].hidden_size

        def gates(name: str) -> Tensor:
            parameters = [getattr(net, name) for net in nets]
            rows = [slice(gate * hidden, (gate + 1) * hidden) for gate in self.onnx_gates]
            return torch.stack([torch.cat([parameter[part] for part in rows]) for parameter in parameters])

        bias = torch.cat([gates("bias_ih_l0"), gates("bias_hh_l0")], dim=1)
        attributes = {"hidden_size": hidden, "direction": "bidirectional" if len(nets) == 2 else "forward"}
        y, y_h = torch.onnx.ops.symbolic_multi_out(
            self.onnx_op,
            [sequence.transpose(0, 1), gates("weight_ih_l0"), gates("weight_hh_l0"), bias, lengths],
            attributes | self.onnx_attributes,
            dtypes=[sequence.dtype, sequence.dtype],
            shapes=[(time, len(nets), batch, hidden), (len(nets), batch, hidden)],
        )
        return y.transpose(1, 2).flatten(2).transpose(0, 1), y_h.transpose(0, 1).flatten(1)


def last_step(outputs: Tensor, lengths: Tensor) -> Tensor:
    """The last step of each sequence: (batch, time, width) to (batch, width)."""
    is_last = steps_like(outputs.shape[1], lengths) == (lengths - 1).unsqueeze(1)
    return (outputs * is_last.unsqueeze(2)).sum(dim=1)


def reverse(sequence: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence (batch, time, width) backwards within its own length; what comes after it is of no account."""
    index = (lengths.unsqueeze(1) - 1 - steps_like(sequence.shape[1], lengths)).clamp(min=0).long()
    # Broadcast by an addition, since the Core ML converter computes the wrong shape for `expand` of a ranged axis.
    return sequence.gather(1, index.unsqueeze(2) + torch.zeros_like(sequence[0, 0], dtype=torch.long))
