"""Export a net to be trained further: as PyTorch computes it, with every weight under its own name."""

import warnings

from shared.conversion.canonical import canonical_onnx
from shared.conversion.export import ExportParams, describe, example_inputs
from shared.conversion.failures import explained, refuse_known
from shared.conversion.rewriting import Watching
from shared.network.model import Checkpoint

import onnx
import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx_ir.passes.common import NameFixPass

OPSET = 18
"""Of the oldest graph that torch writes: from 20 on it holds `Gelu`, of which the training package has no gradient."""


def export_trainable(checkpoint: Checkpoint, names: ExportParams) -> bytes:
    """Convert to ONNX so that gradients can be built for it; return the file's bytes.

    The file that `export_onnx` writes cannot be trained: its weights are joined in ONNX's order, its initial states,
    which the gradient of an LSTM asks for, are left out, and sequences of different lengths are read by an operator
    that has no gradient there. So the net is traced as it computes in PyTorch, at the data's number of time steps.

    Raises:
        StageError: An operation cannot be exported.
    """
    model = checkpoint.model
    inputs = example_inputs(model.config, names.model_copy(update={"dynamic_time": False}))
    batch = torch.export.Dim("batch")
    with explained(model, "onnx"), warnings.catch_warnings(), Watching():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        refuse_known(model)
        traced = torch.export.export(
            model,
            tuple(inputs.values()),
            dynamic_shapes={"sequence": {0: batch}} | ({"lengths": {0: batch}} if model.config.ragged else {}),
        )
        program = torch.onnx.export(
            traced,
            dynamo=True,
            input_names=list(inputs),
            output_names=[names.output_name],
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
        assert program is not None
        NameFixPass()(program.model)  # `mean` may be a buffer and the result of an operation
        _optimize(program.model, {name for name, _ in model.named_parameters()})
    trainable = onnx.ModelProto.FromString(canonical_onnx(program.model_proto, describe(names, checkpoint)))
    for node in trainable.graph.node:
        if node.op_type == "LayerNormalization":  # its gradient reads the optional outputs, mean and inverse deviation
            node.output.extend(f"{node.output[0]}_{name}" for name in ("mean", "inverse_deviation"))
    content: bytes = trainable.SerializeToString(deterministic=True)
    return content


def _optimize(model: ir.Model, weights: set[str]) -> None:
    """Fold constants in place, none of which is a weight: as inputs of the graph, they could be anything."""
    graph = model.graph
    stored = [(value, value.const_value) for name, value in list(graph.initializers.items()) if name in weights]
    for value, _ in stored:
        graph.initializers.pop(str(value.name))
        value.const_value = None
        graph.inputs.append(value)
    onnxscript.optimizer.optimize_ir(model, num_iterations=2)
    for value, content in stored:
        graph.inputs.remove(value)
        value.const_value = content
        graph.register_initializer(value)
