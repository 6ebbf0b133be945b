"""Simplify an exported ONNX graph without changing what it computes: fewer nodes, lower latency.

For the default model four nodes are left of fourteen: Transpose, LSTM, Squeeze, Gemm.
"""

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

RECURRENT_OPS = {"LSTM", "GRU", "RNN"}
STATE_INPUTS = (5, 6)  # initial_h and initial_c; left out, ONNX takes zeros
VALUE_PRESERVING_OPS = {"Expand", "Slice", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Identity"}
FOLD_LIMIT = 2**31 - 1  # bytes: fold every constant; the default stops at 8 kB, below an LSTM's weights


def simplify(model: ir.Model) -> None:
    """Rewrite the graph in place: zero states dropped, constants folded, selections from an axis of one squeezed."""
    for node in model.graph:
        if node.op_type in RECURRENT_OPS:
            _drop_zero_states(node)
    RemoveUnusedNodesPass()(model)
    onnxscript.optimizer.optimize_ir(model, num_iterations=2, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT)
    CommonSubexpressionEliminationPass()(model)
    for node in list(model.graph):
        if node.op_type == "Gather":
            _squeeze_gather(model, node)
    RemoveUnusedNodesPass()(model)


def _drop_zero_states(node: ir.Node) -> None:
    for index in STATE_INPUTS:
        if index < len(node.inputs) and _is_zero(node.inputs[index]):
            node.replace_input_with(index, None)


def _is_zero(value: ir.Value | None) -> bool:
    """Whether every element is known to be zero: a constant, seen through ops that only copy or reshape it."""
    if value is None:
        return False
    if value.const_value is not None:
        return bool(np.all(value.const_value.numpy() == 0))
    producer = value.producer()
    if producer is None:
        return False
    if producer.op_type == "ConstantOfShape":
        fill = producer.attributes.get("value")
        return fill is None or bool(np.all(fill.as_tensor().numpy() == 0))
    return producer.op_type in VALUE_PRESERVING_OPS and _is_zero(producer.inputs[0])


def _squeeze_gather(model: ir.Model, node: ir.Node) -> None:
    """`Gather(data, scalar)` along an axis of length one can only select that one element: `Squeeze` is cheaper."""
    data, indices = node.inputs
    assert data is not None
    assert indices is not None
    axis = node.attributes.get_int("axis", 0)
    if data.shape is None or data.shape[axis] != 1 or indices.const_value is None or indices.const_value.shape.rank():
        return
    output = node.outputs[0]
    axes = ir.Value(name=f"{node.name}_axes", const_value=ir.tensor(np.array([axis]), name=f"{node.name}_axes"))
    model.graph.register_initializer(axes)
    squeeze = ir.node("Squeeze", [data, axes], name=f"{node.name}_squeeze")
    squeeze.outputs[0].shape, squeeze.outputs[0].type = output.shape, output.type
    model.graph.insert_before(node, squeeze)
    output.replace_all_uses_with(squeeze.outputs[0])
