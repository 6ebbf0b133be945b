"""A checkpoint in; a Core AI program out, with dynamic axes and a float32 interface, by way of `torch.export`."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any, Literal

from shared.conversion.coreai_decompositions import decompositions
from shared.conversion.coreai_recurrent import as_one_op, register_loops
from shared.conversion.export import ExportParams, describe, describe_tensors, example_inputs
from shared.conversion.failures import Unsupported, explained, refuse_known
from shared.conversion.rewriting import Watching
from shared.files.aimodel import MAIN, import_coreai
from shared.kit.stage import StageError
from shared.network.model import Checkpoint, SequenceClassifier

import numpy as np
import torch
from torch import nn

Precision = Literal["fp32", "fp16"]
UNKNOWN = re.compile(r"ops: (aten\.\w+\.\w+)")
FULL_PRECISION = ("mean", "deviation")
"""The buffers of the net that raw values are standardised by: in half precision these could be infinite."""


def convert(checkpoint: Checkpoint, names: ExportParams, precision: Precision, largest_unrolled_time: int) -> Any:
    """Convert a checkpoint.

    Args:
        checkpoint: The trained net.
        names: Of the tensors, and whether any number of time steps is taken.
        precision: What the program computes in.
        largest_unrolled_time: How many time steps a recurrent layer may be written out for, one after the other.

    Returns:
        A `coreai.authoring.AIProgram`.

    Raises:
        StageError: An operation cannot be converted, or not for every size.
    """
    torch_to_coreai = import_coreai("coreai_torch")
    model, config = checkpoint.model, checkpoint.model.config
    inputs = example_inputs(config, names)
    with explained(model, "coreai"), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # torch's deprecations; what matters is checked below
        refuse_known(model)
        refuse_unrolled(model, config.time_steps, largest_unrolled_time)
        exported = trace(model, names, inputs, decompositions())
        if precision == "fp16":
            exported = in_half_precision(exported)
        converter = torch_to_coreai.TorchConverter(mode=torch_to_coreai.TorchConverter.Mode.RELEASE)
        converter.register_torch_lowering("aten::linear.default")(linear)
        register_loops(converter)
        with named(exported):
            converter.add_exported_program(exported, input_names=list(inputs), output_names=[names.output_name])
            program = converter.to_coreai()
    check(program, names)
    return program


def refuse_unrolled(model: SequenceClassifier, time_steps: int, largest: int) -> None:
    """What a net does in a loop of its own over the steps, torch writes out; `nn.LSTM` and the like stay loops.

    Raises:
        Unsupported: These are more steps than are allowed.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNCellBase) and time_steps > largest:
            whole = type(module).__name__.removesuffix("Cell")
            raise Unsupported(
                f"nn.{whole}Cell in a loop over {time_steps} time steps, each of which is written out", name,
                f"nn.{whole}, or export_coreai.largest_unrolled_time: {time_steps}",
            )  # fmt: skip


def trace(
    model: SequenceClassifier, names: ExportParams, inputs: dict[str, torch.Tensor], table: dict[Any, Any]
) -> torch.export.ExportedProgram:
    """What the net computes, as operations that the converter knows, for any batch."""
    batch = torch.export.Dim("batch", min=1)
    time = {1: torch.export.Dim.AUTO} if names.dynamic_time else {}
    axes: dict[str, Any] = {"sequence": {0: batch, **time}}
    if len(inputs) > 1:
        axes["lengths"] = {0: batch}
    with Watching(), as_one_op():
        exported = torch.export.export(model, tuple(inputs.values()), dynamic_shapes=axes)
    # Else it becomes a product with the weights repeated for each time step, which are then part of the file.
    table.pop(torch.ops.aten.linear.default, None)
    decomposed: torch.export.ExportedProgram = exported.run_decompositions(table)
    return decomposed


