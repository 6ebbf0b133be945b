"""Gated recurrent unit (Cho et al., 2014; the reset gate after the matrix product, as in cuDNN)."""

from shared.architectures.recurrent import Recurrent

from torch import nn


class GRU(Recurrent, name="gru"):
    """A GRU that reads the sequence, and a linear layer on its last state."""

    cell = nn.GRU
