"""Long short-term memory (Hochreiter and Schmidhuber, 1997)."""

from shared.architectures.recurrent import Recurrent

from torch import nn


class LSTM(Recurrent, name="lstm"):
    """An LSTM that reads the sequence, and a linear layer on its last state."""

    cell = nn.LSTM
