"""torch's recurrent nets in a Core AI program: a loop over the steps, whatever their number.

Left alone, torch writes out every step before coreai-torch sees the net: the file grows with the sequence (of 50 hidden
units from 49 to 438 kB at 100 steps, and 43 seconds to convert instead of one), and the number of steps is fixed. Here
each `nn.LSTM`, `nn.GRU` and `nn.RNN` is one op until the conversion, which makes it a `coreai.while` for each direction
of each layer::

    with as_one_op():
        program = torch.export.export(model, inputs, dynamic_shapes=axes)
    register_loops(converter)

Source of the formulas: the documentation of `torch.nn.LSTM`, `GRU` and `RNN`. Dropout between layers does nothing here,
as in evaluation.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import _VF, Tensor

INT32_MAX = 2**31 - 1

KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""The functions of torch that its modules call; the op has the names of these."""


@torch.library.custom_op("sequence::recurrent", mutates_args=())
def recurrent(
    kind: str,
    x: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    biased: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:
    """What torch's function of that kind computes: the outputs of the last layer, and the last states."""
    function = getattr(torch._C._VariableFunctions, kind)
    hidden = states if kind == "lstm" else states[0]
    return list(function(x, hidden, weights, biased, layers, 0.0, False, bidirectional, batch_first))


@recurrent.register_fake
def _(kind: str, x: Tensor, states: list[Tensor], *others: Any) -> list[Tensor]:  # noqa: ARG001 - the op's arguments
    _, _, _, bidirectional, _ = others
    width = states[0].shape[2] * (2 if bidirectional else 1)
    return [x.new_empty(x.shape[0], x.shape[1], width), *(torch.empty_like(state) for state in states)]


@contextmanager
def as_one_op() -> Iterator[None]:
    """While this is open, recurrent nets are exported as one op each."""

    def replaced(kind: str) -> Callable[..., Any]:
        original = getattr(_VF, kind)

        def call(x: Tensor, hidden: Any, weights: Any, biased: Any, *rest: Any) -> Any:
            if isinstance(weights, Tensor):  # a packed sequence, whose arguments are others
                return original(x, hidden, weights, biased, *rest)
            layers, _, _, bidirectional, batch_first = rest
            states = list(hidden) if kind == "lstm" else [hidden]
            return tuple(recurrent(kind, x, states, weights, biased, layers, bidirectional, batch_first))

        return call

    functions = {kind: replaced(kind) for kind in KINDS}
    for kind, function in functions.items():
        setattr(_VF, kind, function)
    try:
        yield
    finally:
        for kind in functions:
            delattr(_VF, kind)


def register_loops(converter: Any) -> None:
    """Make a `TorchConverter` write a loop for each of these ops."""
    converter.register_torch_lowering("sequence::recurrent.default")(_write)


def _write(values: dict[str, Any], node: Any, _: Any) -> list[Any]:
    """Write the program's ops for a node of the exported graph."""
    import coreai.authoring  # first, since the dialect and it import each other
    from coreai._compiler.dialects import coreai

    kind, source, initial, parameters, biased, layers, bidirectional, batch_first = node.args
    x = values[source.name]
    initial_states = [values[one.name] for one in initial]
    weights = [values[one.name] for one in parameters]
    directions = 2 if bidirectional else 1
    arrays = len(weights) // (layers * directions)
    read = any(user.args[1] == 0 for user in node.users)
    if batch_first:
        x = coreai.transpose(x, np.array([1, 0, 2], np.uint32))
    last_states: list[list[Any]] = [[] for _ in initial_states]
    for layer in range(layers):
        sequences = []
        for backwards in range(directions):
            net = layer * directions + backwards
            outputs, last = _write_loop(
                _cell(kind, weights[net * arrays : (net + 1) * arrays], biased=biased),
                x,
                [_part(state, net) for state in initial_states],
                backwards=bool(backwards),
                keep_outputs=read or layer < layers - 1,
            )
            sequences.append(outputs)
            for states, state in zip(last_states, last, strict=True):
                states.append(coreai.expand_dims(state, [0]))
        x = _joined(sequences, 2)
    if batch_first:
        x = coreai.transpose(x, np.array([1, 0, 2], np.uint32))
    return [x, *(_joined(states, 0) for states in last_states)]


def _joined(parts: list[Any], axis: int) -> Any:
    from coreai._compiler.dialects import coreai

    return coreai.concat(np.int32(axis), parts) if len(parts) > 1 else parts[0]


def _part(states: Any, net: int) -> Any:
    """The state of one net (batch, H), of those of all (nets, batch, H)."""
    from coreai._compiler.dialects import coreai

    part = coreai.slice_(states, [net, 0, 0], [net + 1, INT32_MAX, INT32_MAX], [1, 1, 1])
    return coreai.shrink_dims(part, [0])


def _write_loop(
    cell: Callable[[Any, list[Any]], list[Any]], x: Any, initial: list[Any], *, backwards: bool, keep_outputs: bool
) -> tuple[Any, list[Any]]:
    """One direction of one layer.

    Args:
        cell: Writes one step: from the values at it (batch, I) and the states, to the next states.
        x: (time, batch, I).
        initial: The first states (batch, H), of which the first is the output.
        backwards: Whether the last step is read first; each output stands where its step does.
        keep_outputs: Whether the outputs of all steps are read; else they stay as they begin, at zero.

    Returns:
        The outputs (time, batch, H), and the last states.
    """
    from coreai._compiler.dialects import coreai

    sizes = coreai.cast(coreai.get_shape(x), np.int32)
    steps = coreai.slice_(sizes, [0], [1], [1])
    first = coreai.broadcasting_sub(steps, [1]) if backwards else coreai.constant([0])
    width = initial[0].type.shape[-1]
    shape = _joined([coreai.slice_(sizes, [0], [2], [1]), coreai.constant([width])], 0)
    zero = coreai.cast(coreai.constant([[[0.0]]]), x.type.element_type)
    outputs = coreai.broadcast_to(zero, coreai.cast(shape, np.uint32))
    variables = [first, *initial, *([outputs] if keep_outputs else [])]
    results, [condition, body] = coreai.while_([one.type for one in variables], variables)
    with condition:
        step = condition.arguments[0]
        going_on = coreai.greater(step, [-1]) if backwards else coreai.greater(steps, step)
        coreai.condition(coreai.shrink_dims(going_on, [0]), *condition.arguments)
    with body:
        step, *states = body.arguments
        states, rest = states[: len(initial)], states[len(initial) :]
        states = cell(coreai.gather_nd(x, step), states)
        if rest:
            begin = _joined([step, coreai.constant([0, 0])], 0)
            end = _joined([coreai.broadcasting_add(step, [1]), coreai.constant([INT32_MAX, INT32_MAX])], 0)
            rest = [coreai.slice_update(rest[0], begin, end, [1, 1, 1], coreai.expand_dims(states[0], [0]))]
        coreai.yield_([coreai.broadcasting_add(step, [-1 if backwards else 1]), *states, *rest])
    results = list(results)
    return results[-1] if keep_outputs else outputs, results[1 : 1 + len(initial)]


def _cell(kind: str, weights: list[Any], *, biased: bool) -> Callable[[Any, list[Any]], list[Any]]:
    """What writes one step of a net, given its weights as torch has them.

    Formulas, with `x` and `h` for the sums of the input and of the state (weights of each, and biases)::

        LSTM: i, f, g, o = x + h; c = sigmoid(f) c + sigmoid(i) tanh(g); h = sigmoid(o) tanh(c), or its projection
        GRU:  r, z, n; r, z = sigmoid(x + h); n = tanh(x + r h); h = n + z (h - n)
        RNN:  h = tanh(x + h), or its positive part
    """
    from coreai._compiler.dialects import coreai

    # Transposed here, outside of the loop, and once.
    matrices = [coreai.transpose(one, np.array([1, 0], np.uint32)) for one in weights if one.type.rank == 2]
    w, r, *projections = matrices
    b, c = weights[2:4] if biased else (None, None)

    def linear(x: Any, weight: Any, bias: Any) -> Any:
        product = coreai.broadcasting_batch_matmul(x, weight)
        return product if bias is None else coreai.broadcasting_add(product, bias)

    def parts(x: Any, count: int) -> list[Any]:
        width = x.type.shape[1] // count
        return list(coreai.split(x, np.array([width] * count, np.uint32), np.int32(1)))

    def lstm(x: Any, states: list[Any]) -> list[Any]:
        h, memory = states
        i, f, g, o = parts(coreai.add(linear(x, w, b), linear(h, r, c)), 4)
        memory = coreai.add(coreai.mul(coreai.sigmoid(f), memory), coreai.mul(coreai.sigmoid(i), coreai.tanh(g)))
        h = coreai.mul(coreai.sigmoid(o), coreai.tanh(memory))
        return [linear(h, projections[0], None) if projections else h, memory]

    def gru(x: Any, states: list[Any]) -> list[Any]:
        [h] = states
        (x_r, x_z, x_n), (h_r, h_z, h_n) = parts(linear(x, w, b), 3), parts(linear(h, r, c), 3)
        reset, update = coreai.sigmoid(coreai.add(x_r, h_r)), coreai.sigmoid(coreai.add(x_z, h_z))
        new = coreai.tanh(coreai.add(x_n, coreai.mul(reset, h_n)))
        return [coreai.add(new, coreai.mul(update, coreai.sub(h, new)))]

    def rnn(x: Any, states: list[Any]) -> list[Any]:
        activation = coreai.tanh if kind == "rnn_tanh" else coreai.relu
        return [activation(coreai.add(linear(x, w, b), linear(states[0], r, c)))]

    return {"lstm": lstm, "gru": gru}.get(kind, rnn)
