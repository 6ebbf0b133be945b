"""Where a saved mlpackage keeps its model: the folder's format is Core ML's.

What a package says of its own parts is not trusted: each path in it is resolved here, and one that leads out of the
package is refused.
"""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from shared.files.quiet import import_coremltools
from shared.kit.stage import StageError, read_bytes, reading

MANIFEST = "Manifest.json"
WEIGHTS = "@model_path/weights/"
LONGEST_NAME, LONGEST_PATH = 255, 1000  # of a file, in bytes; of its path in the package, in characters


def inside(package: Path, name: str, said_by: Path) -> Path:
    """The path of a part of a package, by the name that a file of the package gives it.

    Args:
        package: The folder.
        name: The part's path below `Data/`, as the package spells it.
        said_by: The file that names it, for messages.

    Raises:
        StageError: The path is absolute, climbs out by `..`, or goes through a symbolic link that leaves the package.
    """
    item = PurePosixPath(name)
    too_long = len(name) > LONGEST_PATH or any(len(part.encode(errors="replace")) > LONGEST_NAME for part in item.parts)
    if not name or too_long or item.is_absolute() or ".." in item.parts or "\\" in name or not name.isprintable():
        raise StageError(f"{said_by}: names the path {_shortened(name)}, which is none inside the package")
    path = package / "Data" / item
    _check_link(package, path)
    return path


def _check_link(package: Path, path: Path) -> None:
    with reading(path, "part of its package"):
        target, root = path.resolve(), package.resolve()
    if not target.is_relative_to(root):
        raise StageError(f"{_shortened(str(path))}: a symbolic link that leads out of the package, to {target}")


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}…")


def all_files(package: Path) -> list[Path]:
    """Every file of a package, sorted.

    Raises:
        StageError: One is a symbolic link that leaves the package.
    """
    paths = sorted(package.rglob("*"))
    for path in paths:
        if path.is_symlink():
            _check_link(package, path)
    return [path for path in paths if path.is_file()]


def model_file(package: Path) -> Path:
    """The file with the model itself, which the package's manifest names.

    Raises:
        StageError: The package has no manifest that names one inside it.
    """
    manifest_file = package / MANIFEST
    _check_link(package, manifest_file)
    with reading(manifest_file, "manifest of a package"):
        manifest = json.loads(read_bytes(manifest_file))
        item = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        if not isinstance(item, str):
            raise ValueError(f"the root model's path is a {type(item).__name__}")
    return inside(package, item, manifest_file)


def read_model(package: Path) -> Any:
    """The package's model, as coremltools' protobuf message `Model`; its weights stay in their own file.

    Raises:
        StageError: The package is incomplete, its model is damaged or no ML Program, or keeps weights out of it.
    """
    import_coremltools()
    from coremltools.proto.Model_pb2 import Model

    file = model_file(package)
    with reading(file, "Core ML model"):
        model = Model.FromString(read_bytes(file))
        if model.WhichOneof("Type") != "mlProgram":
            raise ValueError(f"it holds {model.WhichOneof('Type') or 'no model'}; expected an mlProgram")
        for name in sorted(set(_weight_files(model))):
            weights = name.removeprefix(WEIGHTS)
            if weights == name or "/" in weights:
                raise ValueError(f"it keeps weights in {_shortened(name)}; expected a file in {WEIGHTS!r}")
            inside(package, str((file.parent / "weights" / weights).relative_to(package / "Data")), file)
    return model


def _weight_files(model: Any) -> Iterator[str]:
    for function in model.mlProgram.functions.values():
        for block in function.block_specializations.values():
            for operation in all_operations(block):
                values = [*operation.attributes.values()]
                for argument in operation.inputs.values():
                    values += [one.value for one in argument.arguments if one.WhichOneof("binding") == "value"]
                yield from (one.blobFileValue.fileName for one in values if one.WhichOneof("value") == "blobFileValue")


def all_operations(block: Any) -> Iterator[Any]:
    """Every operation of a program's block, those of nested blocks after the one that holds them."""
    for operation in block.operations:
        yield operation
        for nested in operation.blocks:
            yield from all_operations(nested)
