"""Export to Core ML: checkpoint in; one mlpackage a precision out, both with a float32 interface and a ranged batch."""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

from shared.canonical import canonicalize_mlpackage
from shared.export import ExportParams, describe
from shared.model import Checkpoint, load_checkpoint
from shared.params import Count, StageParams, read_params
from shared.quiet import import_coremltools
from shared.stage import parse_args, replacing, run

import numpy as np
import torch
from pydantic import model_validator

TRACED_BATCH = 3  # no size that a shape could also have by accident
Precision = Literal["fp32", "fp16"]


class Params(StageParams):
    """Section `export_coreml`."""

    deployment_target: Literal["iOS15", "iOS16", "iOS17", "iOS18"]
    default_batch: Count
    largest_batch: Count

    @model_validator(mode="after")
    def _default_within_range(self) -> "Params":
        if self.default_batch > self.largest_batch:
            raise ValueError(f"default_batch should be at most largest_batch ({self.largest_batch})")
        return self


def export_coreml(checkpoint: Checkpoint, names: ExportParams, params: Params, precision: Precision) -> Any:
    """Convert a traced model to an ML Program.

    TorchScript is deprecated, but the only way that works: coremltools 9.0 does not know `aten.lstm` from
    `torch.export`, and tracing an exported module bakes the batch size into the LSTM's state.

    Returns:
        A `coremltools.models.MLModel`.
    """
    ct = import_coremltools()
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    config = checkpoint.model.config
    passes = ct.PassPipeline.DEFAULT
    # For the Neural Engine, it would have sizes and indices cast to 16 bits and back: none of these nets gains by it.
    passes.remove_passes({"common::add_int16_cast"})
    batch = ct.RangeDim(lower_bound=1, upper_bound=params.largest_batch, default=params.default_batch)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # the converter's own progress bars
        warnings.simplefilter("ignore")  # TorchScript's deprecation
        traced = torch.jit.trace(checkpoint.model, torch.zeros(TRACED_BATCH, config.time_steps, len(config.features)))
        model = ct.convert(
            traced,
            # Without a dtype of its own the interface of an fp16 program becomes float16 from iOS16 on.
            inputs=[
                ct.TensorType(names.input_name, (batch, config.time_steps, len(config.features)), dtype=np.float32)
            ],
            outputs=[ct.TensorType(names.output_name, dtype=np.float32)],
            convert_to="mlprogram",
            minimum_deployment_target=ct.target[params.deployment_target],
            pass_pipeline=passes,
            compute_precision={"fp32": ct.precision.FLOAT32, "fp16": ct.precision.FLOAT16}[precision],
            skip_model_load=True,
        )
    model.short_description = names.description
    model.version = names.version
    model.input_description[names.input_name] = (
        f"float32, (batch, {config.time_steps} time steps, features: {', '.join(config.features)})"
    )
    model.output_description[names.output_name] = (
        f"float32, (batch, classes: {', '.join(config.classes)}), unnormalised"
    )
    model.user_defined_metadata.update(describe(names, config.classes, config.features, checkpoint.training))
    return model


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
    for precision in precisions:
        save(export_coreml(checkpoint, names, params, precision), getattr(args, precision))


if __name__ == "__main__":
    run(main)
