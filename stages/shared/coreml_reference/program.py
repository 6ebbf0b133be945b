"""Read a saved mlpackage: its manifest, its description, its weights and the program inside.

Every file is checked before coremltools' own loader sees it, so that a damaged package gets one clear line.
"""

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from shared.coreml_reference.errors import (
    CoreMLReferenceError,
    PackageError,
    UnsupportedError,
    one_line,
    reported,
    shortened,
)
from shared.coreml_reference.features import LARGEST_TENSOR, Feature, read_feature
from shared.coreml_reference.quiet import import_coremltools

DeclaredShape = tuple[int | None, ...]

WEIGHTS = "@model_path/weights/"
BLOB_HEADER = struct.Struct("<II")  # number of blobs, version of the format
BLOB_ENTRY = struct.Struct("<IIQQ")  # sentinel, data type, bytes of data, offset of the data
BLOB_VERSION = 2
BLOB_SENTINEL = 0xDEADBEEF
LARGEST_FILE = 2**31 - 1  # the limit of protobuf


@dataclass(frozen=True)
class SavedProgram:
    """One function of a saved package.

    Attributes:
        path: The package.
        function_name: The function that was asked for, or the default one.
        function_names: Every function that the package holds.
        inputs, outputs, states: What the model's description says of them, by name.
        user_defined_metadata: The metadata that whoever saved the model gave it.
        specification_version: The package's format; 6 is iOS15, 9 is iOS18.
        function: The program as coremltools builds it in memory (a PyMIL `Function`).
        declared_shapes: The shape that the file declares for each result by name; None is a size known only at run
            time. coremltools infers shapes anew on loading, and what it infers can be less than what the file says.
    """

    path: Path
    function_name: str
    function_names: tuple[str, ...]
    inputs: dict[str, Feature]
    outputs: dict[str, Feature]
    states: dict[str, Feature]
    user_defined_metadata: dict[str, str]
    specification_version: int
    function: Any
    declared_shapes: dict[str, DeclaredShape]

    @property
    def operations(self) -> list[Any]:
        """Every op but constants, in order, those of nested blocks after the op that holds them."""
        return [operation for operation in _operations(self.function) if operation.op_type != "const"]


def load_program(path: Path | str, function_name: str | None = None) -> SavedProgram:
    """Read one function of a package; every way in which the package can be bad raises a `PackageError`."""
    with reported(PackageError, path):
        return _load_program(Path(path), function_name)


def _load_program(path: Path, function_name: str | None) -> SavedProgram:
    model_file = _model_file(path)
    spec = _read_spec(model_file)
    functions = tuple(sorted(spec.mlProgram.functions))
    description = spec.description
    name = function_name or description.defaultFunctionName or "main"
    if name not in functions:
        raise PackageError(f"{path}: no function {name!r}; the package has {', '.join(functions) or 'none'}")
    for other in functions:
        if other != name:  # so that only the asked function's weights are read
            del spec.mlProgram.functions[other]
    features = next((entry for entry in description.functions if entry.name == name), description)
    inputs, outputs, states = (
        _features(part, model_file) for part in (features.input, features.output, features.state)
    )
    declared = _check_function(spec.mlProgram.functions[name], path, model_file)
    function = _load_pymil(spec, model_file).functions[name]
    _check_constants(spec.mlProgram.functions[name], function, model_file)
    _check_names(model_file, "inputs", {*inputs, *states}, set(function.inputs))
    _check_names(model_file, "outputs", set(outputs), {variable.name for variable in function.outputs})
    return SavedProgram(
        path=path,
        function_name=name,
        function_names=functions,
        inputs=inputs,
        outputs=outputs,
        states=states,
        user_defined_metadata=dict(description.metadata.userDefined),
        specification_version=spec.specificationVersion,
        function=function,
        declared_shapes=declared,
    )


def _check_names(model_file: Path, kind: str, described: set[str], found: set[str]) -> None:
    if described != found:
        raise PackageError(
            f"{model_file}: its description has the {kind} {sorted(described)}, its program {sorted(found)}"
        )


def _features(descriptions: Any, model_file: Path) -> dict[str, Feature]:
    features = {}
    for description in descriptions:
        try:
            feature = read_feature(description)
        except KeyError as error:
            raise PackageError(f"{model_file}: {description.name!r} is of the unknown type {error}") from None
        if any(size < 0 for size in feature.shape) or prod(feature.shape) > LARGEST_TENSOR:
            raise PackageError(
                f"{model_file}: {feature.name!r} has the shape {feature.shape}, which no memory can hold"
            )
        features[feature.name] = feature
    return features


