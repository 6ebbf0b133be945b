"""What every exported file says of itself: tensor names, classes, version and training figures."""

import json

from shared.params import StageParams

from pydantic import Field


class ExportParams(StageParams):
    """Section `export`: shared by both exporters, so that their files agree."""

    input_name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    output_name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    version: str = Field(min_length=1)
    description: str = Field(min_length=1)


def describe(
    names: ExportParams, classes: list[str], features: list[str], training: dict[str, float]
) -> dict[str, str]:
    """The metadata of an exported file; `classes`, `features` and `training` are JSON."""
    return {
        "classes": json.dumps(classes),
        "description": names.description,
        "features": json.dumps(features),
        "training": json.dumps(training),
        "version": names.version,
    }
