"""Export to ONNX: checkpoint in; one float32 ONNX file out, with dynamic, named axes and the leanest graph.

Beside it the stock file, which nobody ships: the graph as `torch.onnx.export` leaves it. `benchmark` compares with it.
"""

import re
import warnings
from typing import NamedTuple

from shared.conversion.canonical import canonical_onnx, number_names
from shared.conversion.capture import recurrent_by_shape
from shared.conversion.export import TRACED_TIME, ExportParams, describe, example_inputs, left_out
from shared.conversion.failures import explained, refuse_known
from shared.conversion.lean_graph import simplify
from shared.conversion.rewriting import Watching
from shared.kit.params import StageParams, read_params
from shared.kit.stage import StageError, one_line, parse_args, run, write_bytes
from shared.network.model import Checkpoint, ModelConfig, load_checkpoint

import onnx
import torch
from pydantic import Field


class Params(StageParams):
    """Section `export_onnx`."""

    opset: int = Field(ge=18, le=25)


class OnnxFiles(NamedTuple):
    """The bytes of two files with the same tensors: with the leanest graph, and with the one that the exporter made."""

    lean: bytes
    stock: bytes


def export_onnx(checkpoint: Checkpoint, names: ExportParams, opset: int) -> OnnxFiles:
    """Convert through `torch.export`, and simplify the graph.

    Raises:
        StageError: An operation cannot be exported, a dynamic axis came out fixed, or the file is not valid ONNX.
    """
    config = checkpoint.model.config
    inputs = example_inputs(config, names)
    batch = torch.export.Dim("batch")
    # A named dimension would freeze the time axis of a second recurrent layer without a word.
    time = {1: torch.export.Dim.AUTO} if names.dynamic_time else {}
    with explained(checkpoint.model, "onnx"), warnings.catch_warnings(), Watching(), recurrent_by_shape():
        warnings.simplefilter("ignore")  # the exporter's own deprecations; what matters is checked below
        refuse_known(checkpoint.model)
        program = torch.onnx.export(
            checkpoint.model,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes={"sequence": {0: batch, **time}} | ({"lengths": {0: batch}} if config.ragged else {}),
            input_names=list(inputs),
            output_names=[names.output_name],
            opset_version=opset,
            verbose=False,
        )
        assert program is not None
        stock = program.model_proto
        simplify(program.model)
    files = OnnxFiles(lean=canonical(program.model_proto, names, checkpoint), stock=canonical(stock, names, checkpoint))
    check(onnx.load_from_string(files.lean), names, config, opset)
    return files


def canonical(model: onnx.ModelProto, names: ExportParams, checkpoint: Checkpoint) -> bytes:
    """Equal bytes for equal graphs, whatever the exporter came across on the way."""
    model = name_time(model)
    number_names(model)
    return canonical_onnx(model, describe(names, checkpoint))


def name_time(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give the time axis its name wherever the exporter wrote the symbol that it made up."""
    symbol = axes(model.graph.input[0])[1]
    if isinstance(symbol, str):
        graph = model.graph
        for value in (*graph.input, *graph.output, *graph.value_info):
            for axis in value.type.tensor_type.shape.dim:
                if axis.dim_param:
                    axis.dim_param = re.sub(rf"\b{symbol}\b", "time", axis.dim_param)
    return model


def check(model: onnx.ModelProto, names: ExportParams, config: ModelConfig, opset: int) -> None:
    """Hold the file to what was asked for.

    Raises:
        StageError: A name, an axis or the opset is another, or `onnx.checker` refuses the model.
    """
    expected: dict[str, list[int | str]] = {
        names.input_name: ["batch", "time" if names.dynamic_time else config.time_steps, len(config.features)],
        **({names.lengths_name: ["batch"]} if config.ragged else {}),
        names.output_name: ["batch", len(config.classes)],
    }
    found = {value.name: axes(value) for value in (*model.graph.input, *model.graph.output)}
    if names.dynamic_time and found[names.input_name][1] == TRACED_TIME:
        raise StageError(
            "export.dynamic_time = true: ONNX cannot carry a loop over the steps, which nn.RNN and cells are to it, "
            "for any number of them; instead: nn.GRU or nn.LSTM; allowed: false"
        )
    if found != expected:
        raise StageError(f"the exported graph's tensors are {found}; expected {expected}")
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("") != opset:
        raise StageError(f"the exported graph has opset {versions.get('')}; export_onnx.opset asks for {opset}")
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise StageError(f"the exported graph is not valid ONNX: {one_line(error)}") from None


def axes(value: onnx.ValueInfoProto) -> list[int | str]:
    """The axes of a tensor: a size, or the name of a dynamic one."""
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def main() -> None:
    """Read the arguments and the parameters; write the ONNX files."""
    args = parse_args(
        __doc__,
        inputs={"checkpoint": "the trained model"},
        outputs={"onnx": "the ONNX file", "stock?": "the one that it is compared with"},
    )
    names = read_params("export", ExportParams)
    params = read_params("export_onnx", Params)
    checkpoint = load_checkpoint(args.checkpoint)
    if left_out("onnx", names, [path for path in (args.onnx, args.stock) if path]):
        return
    files = export_onnx(checkpoint, names, params.opset)
    write_bytes(args.onnx, files.lean)
    if args.stock:
        write_bytes(args.stock, files.stock)


if __name__ == "__main__":
    run(main)