@contextlib.contextmanager
def named(exported: torch.export.ExportedProgram) -> Iterator[None]:
    """The converter lists what it does not know: say where the first of it is.

    Raises:
        Unsupported: There is such an operation.
    """
    try:
        yield
    except ValueError as error:
        found = UNKNOWN.search(str(error))
        nodes = [node for node in exported.graph.nodes if found and str(node.target) == found[1]]
        if not nodes:
            raise
        modules = [path for path, _ in nodes[0].meta.get("nn_module_stack", {}).values()]
        operation = str(nodes[0].target).split(".")[1].lstrip("_")
        raise Unsupported(operation, modules[-1] if modules else None) from error


def linear(values: dict[str, Any], node: Any, location: Any) -> Any:  # noqa: ARG001 - the converter's signature
    """`aten.linear` as a product with the weights, whatever the number of axes, and a sum."""
    coreai = import_coreai("coreai._compiler.dialects.coreai")
    x, weight, *bias = (values[each.name] for each in node.args if each is not None)
    product = coreai.broadcasting_batch_matmul(x, coreai.transpose(weight, np.array([1, 0], np.uint32)))
    return coreai.broadcasting_add(product, bias[0]) if bias else product


def in_half_precision(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same with weights and sums in float16, by Apple's own pass, but for what standardises raw values.

    Inputs and outputs stay float32: the pass would make them float16.
    """
    casting = import_coreai("coreai_opt.casting.casting")

    class HalfPrecision(casting._FP16Casting):  # type: ignore[misc, name-defined]
        def convert_placeholder(self, param_name: str) -> bool:
            if param_name in FULL_PRECISION:
                return False
            return bool(super().convert_placeholder(param_name))

    exported = HalfPrecision(exported)()
    graph = exported.graph
    half, single = torch.float16, torch.float32
    of_user = set(exported.graph_signature.user_inputs)
    for node in [node for node in graph.nodes if node.op == "placeholder" and node.name in of_user]:
        if node.meta["val"].dtype != half:
            continue
        node.meta["val"] = node.meta["val"].to(single)
        users = list(node.users)
        first = users[0] if users else None
        if first is None:
            continue
        with graph.inserting_after(node):
            cast = _cast(graph, node, half)
        for user in users:
            if user.target == torch.ops.aten._to_copy.default and user.kwargs.get("dtype") == single:
                user.replace_all_uses_with(node)
                graph.erase_node(user)
            else:
                user.replace_input_with(node, cast)
        if not cast.users:
            graph.erase_node(cast)
    [output] = [node for node in graph.nodes if node.op == "output"]
    for result in output.args[0]:
        if result.meta["val"].dtype == half:
            with graph.inserting_before(output):
                output.replace_input_with(result, cast := _cast(graph, result, single))
            for spec in exported.graph_signature.output_specs:
                if spec.arg.name == result.name:
                    spec.arg.name = cast.name
    exported.graph_module.recompile()
    return exported


def _cast(graph: Any, value: Any, dtype: torch.dtype) -> Any:
    cast = graph.call_function(torch.ops.aten._to_copy.default, (value,), {"dtype": dtype})
    cast.meta["val"] = value.meta["val"].to(dtype)
    return cast


def check(program: Any, names: ExportParams) -> None:
    """Hold the program to what was asked for.

    Raises:
        StageError: An axis that should be dynamic came out fixed.
    """
    graph = program._get_graph(MAIN)
    form = graph.type.inputs[0]
    free = [axis for axis, wanted in enumerate((True, names.dynamic_time)) if wanted and not form.is_dynamic_dim(axis)]
    if free:
        what = ("the batch", "export.dynamic_time = true: the time axis")[free[0]]
        raise StageError(f"{what} came out of fixed size in Core AI; the net takes it as a number somewhere")


def described(names: ExportParams, checkpoint: Checkpoint) -> Any:
    """The metadata of an asset."""
    metadata = import_coreai("coreai.runtime").AIModelAssetMetadata()
    content = describe(names, checkpoint)
    metadata.model_description = content.pop("description")
    content |= {f"tensor {name}": text for name, text in describe_tensors(names, checkpoint.model.config).items()}
    for key, value in sorted(content.items()):
        metadata.set_custom(key, value)
    return metadata
