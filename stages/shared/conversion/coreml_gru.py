"""torch's GRU in a Core ML program: a loop over the steps, which passes on the last state alone where that is enough.

Core ML's own `gru` op is another function: its reset gate does not act on the bias of the state. (What its
`reset_after` does, from iOS18 on, the documentation leaves open.) coremltools writes a loop, too, but one that computes
every gate by ops of its own, and copies the states of all steps in every step, read or not.
"""

from typing import Any

from shared.files.quiet import import_coremltools

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def register_gru() -> None:
    """Make coremltools convert `aten::gru` by `convert_gru`."""
    import_coremltools()
    from coremltools.converters.mil import register_torch_op

    register_torch_op(convert_gru, torch_alias=["gru"], override=True)


def convert_gru(context: Any, node: Any) -> None:
    """Write the program's ops for a node of torch's graph.

    Source of the formulas: the documentation of `torch.nn.GRU`. Dropout between layers does nothing here, as in
    evaluation.
    """
    from coremltools.converters.mil import Builder as mb  # noqa: N813 (its usual name)
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    x, initial, weights, _, layers, _, _, bidirectional, batch_first = _get_inputs(context, node, expected=9)
    outputs_name, state_name = node.outputs
    read = outputs_name in _names([*(other.inputs for other in node.parent.nodes), node.parent.outputs])
    directions = 2 if bidirectional.val else 1
    arrays = len(weights) // (layers.val * directions)  # of a net: four, or without biases two
    if batch_first.val:
        x = mb.transpose(x=x, perm=[1, 0, 2])
    states = []
    for layer in range(layers.val):
        sequences = []
        for backwards in range(directions):
            net = layer * directions + backwards
            outputs, state = _write_net(
                mb.reverse(x=x, axes=[0]) if backwards else x,
                mb.gather(x=initial, indices=net, axis=0),
                *(weight.val for weight in weights[net * arrays : (net + 1) * arrays]),
                keep_outputs=read or layer < layers.val - 1,
            )
            states.append(mb.expand_dims(x=state, axes=[0]))
            if outputs is not None:
                sequences.append(mb.reverse(x=outputs, axes=[0]) if backwards else outputs)
        if sequences:
            x = mb.concat(values=sequences, axis=2) if directions == 2 else sequences[0]
    if read:
        context.add(mb.transpose(x=x, perm=[1, 0, 2]) if batch_first.val else x, outputs_name)
    context.add(mb.concat(values=states, axis=0) if len(states) > 1 else states[0], state_name)


def _names(inputs: Any) -> set[str]:
    """Of the values that nodes read, in lists of any depth."""
    return set().union(*(_names(one) if isinstance(one, list | tuple) else {one} for one in inputs))


def _write_net(
    x: Any, initial: Any, w: Floats, r: Floats, b: Floats | None = None, c: Floats | None = None, *, keep_outputs: bool
) -> tuple[Any | None, Any]:
    """One direction of one layer.

    At every step::

        r, z = sigmoid(W_rz x + b_rz + R_rz h + c_rz)
        n = tanh(W_n x + b_n + r * (R_n h + c_n))
        h = n + z * (h - n)

    Args:
        x: (time, batch, I).
        initial: The first h, (batch, H).
        w: W, weights of the input (3 H, I); rows in torch's order of gates: r, z, n.
        r: R, weights of the state (3 H, H).
        b: Bias of the input's part (3 H,).
        c: Bias of the state's part (3 H,).
        keep_outputs: Whether to return h after every step, too.

    Returns:
        All h (time, batch, H), or None, and the last h (batch, H).
    """
    from coremltools.converters.mil import Builder as mb  # noqa: N813 (its usual name)

    hidden = r.shape[1]
    sizes = [2 * hidden, hidden]
    x_parts = mb.linear(x=x, weight=w, bias=b)
    steps = mb.slice_by_index(x=mb.shape(x=x), begin=[0], end=[1], squeeze_mask=[True])

    def going_on(step: Any, *_: Any) -> Any:
        return mb.less(x=step, y=steps)

    def one_step(step: Any, state: Any, *outputs: Any) -> tuple[Any, ...]:
        x_gates, x_new = mb.split(x=mb.gather(x=x_parts, indices=step, axis=0), split_sizes=sizes, axis=1)
        h_gates, h_new = mb.split(x=mb.linear(x=state, weight=r, bias=c), split_sizes=sizes, axis=1)
        reset, update = mb.split(x=mb.sigmoid(x=mb.add(x=x_gates, y=h_gates)), num_splits=2, axis=1)
        new = mb.tanh(x=mb.add(x=x_new, y=mb.mul(x=reset, y=h_new)))
        state = mb.add(x=new, y=mb.mul(x=update, y=mb.sub(x=state, y=new)))
        kept = [
            mb.scatter(
                data=one,
                indices=mb.expand_dims(x=step, axes=[0]),
                updates=mb.expand_dims(x=state, axes=[0]),
                mode="update",
            )
            for one in outputs
        ]
        return (mb.add(x=step, y=1), state, *kept)

    variables: list[Any] = [np.int32(0), initial]
    if keep_outputs:  # any values of the right shape, since every step overwrites its own
        variables.append(
            mb.slice_by_index(x=x_parts, begin=[0, 0, 0], end=[0, 0, hidden], end_mask=[True, True, False])
        )
    _, state, *outputs = mb.while_loop(_cond=going_on, _body=one_step, loop_vars=tuple(variables))
    return outputs[0] if outputs else None, state
