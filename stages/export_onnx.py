"""Export to ONNX: checkpoint in; one float32 ONNX file out, with a dynamic, named batch axis and the leanest graph."""

import logging
import warnings

from shared.canonical import canonical_onnx
from shared.export import ExportParams, describe
from shared.lean_graph import simplify
from shared.model import Checkpoint, load_checkpoint
from shared.params import StageParams, read_params
from shared.stage import StageError, one_line, parse_args, run, write_bytes

import onnx
import torch
from pydantic import Field

TRACED_BATCH = 3  # no size that a shape could also have by accident


class Params(StageParams):
    """Section `export_onnx`."""

    opset: int = Field(ge=18, le=25)


def export_onnx(checkpoint: Checkpoint, names: ExportParams, opset: int) -> bytes:
    """Convert through `torch.export`, simplify the graph, and return the file's bytes.

    Raises:
        StageError: The batch axis came out fixed, or the file is not valid ONNX.
    """
    config = checkpoint.model.config
    example = torch.zeros(TRACED_BATCH, config.time_steps, len(config.features))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations; what matters is checked below
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            checkpoint.model,
            (example,),
            dynamo=True,
            dynamic_shapes={"sequence": {0: torch.export.Dim("batch")}},
            input_names=[names.input_name],
            output_names=[names.output_name],
            opset_version=opset,
            verbose=False,
        )
    assert program is not None
    simplify(program.model)
    content = canonical_onnx(program.model_proto, describe(names, config.classes, config.features, checkpoint.training))
    check(onnx.load_from_string(content), names, config.time_steps, len(config.features), len(config.classes), opset)
    return content


def check(
    model: onnx.ModelProto, names: ExportParams, time_steps: int, features: int, classes: int, opset: int
) -> None:
    """Hold the file to what was asked for.

    Raises:
        StageError: A name, an axis or the opset is another, or `onnx.checker` refuses the model.
    """
    expected = {
        names.input_name: ["batch", time_steps, features],
        names.output_name: ["batch", classes],
    }
    found = {value.name: axes(value) for value in (*model.graph.input, *model.graph.output)}
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
    """Read the arguments and the parameters; write the ONNX file."""
    args = parse_args(__doc__, inputs={"checkpoint": "the trained model"}, outputs={"onnx": "the ONNX file"})
    names = read_params("export", ExportParams)
    params = read_params("export_onnx", Params)
    checkpoint = load_checkpoint(args.checkpoint)
    write_bytes(args.onnx, export_onnx(checkpoint, names, params.opset))


if __name__ == "__main__":
    run(main)
