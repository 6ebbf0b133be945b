"""What every exported file says of itself: tensor names, classes, version and training figures."""

import json
from typing import TYPE_CHECKING

from shared.params import StageParams

from pydantic import Field

if TYPE_CHECKING:  # a stage that only needs the names does not load torch
    from shared.model import Checkpoint


class ExportParams(StageParams):
    """Section `export`: shared by both exporters, so that their files agree."""

    input_name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    output_name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    version: str = Field(min_length=1)
    description: str = Field(min_length=1)


def describe(checkpoint: "Checkpoint", names: ExportParams) -> dict[str, str]:
    """The metadata of an exported file; `classes` and `training` are JSON."""
    return {
        "classes": json.dumps(checkpoint.model.config.classes),
        "description": names.description,
        "features": json.dumps(checkpoint.model.config.features),
        "training": json.dumps(checkpoint.training),
        "version": names.version,
    }
