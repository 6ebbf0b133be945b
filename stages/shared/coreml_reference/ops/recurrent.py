"""Recurrent layers: `lstm`, `gru` and `rnn`. Sequences are (time, batch, features)."""

from collections.abc import Callable, Iterator
from typing import Any

from shared.coreml_reference.errors import EvaluationError
from shared.coreml_reference.registry import kernel

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Activation = Callable[[Array], Array]

# Sequences are run so many at a time: their gates then stay in the processor's cache.
SEQUENCES_AT_ONCE = 512


def sigmoid(x: Array) -> Array:
    """`1 / (1 + exp(-x))`, in x's place."""
    np.negative(x, out=x)
    np.exp(x, out=x)
    x += 1
    return np.reciprocal(x, out=x)


def tanh(x: Array) -> Array:
    """The hyperbolic tangent, in x's place."""
    return np.tanh(x, out=x)


# Every activation has its default parameters here: MIL offers no way to set others. It may use x for the result.
ACTIVATIONS: dict[str, Activation] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": tanh,
    "scaled_tanh": tanh,
    "sigmoid": sigmoid,
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "sigmoid_hard": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}


@kernel("lstm", single=True)
def lstm(
    x: Array,
    initial_h: Array,
    initial_c: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    peephole: Array | None = None,
    weight_ih_back: Array | None = None,
    weight_hh_back: Array | None = None,
    bias_back: Array | None = None,
    peephole_back: Array | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: Array | None = None,
) -> tuple[Array, ...]:
    """Run a long short-term memory; return the outputs, the last h and the last c.

    At every time step, with the rows of the weights in the order i, f, o, z::

        i = recurrent_activation(W_i x + R_i h + b_i + p_i * c)
        f = recurrent_activation(W_f x + R_f h + b_f + p_f * c)
        z = cell_activation(W_z x + R_z h + b_z)
        c = clip(f * c + i * z)
        o = recurrent_activation(W_o x + R_o h + b_o + p_o * c)
        h = o * activation(c)

    x is (time, batch, inputs), initial_h and initial_c are (batch, hidden); the outputs are (time, batch, hidden), or
    (1, batch, hidden) unless `output_sequence`. A "reverse" layer reads x backwards and its outputs stay in that order.
    "bidirectional" runs both ways, each on its half of the states; its outputs are aligned in time.
    """
    _check_batch(x, initial_h=initial_h, initial_c=initial_c)
    rest = (_activation(recurrent_activation), _activation(cell_activation), _activation(activation), clip)

    def one_way(x: Array, h: Array, c: Array, *parameters: Any) -> tuple[Array, ...]:
        return _run(lambda x, h, c: _lstm_steps(x, h, c, parameters, *rest), x, (h, c), output_sequence)

    parameters = (weight_ih, weight_hh, bias, peephole)
    if direction != "bidirectional":
        return one_way(_in_order(x, direction), initial_h, initial_c, *parameters)
    if weight_ih_back is None or weight_hh_back is None:
        raise EvaluationError("a bidirectional lstm needs weight_ih_back and weight_hh_back")
    hidden = weight_hh.shape[1]
    there = one_way(x, initial_h[:, :hidden], initial_c[:, :hidden], *parameters)
    parameters = (weight_ih_back, weight_hh_back, bias_back, peephole_back)
    outputs, *last = one_way(x[::-1], initial_h[:, hidden:], initial_c[:, hidden:], *parameters)
    back = (outputs[::-1], *last)
    return tuple(np.concatenate(halves, axis=-1) for halves in zip(there, back, strict=True))


def _lstm_steps(
    x: Array,
    h: Array,
    c: Array,
    parameters: Any,
    recurrent_activation: Activation,
    cell_activation: Activation,
    activation: Activation,
    clip: Array | None,
) -> Iterator[tuple[Array, Array]]:
    """Yield h and c after each time step of one direction; the parameters are its W, R, b and p."""
    weight_ih, weight_hh, bias, peephole = parameters
    inputs, hidden = weight_ih.shape[1], weight_hh.shape[1]
    # Sequences side by side, so that the rows of a gate lie together; W x + R h + b as one product, [W R b] [x h 1].
    b = np.zeros(4 * hidden, weight_hh.dtype) if bias is None else bias
    weights = np.concatenate([weight_ih, weight_hh, b[:, None]], axis=1)
    p_i, p_f, p_o = (None, None, None) if peephole is None else np.split(peephole[:, None], 3)
    seen = np.ones((inputs + hidden + 1, len(h)), h.dtype)
    gates = np.empty((4 * hidden, len(h)), h.dtype)
    i, f, o, z = np.split(gates, 4)
    h, c = h.T, c.T
    for x_t in x:
        seen[:inputs], seen[inputs:-1] = x_t.T, h
        np.matmul(weights, seen, out=gates)
        if p_i is not None:
            i += p_i * c
            f += p_f * c
        c = recurrent_activation(f) * c
        c += recurrent_activation(i) * cell_activation(z)
        if clip is not None:
            c = np.clip(c, -clip, clip)
        if p_o is not None:
            o += p_o * c
        h = recurrent_activation(o) * activation(c.copy())
        yield h.T, c.T


