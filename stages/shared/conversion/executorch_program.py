"""A checkpoint in; an ExecuTorch program for XNNPACK out, with a bounded batch axis."""

import contextlib
import io
import json
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from shared.conversion.export import ExportParams, describe, describe_tensors, example_inputs
from shared.conversion.failures import explained, module_of, refuse_known
from shared.conversion.rewriting import Watching
from shared.files.pte import METADATA, import_executorch
from shared.files.quiet import quiet
from shared.kit.stage import StageError
from shared.network.model import Checkpoint

import torch


@dataclass(frozen=True)
class Converted:
    """A program, not tried yet.

    Attributes:
        content: The file's bytes.
        modules: The operators that the runtime must have a kernel for, such as `aten::mean.out`, each with the module
            of the net that calls it first.
    """

    content: bytes
    modules: dict[str, str]


def convert(checkpoint: Checkpoint, names: ExportParams, largest_batch: int) -> Converted:
    """Convert a checkpoint.

    Args:
        checkpoint: The trained net.
        names: Of the tensors; the program has none, so that they go into its metadata.
        largest_batch: That the program takes: its memory is planned for it.

    Raises:
        StageError: An operation cannot be converted, or a batch of another size than the traced one.
    """
    model = checkpoint.model
    if names.dynamic_time:
        raise StageError(
            "export.dynamic_time = true: ExecuTorch reads the data's number of time steps alone; allowed: false, or "
            "export.formats without executorch"
        )
    inputs = example_inputs(model.config, names)
    batch = torch.export.Dim("batch", min=1, max=largest_batch)
    metadata = describe(names, checkpoint) | {
        "executorch": version("executorch"),
        "tensors": json.dumps(describe_tensors(names, model.config)),
        "inputs": json.dumps(list(inputs)),
        "outputs": json.dumps([names.output_name]),
    }
    exir = import_executorch("exir")
    xnnpack = import_executorch("backends.xnnpack.partition.xnnpack_partitioner")
    stdout = contextlib.redirect_stdout(io.StringIO())
    with explained(model, "executorch"), warnings.catch_warnings(), quiet(), stdout, Watching():
        warnings.simplefilter("ignore")  # torch's deprecations; that the file computes is checked by running it
        refuse_known(model)
        # Traced with the largest batch: what a trace with a small one concludes may silently bound the batch by 15.
        traced = torch.export.export(
            model,
            tuple(part[:1].expand(largest_batch, *part.shape[1:]).contiguous() for part in inputs.values()),
            dynamic_shapes={"sequence": {0: batch}} | ({"lengths": {0: batch}} if model.config.ragged else {}),
        )
        lowered = exir.to_edge_transform_and_lower(
            traced,
            partitioner=[xnnpack.XnnpackPartitioner()],
            constant_methods={METADATA: json.dumps(metadata, sort_keys=True)},
            # Its checks compare sizes, and so fix the batch of a GRU or a transformer without a word.
            compile_config=exir.EdgeCompileConfig(_check_ir_validity=False),
        )
        found = lowered.exported_program().graph_signature.user_inputs
        axis = (
            next(node for node in lowered.exported_program().graph.nodes if node.name == found[0]).meta["val"].shape[0]
        )
        program = lowered.to_executorch()
        converted = Converted(bytes(program.buffer), _modules(program.exported_program().graph))
    if isinstance(axis, int):
        raise StageError(
            f"the batch came out of fixed size {axis} in ExecuTorch; the net takes it as a number somewhere; or leave "
            "ExecuTorch out: export.formats"
        )
    return converted


def _modules(graph: Any) -> dict[str, str]:
    """Operator to the module that calls it first."""
    found: dict[str, str] = {}
    for node in graph.nodes:
        if hasattr(node.target, "_schema"):
            found.setdefault(node.target.name(), module_of(node) or "network")
    return found
