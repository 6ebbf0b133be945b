"""Capture recurrent layers for ONNX by their shapes alone.

`torch.onnx.export` keeps an LSTM or a GRU as one operation, and calls it only to learn the shape of what comes out. For
that it puts a loop over the time steps in its place, which torch compiles: a sixth of the time of an export.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.export import _patches


@contextlib.contextmanager
def recurrent_by_shape() -> Iterator[None]:
    """Within this context, `torch.onnx.export` learns the shapes of recurrent layers' outputs without running them.

    What is exported computes the same. Private functions are replaced: torch is pinned, and a test compares the bytes.
    """
    with (
        mock.patch.object(_patches, "lstm_while_loop_impl", _lstm),
        mock.patch.object(_patches, "gru_while_loop_impl", _gru),
    ):
        yield


def _lstm(sequences: Tensor, states: list[Tensor], *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Has the signature of `torch.ops.aten.lstm.input`, and returns the shapes of what that returns."""
    return _steps(sequences, states[0], *options), torch.empty_like(states[0]), torch.empty_like(states[1])


def _gru(sequences: Tensor, state: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    """Has the signature of `torch.ops.aten.gru.input`."""
    return _steps(sequences, state, *options), torch.empty_like(state)


def _steps(sequences: Tensor, state: Tensor, *options: Any) -> Tensor:
    """The state after each step: (batch, time, directions * hidden), or with time first as `sequences` are."""
    _params, _has_biases, _layers, _dropout, _train, bidirectional, _batch_first = options
    return sequences.new_empty((*sequences.shape[:-1], state.shape[-1] * (2 if bidirectional else 1)))
