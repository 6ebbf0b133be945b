"""The recurrent kernels against torch, in float64."""

from collections.abc import Callable
from typing import Any

from shared.coreml_reference.errors import EvaluationError
from shared.coreml_reference.ops import recurrent
from shared.coreml_reference.ops.recurrent import ACTIVATIONS, gru, lstm, rnn

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


def sigmoid(x: NDArray[Any]) -> Any:
    return 1 / (1 + np.exp(-x))


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
    states = RANDOM.standard_normal((2, 2, BATCH, HIDDEN))
    out, (h, c) = layer(torch.from_numpy(X), tuple(torch.from_numpy(states)))
    first_h, first_c = (np.concatenate(list(there_and_back), axis=-1) for there_and_back in states)
    got = lstm(
        X,
        first_h,
        first_c,
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

    expected_c = np.clip(sigmoid(f + p_f * C) * C + sigmoid(i + p_i * C) * np.tanh(z), -clip, clip)
    np.testing.assert_allclose(c, expected_c)
    np.testing.assert_allclose(h, sigmoid(o + p_o * expected_c) * np.tanh(expected_c))


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("reset_after", [False, True])
def test_gru_follows_the_formula(reset_after: bool, direction: str) -> None:
    w, r = (RANDOM.standard_normal((3 * HIDDEN, size)) for size in (INPUTS, HIDDEN))
    a, b = RANDOM.standard_normal((2, 3 * HIDDEN))
    (w_r, w_o, w_z), (r_r, r_o, r_z), (a_r, a_o, a_z), (b_r, b_o, b_z) = (np.split(rows, 3) for rows in (w, r, a, b))
    h, outputs = H, []
    for x in X if direction == "forward" else X[::-1]:
        reset = sigmoid(w_r @ x.T + r_r @ h.T + (a_r + b_r)[:, None]).T
        update = sigmoid(w_z @ x.T + r_z @ h.T + (a_z + b_z)[:, None]).T
        from_h = reset * (h @ r_o.T + b_o) if reset_after else (reset * h) @ r_o.T + b_o
        h = update * h + (1 - update) * np.tanh(x @ w_o.T + a_o + from_h)
        outputs.append(h)
    got_outputs, got_h = gru(X, H, w, r, b, direction, True, reset_after=reset_after, input_bias=a)
    np.testing.assert_allclose(got_outputs, outputs, atol=1e-13)
    np.testing.assert_allclose(got_h, h, atol=1e-13)
    (last,), _ = gru(X, H, w, r, b, direction, False, reset_after=reset_after, input_bias=a)
    np.testing.assert_array_equal(last, got_h)


def test_gru_without_biases() -> None:
    w, r = (RANDOM.standard_normal((3 * HIDDEN, size)) for size in (INPUTS, HIDDEN))
    zeros = np.zeros(3 * HIDDEN)
    for without, of_zeros in zip(gru(X, H, w, r), gru(X, H, w, r, zeros, input_bias=zeros), strict=True):
        np.testing.assert_array_equal(without, of_zeros)


def test_gru_reset_after_is_torchs_gru() -> None:
    layer = torch.nn.GRU(INPUTS, HIDDEN, dtype=torch.float64)
    ih, hh, b_ih, b_hh = (reorder(p, [0, 2, 1]) for p in layer.parameters())
    out, h = layer(torch.from_numpy(X), as_torch(H)[0])
    got_out, got_h = gru(X, H, ih, hh, b_hh, reset_after=True, input_bias=b_ih, output_sequence=True)
    np.testing.assert_allclose(got_out, out.detach().numpy(), atol=1e-13)
    np.testing.assert_allclose(got_h, h[0].detach().numpy(), atol=1e-13)


@pytest.mark.parametrize("output_sequence", [False, True])
@pytest.mark.parametrize(
    ("layer", "gates", "direction"),
    [
        *((lstm, 4, direction) for direction in ("forward", "reverse", "bidirectional")),
        *((layer, gates, direction) for layer, gates in ((gru, 3), (rnn, 1)) for direction in ("forward", "reverse")),
    ],
)
def test_sequences_in_blocks(
    layer: Callable[..., Any], gates: int, direction: str, output_sequence: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = 2 if direction == "bidirectional" else 1
    weights = [RANDOM.standard_normal((gates * HIDDEN, size)) for size in (INPUTS, HIDDEN) * halves]
    backwards = dict(zip(("weight_ih_back", "weight_hh_back"), weights[2:], strict=False))
    x = RANDOM.standard_normal((TIME, 7, INPUTS))
    states = RANDOM.standard_normal((2 if layer is lstm else 1, 7, halves * HIDDEN))

    def run() -> Any:
        options = {"direction": direction, "output_sequence": output_sequence}
        return layer(x, *states, *weights[:2], **backwards, **options)

    in_one_block = run()
    monkeypatch.setattr(recurrent, "SEQUENCES_AT_ONCE", 3)
    for blocks, whole in zip(run(), in_one_block, strict=True):
        np.testing.assert_allclose(blocks, whole, atol=1e-13)


EXPECTED_ACTIVATIONS: dict[str, Callable[[NDArray[Any]], Any]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.where(x > 0, x, 0),
    "tanh": np.tanh,
    "scaled_tanh": np.tanh,
    "sigmoid": sigmoid,
    "hard_sigmoid": lambda x: np.clip(x / 5 + 0.5, 0, 1),
    "sigmoid_hard": lambda x: np.clip(x / 5 + 0.5, 0, 1),
}


def test_activations() -> None:
    assert EXPECTED_ACTIVATIONS.keys() == ACTIVATIONS.keys()
    x = np.array([-40.0, -2.6, -1.0, -0.1, 0.0, 0.3, 2.4, 2.6, 40.0])
    for name, expected in EXPECTED_ACTIVATIONS.items():
        np.testing.assert_allclose(ACTIVATIONS[name](x.copy()), expected(x), atol=1e-15, err_msg=name)


def test_unknown_activations_and_directions_are_named() -> None:
    weights = np.zeros((HIDDEN, INPUTS)), np.zeros((HIDDEN, HIDDEN))
    with pytest.raises(EvaluationError, match="unknown activation 'erf'"):
        rnn(X, H, *weights, activation="erf")
    with pytest.raises(EvaluationError, match="unknown direction 'backward'"):
        rnn(X, H, *weights, direction="backward")


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
