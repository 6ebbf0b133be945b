"""Other ONNX graphs of the exported net, and parts of its own: to see which one the runtime runs fastest, and why.

All of them start from the exported file of an LSTM: Transpose, LSTM, Squeeze, Gemm.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node
Floats = NDArray[np.float32]
Axes = list[int | str]


@dataclass(frozen=True)
class Net:
    """An exported net, in its numbers; gates stand in the order of ONNX: input, output, forget, cell.

    Attributes:
        steps: T, time steps.
        features: F of each step.
        input_weights: (1, 4H, F).
        recurrent_weights: (1, 4H, H).
        bias: (1, 8H): what is added to the products with either.
        classes_weights: (classes, H), of the linear layer.
        classes_bias: (classes,).
        input_name: Of the sequences, (batch, T, F).
        output_name: Of the logits, (batch, classes).
        opset: Of the file.
        ir_version: Of the file.
    """

    steps: int
    features: int
    input_weights: Floats
    recurrent_weights: Floats
    bias: Floats
    classes_weights: Floats
    classes_bias: Floats
    input_name: str
    output_name: str
    opset: int
    ir_version: int

    @property
    def hidden(self) -> int:
        """H, the size of the hidden state."""
        return int(self.recurrent_weights.shape[2])

    @property
    def one_bias(self) -> Floats:
        """(1, 4H): the sum of the two biases."""
        of_input, of_state = np.split(self.bias, 2, axis=1)
        return np.asarray(of_input + of_state)


def read_net(content: bytes) -> Net:
    """Read an exported file.

    Raises:
        ValueError: Its graph is another one.
    """
    model = onnx.load_from_string(content)
    kinds = [each.op_type for each in model.graph.node]
    if kinds != ["Transpose", "LSTM", "Squeeze", "Gemm"]:
        raise ValueError(f"expected the nodes Transpose, LSTM, Squeeze, Gemm; found {', '.join(kinds)}")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    _, lstm, _, gemm = model.graph.node
    input_weights, recurrent_weights, bias = (constants[name] for name in lstm.input[1:4])
    weights, classes_bias = (constants[name] for name in gemm.input[1:3])
    transposed = any(each.name == "transB" and each.i for each in gemm.attribute)
    [source], [target] = model.graph.input, model.graph.output
    _, steps, features = (axis.dim_value for axis in source.type.tensor_type.shape.dim)
    return Net(
        steps,
        features,
        input_weights,
        recurrent_weights,
        bias,
        weights if transposed else weights.T,
        classes_bias,
        source.name,
        target.name,
        model.opset_import[0].version,
        model.ir_version,
    )


def write_model(
    net: Net,
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    read: tuple[str, Axes],
    written: tuple[str, Axes],
) -> bytes:
    """A model of these nodes; input and output are float32."""
    used = {name for each in nodes for name in each.input}
    graph = helper.make_graph(
        nodes,
        "variant",
        [helper.make_tensor_value_info(read[0], TensorProto.FLOAT, read[1])],
        [helper.make_tensor_value_info(written[0], TensorProto.FLOAT, written[1])],
        [numpy_helper.from_array(np.array(value), name) for name, value in constants.items() if name in used],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", net.opset)], ir_version=net.ir_version, producer_name="bench"
    )
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def write_net(
    net: Net,
    *,
    batch: int | str = "batch",
    before: list[onnx.NodeProto] | None = None,
    lstm: dict[str, Any] | None = None,
    states: tuple[str, ...] = (),
    squeeze: onnx.NodeProto | None = None,
    after: list[onnx.NodeProto] | None = None,
    constants: dict[str, Any] | None = None,
    outputs: tuple[str, ...] = ("", "last"),
) -> bytes:
    """The net as it is exported, but for what is given: nodes, attributes and inputs of the LSTM, constants."""
    given = {
        "W": net.input_weights,
        "R": net.recurrent_weights,
        "B": net.bias,
        "L": net.classes_weights,
        "l": net.classes_bias,
        "first": np.array([0]),
    } | (constants or {})
    attributes = {"hidden_size": given["R"].shape[2]} | (lstm or {})
    inputs = ["steps", "W", "R", *(["B"] if given["B"] is not None else []), *states]
    nodes = [
        *(before or [node("Transpose", [net.input_name], ["steps"], perm=[1, 0, 2])]),
        node("LSTM", inputs, list(outputs), **attributes),
        squeeze or node("Squeeze", ["last", "first"], ["state"]),
        *(after or [node("Gemm", ["state", "L", "l"], [net.output_name], transB=1)]),
    ]
    return write_model(
        net,
        nodes,
        given,
        (net.input_name, [batch, net.steps, net.features]),
        (net.output_name, [batch, len(net.classes_bias)]),
    )


def fixed_batch(net: Net) -> bytes:
    """For one sequence alone: swapping batch and time is then a matter of the shape."""
    reshape = node("Reshape", [net.input_name, "shape"], ["steps"])
    shape = np.array([net.steps, 1, net.features])
    return write_net(net, batch=1, before=[reshape], constants={"shape": shape})


def explicit_states(net: Net) -> bytes:
    """For one sequence alone, with its initial states as constants."""
    states = {"zeros": np.zeros((1, 1, net.hidden), np.float32)}
    return write_net(net, batch=1, states=("", "zeros", "zeros"), constants=states)


def all_steps(net: Net) -> bytes:
    """The LSTM gives the states of all steps too."""
    return write_net(net, outputs=("states", "last"))


def flattened(net: Net) -> bytes:
    """Flatten in place of Squeeze."""
    return write_net(net, squeeze=node("Flatten", ["last"], ["state"], axis=2))


def product_and_sum(net: Net) -> bytes:
    """MatMul and Add in place of Gemm, on the state with its three axes, and Squeeze last."""
    return write_net(
        net,
        squeeze=node("MatMul", ["last", "M"], ["product"]),
        after=[node("Add", ["product", "l"], ["sum"]), node("Squeeze", ["sum", "first"], [net.output_name])],
        constants={"M": net.classes_weights.T},
    )


def batch_first(net: Net) -> bytes:
    """Without Transpose: an LSTM that reads (batch, time, features)."""
    return write_net(
        net,
        before=[node("Identity", [net.input_name], ["steps"])],
        lstm={"layout": 1},
        squeeze=node("Flatten", ["last"], ["state"], axis=1),
    )


def bias_as_feature(net: Net) -> bytes:
    """The bias as the weights of one more feature, which is always 1: the kernel then sums and adds no biases."""
    weights = np.concatenate([net.input_weights, net.one_bias[:, :, None]], axis=2)
    return write_net(
        net,
        before=[
            node("Pad", [net.input_name, "pads", "one"], ["padded"]),
            node("Transpose", ["padded"], ["steps"], perm=[1, 0, 2]),
        ],
        constants={"W": weights, "B": None, "pads": np.array([0, 0, 0, 0, 0, 1]), "one": np.array(1, np.float32)},
    )


def padded_state(net: Net) -> bytes:
    """A hidden state of a multiple of 16 numbers, as the processor's vectors are long: the others stay zero."""
    size = -(-net.hidden // 16) * 16

    def pad(values: Floats, gates: int) -> Floats:
        blocks = values.reshape(gates, net.hidden, -1)
        return np.pad(blocks, ((0, 0), (0, size - net.hidden), (0, 0))).reshape(1, gates * size, -1)

    columns = ((0, 0), (0, 0), (0, size - net.hidden))
    return write_net(
        net,
        constants={
            "W": pad(net.input_weights, 4),
            "R": np.pad(pad(net.recurrent_weights, 4), columns),
            "B": pad(net.bias, 8)[:, :, 0],
            "L": np.pad(net.classes_weights, columns[1:]),
        },
    )


def unrolled(net: Net) -> bytes:
    """Without an LSTM: every step in products, sums and activations of its own."""
    kept = 3 * net.hidden  # of the gates, those with a sigmoid
    nodes = [node("Split", [net.input_name], [f"x{step}" for step in range(net.steps)], axis=1, num_outputs=net.steps)]
    for step in range(net.steps):
        nodes += [
            node("Flatten", [f"x{step}"], [f"features{step}"]),
            node("Gemm", [f"features{step}", "W", "b"], [f"read{step}"], transB=1),
        ]
        gates = f"read{step}"
        if step:
            gates = f"gates{step}"
            nodes += [node("Gemm", [f"state{step - 1}", "R", f"read{step}"], [gates], transB=1)]
        nodes += [
            node("Split", [gates, "sizes"], [f"open{step}", f"new{step}"], axis=1),
            node("Sigmoid", [f"open{step}"], [f"opened{step}"]),
            node("Split", [f"opened{step}"], [f"{gate}{step}" for gate in "iof"], axis=1, num_outputs=3),
            node("Tanh", [f"new{step}"], [f"candidate{step}"]),
            node("Mul", [f"i{step}", f"candidate{step}"], [f"added{step}"]),
        ]
        cell = f"added{step}"
        if step:
            previous, cell = cell_of(step - 1), cell_of(step)
            nodes += [
                node("Mul", [f"f{step}", previous], [f"kept{step}"]),
                node("Add", [f"kept{step}", f"added{step}"], [cell]),
            ]
        nodes += [
            node("Tanh", [cell], [f"bounded{step}"]),
            node("Mul", [f"o{step}", f"bounded{step}"], [f"state{step}"]),
        ]
    nodes.append(node("Gemm", [f"state{net.steps - 1}", "L", "l"], [net.output_name], transB=1))
    constants = {
        "W": net.input_weights[0],
        "R": net.recurrent_weights[0],
        "b": net.one_bias[0],
        "L": net.classes_weights,
        "l": net.classes_bias,
        "sizes": np.array([kept, net.hidden]),
    }
    return write_model(
        net,
        nodes,
        constants,
        (net.input_name, ["batch", net.steps, net.features]),
        (net.output_name, ["batch", len(net.classes_bias)]),
    )


def cell_of(step: int) -> str:
    """The name of the cell state after a step of the unrolled net; that of the first is what it adds."""
    return f"cell{step}" if step else "added0"


GRAPHS: dict[str, Callable[[Net], bytes]] = {
    "batch fixed at 1: Reshape for Transpose": fixed_batch,
    "batch fixed at 1, initial states as constants": explicit_states,
    "LSTM with layout=1, no Transpose": batch_first,
    "LSTM gives all states": all_steps,
    "Flatten for Squeeze": flattened,
    "MatMul and Add for Gemm": product_and_sum,
    "bias as one more feature": bias_as_feature,
    "hidden state padded to 16s": padded_state,
    "unrolled: no LSTM": unrolled,
}
"""By what is different from the exported graph."""


def identity(net: Net) -> bytes:
    """Nothing: what a call costs."""
    return write_model(net, [node("Identity", ["x"], ["y"])], {}, ("x", [1, net.hidden]), ("y", [1, net.hidden]))


def lstm_alone(net: Net, steps: int) -> bytes:
    """The LSTM alone, over so many steps."""
    constants = {"W": net.input_weights, "R": net.recurrent_weights, "B": net.bias}
    lstm = node("LSTM", ["x", "W", "R", "B"], ["", "y"], hidden_size=net.hidden)
    return write_model(net, [lstm], constants, ("x", [steps, 1, net.features]), ("y", [1, 1, net.hidden]))


def product_alone(net: Net, rows: int) -> bytes:
    """The state multiplied with so many rows of the recurrent weights; in a step it is with all 4H."""
    gemm = node("Gemm", ["x", "R"], ["y"], transB=1)
    constants = {"R": net.recurrent_weights[0, :rows]}
    return write_model(net, [gemm], constants, ("x", [1, net.hidden]), ("y", [1, rows]))


def activations_alone(net: Net, kind: str, count: int) -> bytes:
    """`Sigmoid` or `Tanh` of so many numbers."""
    return write_model(net, [node(kind, ["x"], ["y"])], {}, ("x", [1, count]), ("y", [1, count]))