@kernel("gru", single=True)
def gru(
    x: Array,
    initial_h: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Array | None = None,
) -> tuple[Array, ...]:
    """Run a gated recurrent unit; return the outputs and the last h.

    At every time step, with the rows of the weights in the order r, o, z, `a` the input bias and `b` the bias::

        r = recurrent_activation(W_r x + a_r + R_r h + b_r)
        z = recurrent_activation(W_z x + a_z + R_z h + b_z)
        o = activation(W_o x + a_o + R_o (r * h) + b_o)        or, if reset_after,
        o = activation(W_o x + a_o + r * (R_o h + b_o))
        h = (1 - z) * o + z * h

    x is (time, batch, inputs), initial_h is (batch, hidden); the outputs are (time, batch, hidden), or (1, batch,
    hidden) unless `output_sequence`. A "reverse" layer reads x backwards and its outputs stay in that order. The MIL
    page shows the second formula for the plain op; Apple's own test computes the first.
    """
    _check_batch(x, initial_h=initial_h)
    hidden = weight_hh.shape[1]
    recurrent, active = _activation(recurrent_activation), _activation(activation)
    r_rows, o_rows, z_rows = (slice(k * hidden, (k + 1) * hidden) for k in range(3))
    b, a = (np.zeros(3 * hidden, x.dtype) if given is None else given for given in (bias, input_bias))

    def steps(x: Array, h: Array) -> Iterator[tuple[Array]]:
        for x_t in x:
            from_x = x_t @ weight_ih.T + a
            r = recurrent(from_x[:, r_rows] + h @ weight_hh[r_rows].T + b[r_rows])
            z = recurrent(from_x[:, z_rows] + h @ weight_hh[z_rows].T + b[z_rows])
            if reset_after:
                from_h = r * (h @ weight_hh[o_rows].T + b[o_rows])
            else:
                from_h = (r * h) @ weight_hh[o_rows].T + b[o_rows]
            h = (1 - z) * active(from_x[:, o_rows] + from_h) + z * h
            yield (h,)

    return _run(steps, _in_order(x, direction), (initial_h,), output_sequence)


@kernel("rnn", single=True)
def rnn(
    x: Array,
    initial_h: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Array, ...]:
    """Run a plain recurrent layer, `h = activation(W x + R h + b)`; return the outputs and the last h.

    x is (time, batch, inputs), initial_h is (batch, hidden); the outputs are (time, batch, hidden), or (1, batch,
    hidden) unless `output_sequence`. A "reverse" layer reads x backwards and its outputs stay in that order.
    """
    _check_batch(x, initial_h=initial_h)
    active = _activation(activation)
    b = np.zeros(weight_hh.shape[0], x.dtype) if bias is None else bias

    def steps(x: Array, h: Array) -> Iterator[tuple[Array]]:
        for x_t in x:
            h = active(x_t @ weight_ih.T + h @ weight_hh.T + b)
            yield (h,)

    return _run(steps, _in_order(x, direction), (initial_h,), output_sequence)


def _activation(name: str) -> Activation:
    if name.lower() not in ACTIVATIONS:
        raise EvaluationError(f"unknown activation {name!r}: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name.lower()]


def _in_order(x: Array, direction: str) -> Array:
    """Return x in the order in which a layer of this direction reads it."""
    if direction not in ("forward", "reverse"):
        raise EvaluationError(f"unknown direction {direction!r}")
    return x[::-1] if direction == "reverse" else x


def _run(
    steps: Callable[..., Iterator[tuple[Array, ...]]], x: Array, state: tuple[Array, ...], output_sequence: bool
) -> tuple[Array, ...]:
    """Run all time steps; return the outputs (every h, or the last one) followed by the last state."""
    time, batch, _ = x.shape
    outputs = np.empty((time if output_sequence else 1, *state[0].shape), state[0].dtype)
    last = [np.empty_like(values) for values in state]
    for start in range(0, batch, SEQUENCES_AT_ONCE):
        run = slice(start, start + SEQUENCES_AT_ONCE)
        current = initial = tuple(values[run] for values in state)
        for t, current in enumerate(steps(x[:, run], *initial)):
            if output_sequence:
                outputs[t, run] = current[0]
        if not output_sequence:
            outputs[0, run] = current[0]
        for values, final in zip(last, current, strict=True):
            values[run] = final
    return outputs, *last


def _check_batch(x: Array, **states: Array) -> None:
    """Refuse an initial state that would broadcast over, or not fit, x's batch."""
    for name, state in states.items():
        if state.shape[0] != x.shape[1]:
            raise EvaluationError(
                f"{name} has shape {state.shape} but x has shape {x.shape}, a batch of {x.shape[1]}: the initial state "
                f"has a baked batch size of {state.shape[0]}; convert with a state that follows the input's batch"
            )
