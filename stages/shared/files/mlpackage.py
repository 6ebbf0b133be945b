"""Where a saved mlpackage keeps its model: the folder's format is Core ML's."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.files.quiet import import_coremltools
from shared.stage import StageError, one_line

MANIFEST = "Manifest.json"


def model_file(package: Path) -> Path:
    """The file with the model itself, which the package's manifest names.

    Raises:
        StageError: The package has no manifest that names one.
    """
    manifest_file = package / MANIFEST
    try:
        manifest = json.loads(manifest_file.read_bytes())
        item = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(f"{manifest_file}: does not name the package's model: {one_line(error)}") from None
    return package / "Data" / str(item)


def read_model(package: Path) -> Any:
    """The package's model, as coremltools' protobuf message `Model`; its weights stay in their own file.

    Raises:
        StageError: The package is incomplete, or its model is damaged.
    """
    import_coremltools()
    from coremltools.proto.Model_pb2 import Model
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    file = model_file(package)
    try:
        return Model.FromString(file.read_bytes())
    except (OSError, DecodeError) as error:
        raise StageError(f"{file}: not a readable Core ML model: {one_line(error)}") from None


def all_operations(block: Any) -> Iterator[Any]:
    """Every operation of a program's block, those of nested blocks after the one that holds them."""
    for operation in block.operations:
        yield operation
        for nested in operation.blocks:
            yield from all_operations(nested)
