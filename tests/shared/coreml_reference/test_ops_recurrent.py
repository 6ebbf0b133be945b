"""The recurrent kernels against torch, in float64."""

from typing import Any

from shared.coreml_reference.errors import EvaluationError
from shared.coreml_reference.ops.recurrent import gru, lstm, rnn

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

TIME, BATCH, INPUTS, HIDDEN = 5, 3, 4, 6
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((TIME, BATCH, INPUTS))
H, C = RANDOM.standard_normal((2, BATCH, HIDDEN))


def reorder(rows: torch.Tensor, order: list[int]) -> NDArray[Any]:
    """Take torch's gates, in blocks of HIDDEN rows, in the order that MIL has them."""
    blocks = rows.detach().numpy().reshape(len(order), HIDDEN, -1)
    return blocks[order].reshape(rows.shape)


def lstm_parameters(layer: torch.nn.Module, suffix: str = "") -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    ih, hh, b_ih, b_hh = (
        reorder(getattr(layer, f"{name}_l0{suffix}"), [0, 1, 3, 2])
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    return ih, hh, b_ih + b_hh


def as_torch(*arrays: NDArray[Any]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(array[np.newaxis].copy()) for array in arrays)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("output_sequence", [False, True])
def test_lstm_one_way(direction: str, output_sequence: bool) -> None:
    layer = torch.nn.LSTM(INPUTS, HIDDEN, dtype=torch.float64)
    ih, hh, bias = lstm_parameters(layer)
    read = X if direction == "forward" else X[::-1].copy()
    out, (h, c) = layer(torch.from_numpy(read), as_torch(H, C))
    got = lstm(X, H, C, ih, hh, bias, direction=direction, output_sequence=output_sequence)
    expected = (out if output_sequence else out[-1:], h[0], c[0])
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), atol=1e-13)


@pytest.mark.parametrize("output_sequence", [False, True])
def test_bidirectional_lstm_is_aligned_in_time(output_sequence: bool) -> None:
    layer = torch.nn.LSTM(INPUTS, HIDDEN, bidirectional=True, dtype=torch.float64)
    (ih, hh, bias), (ih_b, hh_b, bias_b) = lstm_parameters(layer), lstm_parameters(layer, "_reverse")
    zeros = np.zeros((BATCH, 2 * HIDDEN))
    out, (h, c) = layer(torch.from_numpy(X))
    got = lstm(
        X,
        zeros,
        zeros,
        ih,
        hh,
        bias,
        weight_ih_back=ih_b,
        weight_hh_back=hh_b,
        bias_back=bias_b,
        direction="bidirectional",
        output_sequence=output_sequence,
    )
    last_h, last_c = torch.cat(tuple(h), -1), torch.cat(tuple(c), -1)
    expected = (out if output_sequence else last_h[None], last_h, last_c)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), atol=1e-13)


def test_lstm_peephole_and_clip_follow_the_formula() -> None:
    weights = RANDOM.standard_normal((4 * HIDDEN, INPUTS)), np.zeros((4 * HIDDEN, HIDDEN))
    peephole, clip = RANDOM.standard_normal(3 * HIDDEN), 0.1
    _, h, c = lstm(X[:1], H, C, *weights, peephole=peephole, clip=np.array(clip))
    i, f, o, z = np.split(X[0] @ weights[0].T, 4, axis=1)
    p_i, p_f, p_o = np.split(peephole, 3)

    def sigmoid(x: NDArray[Any]) -> Any:
        return 1 / (1 + np.exp(-x))

    expected_c = np.clip(sigmoid(f + p_f * C) * C + sigmoid(i + p_i * C) * np.tanh(z), -clip, clip)
    np.testing.assert_allclose(c, expected_c)
    np.testing.assert_allclose(h, sigmoid(o + p_o * expected_c) * np.tanh(expected_c))


def test_gru_reset_after_is_torchs_gru() -> None:
    layer = torch.nn.GRU(INPUTS, HIDDEN, dtype=torch.float64)
    ih, hh, b_ih, b_hh = (reorder(p, [0, 2, 1]) for p in layer.parameters())
    out, h = layer(torch.from_numpy(X), as_torch(H)[0])
    got_out, got_h = gru(X, H, ih, hh, b_hh, reset_after=True, input_bias=b_ih, output_sequence=True)
    np.testing.assert_allclose(got_out, out.detach().numpy(), atol=1e-13)
    np.testing.assert_allclose(got_h, h[0].detach().numpy(), atol=1e-13)


def test_rnn_reverse_outputs_stay_in_processing_order() -> None:
    layer = torch.nn.RNN(INPUTS, HIDDEN, nonlinearity="relu", dtype=torch.float64)
    ih, hh, b_ih, b_hh = (p.detach().numpy() for p in layer.parameters())
    out, h = layer(torch.from_numpy(X[::-1].copy()), as_torch(H)[0])
    got_out, got_h = rnn(X, H, ih, hh, b_ih + b_hh, direction="reverse", activation="relu", output_sequence=True)
    np.testing.assert_allclose(got_out, out.detach().numpy(), atol=1e-13)
    np.testing.assert_allclose(got_h, h[0].detach().numpy(), atol=1e-13)


@pytest.mark.parametrize("batch", [1, 7])
def test_a_baked_batch_size_is_refused_with_both_shapes(batch: int) -> None:
    weights = np.zeros((4 * HIDDEN, INPUTS)), np.zeros((4 * HIDDEN, HIDDEN))
    state = np.zeros((batch, HIDDEN))
    with pytest.raises(EvaluationError, match=rf"initial_h .*\({batch}, 6\).*\(5, 3, 4\).*baked batch size of {batch}"):
        lstm(X, state, state, *weights)
