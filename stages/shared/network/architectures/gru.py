"""Gated recurrent unit (Cho et al., 2014; the reset gate after the matrix product, as in cuDNN)."""

from typing import ClassVar

from shared.network.architectures.recurrent import Recurrent

from torch import nn


class GRU(Recurrent, name="gru"):
    """A GRU that reads the sequence, and a linear layer on its last state."""

    cell = nn.GRU
    onnx_op = "GRU"
    onnx_attributes: ClassVar = {"linear_before_reset": 1}
    onnx_gates = (1, 0, 2)  # z, r, h of torch's r, z, h
