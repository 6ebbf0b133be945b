"""Export to Core ML: checkpoint in; one mlpackage a precision out, both with a float32 interface and ranged axes."""

import itertools
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

from shared.conversion.canonical import canonicalize_mlpackage
from shared.conversion.coreml_gru import register_gru
from shared.conversion.export import (
    TRACED_BATCH,
    TRACED_TIME,
    ExportParams,
    describe,
    describe_tensors,
    example_inputs,
    left_out,
)
from shared.conversion.failures import Unsupported, explained, refuse_known
from shared.conversion.rewriting import Rewriting
from shared.files.quiet import import_coremltools
from shared.kit.params import Count, StageParams, read_params
from shared.kit.stage import StageError, parse_args, replacing, run
from shared.network.model import Checkpoint, ModelConfig, SequenceClassifier, load_checkpoint

import numpy as np
import torch
from pydantic import model_validator

Precision = Literal["fp32", "fp16"]


class Params(StageParams):
    """Section `export_coreml`."""

    deployment_target: Literal["iOS15", "iOS16", "iOS17", "iOS18"]
    default_batch: Count
    largest_batch: Count
    largest_time: Count

    @model_validator(mode="after")
    def _default_within_range(self) -> "Params":
        if self.default_batch > self.largest_batch:
            raise ValueError(f"default_batch should be at most largest_batch ({self.largest_batch})")
        return self


def export_coreml(checkpoint: Checkpoint, names: ExportParams, params: Params, precision: Precision) -> Any:
    """Trace a model and `convert` it to an ML Program."""
    return convert(trace(checkpoint, names), checkpoint, names, params, precision)


