"""Long short-term memory (Hochreiter and Schmidhuber, 1997)."""

from typing import ClassVar

from shared.network.architectures.recurrent import Recurrent

from torch import nn


class LSTM(Recurrent, name="lstm"):
    """An LSTM that reads the sequence, and a linear layer on its last state."""

    cell = nn.LSTM
    onnx_op = "LSTM"
    onnx_attributes: ClassVar = {}
    onnx_gates = (0, 3, 1, 2)  # i, o, f, c of torch's i, f, c, o