def _model_file(path: Path) -> Path:
    """Find the file with the model through the package's manifest, which is not trusted: see `_inside`."""
    if not path.exists():
        raise PackageError(f"{path}: no such package")
    if not path.is_dir():
        raise PackageError(f"{path}: a file; a .mlpackage is a folder")
    manifest_file = _inside(path, PurePosixPath("Manifest.json"))
    if not manifest_file.is_file():
        raise PackageError(f"{path}: no Manifest.json in it; every .mlpackage has one")
    try:
        manifest = json.loads(_content(manifest_file))
        name = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        if not isinstance(name, str):
            raise TypeError(f"its path is a {type(name).__name__}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PackageError(
            f"{manifest_file}: does not name the root model ({type(error).__name__}: {one_line(error)})"
        ) from None
    item = PurePosixPath(name)
    if not name or item.is_absolute() or ".." in item.parts or not name.isprintable():
        raise PackageError(f"{manifest_file}: the root model's path {shortened(repr(name))} leads out of the package")
    model_file = _inside(path, "Data" / item)
    if not model_file.is_file():
        raise PackageError(f"{model_file}: missing, though the manifest names it")
    return model_file


def _inside(package: Path, item: PurePath) -> Path:
    """A part of the package; one that a symbolic link takes out of it is refused, whatever it leads to."""
    path = package / item
    with reported(PackageError, shortened(str(path))):
        target = path.resolve()
        if not target.is_relative_to(package.resolve()):
            raise PackageError(f"{path}: a symbolic link that leads out of the package, to {target}")
    return path


def _content(file: Path) -> bytes:
    """A file as a whole; none of those that are read so can be larger than protobuf allows."""
    size = file.stat().st_size
    if size > LARGEST_FILE:
        raise PackageError(f"{file}: {size} bytes; at most {LARGEST_FILE} are possible")
    return file.read_bytes()


def _read_spec(model_file: Path) -> Any:
    import_coremltools()
    from coremltools.proto.Model_pb2 import Model
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    content = _content(model_file)
    spec = Model()
    try:
        spec.ParseFromString(content)
    except DecodeError:
        raise PackageError(
            f"{model_file}: {len(content)} bytes that are no complete Core ML model; truncated or damaged"
        ) from None
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise PackageError(f"{model_file}: holds {kind or 'no model'}; expected an mlProgram")
    return spec


def _check_function(function: Any, package: Path, model_file: Path) -> dict[str, DeclaredShape]:
    """Check every op and weight of one function against the files; return the shapes that it declares."""
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    weights: dict[str, int] = {}
    shapes: dict[str, DeclaredShape] = {}
    if function.opset not in function.block_specializations:
        raise PackageError(f"{model_file}: the program has no block for its opset {function.opset!r}")
    for operation in _stored_operations(function.block_specializations[function.opset]):
        if operation.type == "custom_layer":
            raise UnsupportedError(f"{model_file}: holds a custom layer, which only its author's code can compute")
        if operation.type != "write_state" and operation.type not in SSAOpRegistry.core_ops:
            raise PackageError(f"{model_file}: unknown op {operation.type!r}")
        for value in _values(operation):
            if value.WhichOneof("value") == "blobFileValue":
                _check_blob(value, package, model_file, weights)
        for output in operation.outputs:
            if output.type.WhichOneof("type") == "tensorType":
                shape = tuple(
                    dim.constant.size if dim.WhichOneof("dimension") == "constant" else None
                    for dim in output.type.tensorType.dimensions
                )
                # coremltools' loader would compute what follows from constants alone.
                if prod(size or 1 for size in shape) > LARGEST_TENSOR:
                    raise PackageError(f"{model_file}: {output.name!r} has the shape {shape}, which no memory can hold")
                shapes[output.name] = shape
    return shapes


def _check_constants(stored: Any, function: Any, model_file: Path) -> None:
    """Check the types that the file declares of constants, which coremltools leaves unchecked, unlike other results'.

    Args:
        stored: The function in the file.
        function: The same in memory, where each constant has the type of its value.
        model_file: The file, for messages.
    """
    from coremltools.converters.mil.frontend.milproto.helper import proto_to_types

    values = {
        variable.name: variable.sym_type
        for operation in _operations(function)
        for variable in operation.outputs
        if _is_constant(operation.op_type)
    }
    for operation in _stored_operations(stored.block_specializations[stored.opset]):
        for output in operation.outputs if _is_constant(operation.type) else ():
            found, declared = values.get(output.name), proto_to_types(output.type)
            if found is None or _agree(found, declared):
                continue
            raise PackageError(
                f"{model_file}: {operation.type} {output.name!r} holds {_type_text(found)}; declared "
                f"{_type_text(declared)}"
            )


def _agree(found: Any, declared: Any) -> bool:
    """Whether a value's type is the declared one; a size that the file leaves open agrees with any."""
    from coremltools.converters.mil.mil import types

    if not types.is_tensor(found) and not types.is_tensor(declared):
        return bool(found == declared) or bool(types.is_compatible_type(found, declared))
    (dtype, shape), (declared_dtype, declared_shape) = (
        (kind.get_primitive(), kind.get_shape()) if types.is_tensor(kind) else (kind, ()) for kind in (found, declared)
    )
    return (
        dtype == declared_dtype
        and len(shape) == len(declared_shape)
        and all(size == known for size, known in zip(shape, declared_shape, strict=True) if isinstance(known, int))
    )