def trace(checkpoint: Checkpoint, names: ExportParams) -> Any:
    """Trace a model, and hold the trace to it.

    TorchScript is deprecated, but the only way that works: coremltools 9.0 does not know `aten.lstm` from
    `torch.export`, and tracing an exported module bakes the batch size into the LSTM's state.

    Returns:
        A `torch.jit.ScriptModule`.

    Raises:
        StageError: An operation cannot be traced, or not for every size.
    """
    examples = example_inputs(checkpoint.model.config, names)
    with explained(checkpoint.model, "coreml"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript's deprecation
        refuse_known(checkpoint.model)
        with Rewriting():
            traced = torch.jit.trace(checkpoint.model, tuple(examples.values()), check_trace=False)
        check_trace(traced, checkpoint.model, names)
    return traced


def convert(traced: Any, checkpoint: Checkpoint, names: ExportParams, params: Params, precision: Precision) -> Any:
    """Convert a traced model to an ML Program; the trace stays as it is.

    Returns:
        A `coremltools.models.MLModel`.

    Raises:
        StageError: An operation cannot be converted, or not for every size.
    """
    ct = import_coremltools()
    register_gru()
    config = checkpoint.model.config
    passes = ct.PassPipeline.DEFAULT
    # For the Neural Engine, it would have sizes and indices cast to 16 bits and back: none of these nets gains by it.
    passes.remove_passes({"common::add_int16_cast"})
    batch = ct.RangeDim(lower_bound=1, upper_bound=params.largest_batch, default=params.default_batch)
    time = time_axis(config, names, params)
    axes = {names.input_name: (batch, time, len(config.features)), names.lengths_name: (batch,)}
    examples = example_inputs(config, names)
    with explained(checkpoint.model, "coreml"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript's deprecation
        model = ct.convert(
            traced,
            # Without a dtype of its own the interface of an fp16 program becomes float16 from iOS16 on.
            inputs=[ct.TensorType(name, axes[name], dtype=example.numpy().dtype) for name, example in examples.items()],
            outputs=[ct.TensorType(names.output_name, dtype=np.float32)],
            convert_to="mlprogram",
            minimum_deployment_target=ct.target[params.deployment_target],
            pass_pipeline=passes,
            compute_precision={
                "fp32": ct.precision.FLOAT32,
                "fp16": ct.transform.FP16ComputePrecision(
                    op_selector=lambda op: may_round(op, names.input_name, config.standardize)
                ),
            }[precision],
            skip_model_load=True,
        )
    model.short_description = names.description
    model.version = names.version
    texts = describe_tensors(names, config)
    for name in examples:
        model.input_description[name] = texts[name]
    model.output_description[names.output_name] = texts[names.output_name]
    model.user_defined_metadata.update(
        describe(names, checkpoint) | {"deployment_target": params.deployment_target}  # the oldest system that runs it
    )
    return model


def check_trace(traced: Any, model: SequenceClassifier, names: ExportParams) -> None:
    """A trace holds what was run: hold it to the net at other values and sizes, where a branch may go another way.

    Raises:
        Unsupported: It computes something else.
    """
    config = model.config
    generator = torch.Generator().manual_seed(0)
    times = (1, TRACED_TIME + 4) if names.dynamic_time else (config.time_steps,)
    for batch, time, scale in itertools.product((1, TRACED_BATCH + 2), times, (0.0, 1.0, -3.0, 100.0)):
        sequence = scale * torch.rand(batch, time, len(config.features), generator=generator)
        lengths = torch.full((batch,), (time + 1) // 2, dtype=torch.int32)
        inputs = (sequence, lengths) if config.ragged else (sequence,)
        with torch.inference_mode():
            try:
                expected = model(*inputs)
            except (RuntimeError, IndexError):  # made-up values are no row of a table, a short sequence fills no kernel
                continue
            try:
                found = traced(*inputs)
            except RuntimeError:  # of a size that the trace has fixed
                found = None
        if found is None or not torch.allclose(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise Unsupported("a branch on values or a size that is taken as a number")


def time_axis(config: ModelConfig, names: ExportParams, params: Params) -> Any:
    """The time axis of the input: a fixed size, or a range.

    Raises:
        StageError: The range would not reach the length that the model was trained with.
    """
    if not names.dynamic_time:
        return config.time_steps
    if params.largest_time < config.time_steps:
        raise StageError(
            f"export_coreml.largest_time = {params.largest_time}: should be at least {config.time_steps}, the time "
            "steps of the data"
        )
    ct = import_coremltools()
    return ct.RangeDim(lower_bound=1, upper_bound=params.largest_time, default=config.time_steps)


def may_round(operation: Any, input_name: str, standardize: bool) -> bool:
    """Whether an op of a half-precision program is computed in half precision: all but three parts.

    One standardises raw values, which may be too large for float16 (65504) or too close to each other. One makes
    positions and masks out of step numbers, which float16 cannot count above 2048; it is small, and the same for all
    features. And one collects the states of a GRU: what a loop passes on stays in float32, so that in half precision
    every step would cast the states of all steps there and back.
    """
    if (standardize and standardizes(operation, input_name)) or operation.op_type == "scatter":
        return False
    found = sources(operation, input_name)
    return not found or input_name in found


def standardizes(operation: Any, input_name: str) -> bool:
    """Whether an op subtracts the mean from the input, or divides what that gives by the deviation."""
    if operation.op_type not in {"sub", "real_div", "mul"} or operation.y.val is None:
        return False
    return operation.x.name == input_name or (operation.x.op is not None and standardizes(operation.x.op, input_name))


def sources(operation: Any, input_name: str) -> set[str]:
    """What an op's values follow from: inputs, by name, and step numbers, as "range_1d". A shape counts for nothing."""
    found: set[str] = set()
    waiting, seen = [operation], set()
    while waiting:
        current = waiting.pop()
        if current in seen or current.op_type == "shape":
            continue
        seen.add(current)
        if current.blocks or current.enclosing_block.outer_op:  # a loop over the time steps of the input
            found.add(input_name)
        if current.op_type == "range_1d":
            found.add("range_1d")
        values = current.get_flattened_inputs()
        found |= {value.name for value in values if value.op is None}
        waiting += [value.op for value in values if value.op is not None]
    return found


def save(model: Any, path: Path) -> None:
    """Save the package with stable bytes."""
    with replacing(path) as beside:
        model.save(str(beside))
        canonicalize_mlpackage(beside)


def main() -> None:
    """Read the arguments and the parameters; write the packages."""
    precisions = get_args(Precision)
    args = parse_args(
        __doc__,
        inputs={"checkpoint": "the trained model"},
        outputs={precision: f"the {precision} package" for precision in precisions},
    )
    names = read_params("export", ExportParams)
    params = read_params("export_coreml", Params)
    checkpoint = load_checkpoint(args.checkpoint)
    paths = [getattr(args, precision) for precision in precisions]
    if left_out("coreml", names, paths):
        return
    traced = trace(checkpoint, names)
    for precision, path in zip(precisions, paths, strict=True):
        save(convert(traced, checkpoint, names, params, precision), path)


if __name__ == "__main__":
    run(main)
