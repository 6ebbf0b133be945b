"""What all exporters ask for, and what every exported file says of itself: names, axes, classes, training figures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from shared.files.artifacts import BY_CHOICE, write_left_out
from shared.files.formats import FORMATS, Exported
from shared.kit.params import StageParams
from shared.kit.stage import StageError

from pydantic import Field, model_validator

if TYPE_CHECKING:  # `verify` needs the names alone, and torch takes two seconds to import
    from shared.network.model import Checkpoint, ModelConfig

    from torch import Tensor

IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]*$"
TRACED_BATCH, TRACED_TIME = 3, 7  # no sizes that an axis could also have by accident


class ExportParams(StageParams):
    """Section `export`: shared by all exporters, so that their files agree."""

    formats: list[Exported] = Field(min_length=1)
    input_name: str = Field(pattern=IDENTIFIER)
    lengths_name: str = Field(pattern=IDENTIFIER)
    output_name: str = Field(pattern=IDENTIFIER)
    dynamic_time: bool
    version: str = Field(min_length=1)
    description: str = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> "ExportParams":
        if len({self.input_name, self.lengths_name, self.output_name}) < 3:
            raise ValueError("input_name, lengths_name and output_name should be three names")
        return self


def left_out(
    file_format: Exported, names: ExportParams, paths: list[Path], why_missing: Callable[[], str | None] = lambda: None
) -> bool:
    """Write a note in place of each file of a format that nobody asks for, or that cannot be made on this machine.

    Args:
        file_format: The format.
        names: Section `export`, which says whether it is asked for.
        paths: Where its files go.
        why_missing: What this machine lacks for it, in words; None if nothing. Asked for only where it matters.

    Returns:
        Whether it is left out.
    """
    wanted = file_format in names.formats
    reason = why_missing() if wanted else BY_CHOICE
    if reason is None:
        return False
    if wanted:
        print(f"{FORMATS[file_format].title} is left out: {reason}")
    for path in paths:
        write_left_out(path, reason)
    return True


def example_inputs(config: "ModelConfig", names: ExportParams) -> "dict[str, Tensor]":
    """What the model is traced with, by the names in the exported file: sequences, and of ragged data their lengths.

    Raises:
        StageError: A dynamic time axis is asked of an architecture that has none.
    """
    import torch

    if names.dynamic_time and not config.any_time:
        raise StageError(
            f"export.dynamic_time = true: architecture {config.architecture!r} reads exactly {config.time_steps} time "
            "steps; allowed: false, or another architecture"
        )
    time = TRACED_TIME if names.dynamic_time else config.time_steps
    inputs = {names.input_name: torch.zeros(TRACED_BATCH, time, len(config.features))}
    if config.ragged:
        inputs[names.lengths_name] = torch.full((TRACED_BATCH,), time, dtype=torch.int32)
    return inputs


def describe(names: ExportParams, checkpoint: "Checkpoint") -> dict[str, str]:
    """The metadata of an exported file; `architecture`, `classes`, `features` and `training` are JSON."""
    config = checkpoint.model.config
    return {
        "architecture": json.dumps({"name": config.architecture, **config.options}),
        "classes": json.dumps(config.classes),
        "description": names.description,
        "features": json.dumps(config.features),
        "training": json.dumps(checkpoint.training),
        "version": names.version,
    }


def describe_tensors(names: ExportParams, config: "ModelConfig") -> dict[str, str]:
    """What is in each input and output, in words."""
    time = "time steps" if names.dynamic_time else f"{config.time_steps} time steps"
    values = ", raw values" if config.standardize else ""
    texts = {
        names.input_name: f"float32, (batch, {time}, features: {', '.join(config.features)}){values}",
        names.output_name: f"float32, (batch, classes: {', '.join(config.classes)}), unnormalised",
    }
    if config.ragged:
        texts[names.lengths_name] = (
            "int32, (batch): how many time steps of each sequence count, from the first; a number below 1 is taken as "
            "1, a number above the time steps as all of them"
        )
    return texts