def _is_constant(op_type: str) -> bool:
    return op_type == "const" or op_type.startswith("constexpr_")


def _operations(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        for nested in operation.blocks:
            yield from _operations(nested)


def _type_text(kind: Any) -> str:
    from coremltools.converters.mil.mil import types

    if not types.is_tensor(kind):
        return str(types.builtin_to_string(kind))
    return f"{types.builtin_to_string(kind.get_primitive())} {tuple(kind.get_shape())}"


def _stored_operations(block: Any) -> Iterator[Any]:
    """Every operation of a stored block, those of nested blocks after the one that holds them."""
    for operation in block.operations:
        yield operation
        for nested in operation.blocks:
            yield from _stored_operations(nested)


def _values(operation: Any) -> Iterator[Any]:
    yield from operation.attributes.values()
    for argument in operation.inputs.values():
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "value":
                yield binding.value


def _check_blob(value: Any, package: Path, model_file: Path, sizes: dict[str, int]) -> None:
    """Check that a weight lies wholly inside its file and has as many bytes as its type says."""
    reference = value.blobFileValue.fileName
    name = reference.removeprefix(WEIGHTS)
    if name == reference or "/" in name or "\\" in name or name in {"", ".", ".."} or not name.isprintable():
        raise PackageError(f"{model_file}: a weight is in {shortened(repr(reference))}; expected a file in {WEIGHTS!r}")
    file = _inside(package, (model_file.parent / "weights" / name).relative_to(package))
    if name not in sizes:
        sizes[name] = _blob_file_size(file)
    offset, expected = value.blobFileValue.offset, _stored_bytes(value.type.tensorType, model_file)
    if offset + BLOB_ENTRY.size > sizes[name]:
        raise PackageError(f"{file}: {sizes[name]} bytes, but a weight starts at {offset}; truncated or damaged")
    with file.open("rb") as stream:
        stream.seek(offset)
        sentinel, _, stored, start = BLOB_ENTRY.unpack(stream.read(BLOB_ENTRY.size))
    if sentinel != BLOB_SENTINEL:
        raise PackageError(f"{file}: no weight at offset {offset} (found {sentinel:#x}, expected {BLOB_SENTINEL:#x})")
    if stored != expected:
        raise PackageError(f"{file}: the weight at offset {offset} has {stored} bytes; the program expects {expected}")
    if start + stored > sizes[name]:
        raise PackageError(
            f"{file}: {sizes[name]} bytes, but the weight at {offset} ends at {start + stored}; truncated or damaged"
        )


def _blob_file_size(file: Path) -> int:
    if not file.is_file():
        raise PackageError(f"{file}: missing, though the program keeps weights in it")
    size = file.stat().st_size
    with file.open("rb") as stream:
        header = stream.read(BLOB_HEADER.size)
    version = BLOB_HEADER.unpack(header)[1] if len(header) == BLOB_HEADER.size else None
    if version != BLOB_VERSION:
        raise PackageError(
            f"{file}: not a file of weights ({size} bytes, format version {version}; expected {BLOB_VERSION})"
        )
    return size


def _stored_bytes(tensor: Any, model_file: Path) -> int:
    from coremltools.converters.mil.mil import types

    kind = types.PROTO_TO_BUILTIN_TYPE.get(tensor.dataType)
    if not hasattr(kind, "get_bitwidth"):
        raise PackageError(f"{model_file}: a weight has the data type {tensor.dataType}; expected one of numbers")
    elements = prod(dim.constant.size for dim in tensor.dimensions)
    return int(-(-elements * kind.get_bitwidth() // 8))


def _load_pymil(spec: Any, model_file: Path) -> Any:
    """Build the program in memory: the one place that uses coremltools' loader, which is not public."""
    from coremltools.converters.mil.frontend.milproto.load import load

    try:
        with _mixed_precision_allowed():
            return load(spec, spec.specificationVersion, str(model_file.parent / "weights"))
    except CoreMLReferenceError:
        raise
    except Exception as error:
        raise PackageError(f"{model_file}: not a valid program ({type(error).__name__}: {one_line(error)})") from error


@contextmanager
def _mixed_precision_allowed() -> Iterator[None]:
    """Let an op's inputs differ in precision while a program loads.

    coremltools saves what it does not load: the `epsilon` that a half-precision `batch_norm` leaves out is stored as
    float32, and loading then refuses the op for it. Core ML runs such programs.
    """
    from coremltools.converters.mil.mil.input_type import InputSpec

    validate = InputSpec.validate_inputs

    def validate_rest(self: Any, op_name: str, op_type: str, candidate_kvs: dict[str, Any]) -> None:
        try:
            validate(self, op_name, op_type, candidate_kvs)
        except ValueError as error:
            if "must have the same data type" not in str(error):
                raise

    InputSpec.validate_inputs = validate_rest
    try:
        yield
    finally:
        InputSpec.validate_inputs = validate
