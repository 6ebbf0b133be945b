"""What a saved Core AI asset holds: a folder with the program as MLIR bytecode, its hash, and metadata.

Apple's packages are for Linux on x86-64 and for macOS 26 on Apple silicon. Elsewhere the format is left out.
"""

import hashlib
import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

from shared.files.quiet import without_messages
from shared.kit import importing
from shared.kit.stage import StageError, one_line, read_bytes, reading

import numpy as np
from numpy.typing import NDArray

COMPRESSOR = "coreai_opt"
PROGRAM, DIGEST = "main.mlirb", "main.hash"
"""Files of an asset: the program, and its SHA-256."""
MAIN = "main"
"""The graph that an exported file runs."""
RESTORING = {"coreai.blockwise_shift_scale", "coreai.lut_to_dense", "coreai.sparse_with_bitmask_to_dense"}
"""Ops that restore a compressed weight."""
PARTS = RESTORING | {"coreai.build_sparse_with_bitmask"}
ENDS = {"coreai.graph", "coreai.output"}
"""What only holds the others, or ends them."""
PREFIXES = ("coreai.decomposable.", "coreaix.", "coreai.")
NARROW = {"f16": "float16", "f32": "float32", "f64": "float64", "bf16": "bfloat16", "i1": "uint1"}


def import_coreai(name: str = "coreai.authoring") -> ModuleType:
    """Import a module of Core AI's packages, without what they say about the installed torch.

    Raises:
        ImportError: It is not installed, or not for this machine.
    """
    with importing(), without_messages(logging.ERROR):
        # The dialect's modules import each other in a circle that only this one enters at the right place.
        importlib.import_module("coreai.authoring")
        if name.startswith(f"{COMPRESSOR}."):
            _enter_without_running(COMPRESSOR)
        return importlib.import_module(name)


def _enter_without_running(package: str) -> None:
    """Make a package's modules importable without what its own `__init__` imports: of coreai-opt, a second of torchao.

    Raises:
        ImportError: It is not installed.
    """
    if package not in sys.modules:
        found = importlib.util.find_spec(package)
        if found is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        found.loader = None
        sys.modules[package] = importlib.util.module_from_spec(found)


def why_missing(*names: str) -> str | None:
    """Why Core AI cannot be had on this machine, in words; None if it can.

    Args:
        names: The modules that are needed beside the runtime.
    """
    try:
        for name in ("coreai.authoring", *names):
            import_coreai(name)
    except ImportError as error:
        return f"it cannot be had on this machine ({one_line(error)}); see requirements-coreai.txt"
    return None


class Program:
    """The program of an asset, as it lies on the disk. Its ops live for as long as it does.

    Attributes:
        operations: Every op of every graph, in order; those of nested blocks after the one that holds them.
    """

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            StageError: It is damaged.
        """
        authoring = import_coreai()
        with reading(path, "Core AI asset"):
            check_hash(path)
            self.program = authoring.AIModelAsset.load(path).program
        self.operations = list(_operations(self.program._module._mlir_module.operation))


def check_hash(path: Path) -> None:
    """Hold an asset's program to the hash beside it: Apple's parser ends the process over a damaged one.

    Raises:
        StageError: One of the two is missing, or it is another program's hash.
    """
    with reading(path, "Core AI asset"):
        if hashlib.sha256(read_bytes(path / PROGRAM)).digest() != read_bytes(path / DIGEST):
            raise StageError(f"{path}: damaged: {DIGEST} is not the hash of {PROGRAM}")


def _operations(operation: Any) -> Iterator[Any]:
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner.operation
                yield from _operations(inner.operation)


def short_name(operation: Any) -> str:
    """An op's name without its dialect."""
    name = str(operation.name)
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)


def maker_of(value: Any) -> Any:
    """The op that computes a value; None of an argument of a graph or block."""
    owner = value.owner
    return owner if hasattr(owner, "operands") else None


def is_constant(operation: Any) -> bool:
    """Whether an op holds a tensor."""
    return operation is not None and operation.name == "coreai.constant"


def is_tensor(value: Any) -> bool:
    """Whether a value is one: others are sparse, or tell ops their order."""
    return hasattr(value.type, "element_type")


def element_type(value: Any) -> str:
    """The type of a tensor's elements, such as `float32`, `int4` or `uint6`."""
    kind = str(value.type.element_type)
    return NARROW.get(kind) or kind.replace("ui", "uint").replace("si", "int")


def bits_of(kind: str) -> int:
    """Of an element: 6 of `uint6`."""
    return int("".join(filter(str.isdigit, kind)))


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of a tensor whose sizes are all known."""
    return tuple(value.type.shape)


def constant_array(operation: Any) -> NDArray[Any]:
    """The tensor of a `coreai.constant`; numbers of fewer than 8 bits lie one after the other, lowest bits first.

    Raises:
        StageError: Its type is none that a weight is stored in.
    """
    value = operation.results[0]
    kind, shape = element_type(value), shape_of(value)
    bits = bits_of(kind)
    data = _bytes_of(operation, -(-prod(shape) * bits // 8))
    if bits < 8:
        digits = np.unpackbits(data, bitorder="little")[: prod(shape) * bits].reshape(-1, bits)
        numbers = (digits << np.arange(bits, dtype=np.uint8)).sum(axis=1, dtype=np.int16)
        if kind.startswith("int"):
            numbers = np.where(numbers >= 1 << (bits - 1), numbers - (1 << bits), numbers)
        small: NDArray[Any] = numbers.astype(np.uint8 if kind.startswith("uint") else np.int8)
        return small.reshape(shape)
    if kind == "bfloat16" or not hasattr(np, kind):
        raise StageError(f"a tensor of {kind}, which nothing here reads")
    array: NDArray[Any] = data.view(kind).reshape(shape).copy()
    return array


def _bytes_of(operation: Any, count: int) -> NDArray[np.uint8]:
    """The bytes of a constant's value, whichever way it is held: element by element, as a repeated one, as a blob."""
    bindings = import_coreai("coreai._compiler._mlir_libs._coreaiIR")._bindings
    data = np.zeros(count, np.uint8)
    bindings.compiler.copy_constant_value_to_array(constant_op=operation, destination=data)
    return data


def metadata_of(path: Path) -> dict[str, str]:
    """What an exporter wrote into an asset's metadata, and its description."""
    with reading(path, "Core AI asset"):
        metadata = import_coreai().AIModelAsset.load(path).metadata
        return dict(metadata.creator_defined_metadata) | {"description": metadata.model_description}


def compatible_with(path: Path) -> str:
    """The release of Apple's systems that an asset was written for, such as `27.0`; they are numbered alike."""
    with reading(path, "Core AI asset"):
        summary = import_coreai().AIModelAsset.load(path).summary(include_statistics=False)
        return str(summary._compatibility_version)


def with_constants(path: Path, values: dict[int, NDArray[Any]], target: Path) -> None:
    """Write an asset anew with other tensors in place of some of its constants, which keep their types.

    Args:
        path: The asset.
        values: The tensors, by the place of their constant in `Program.operations`.
        target: Where the other asset goes.
    """
    dialect = import_coreai("coreai._compiler.dialects.coreai.constant")
    loaded = Program(path)
    for place, array in values.items():
        operation = loaded.operations[place]
        kept = np.require(array.reshape(shape_of(operation.results[0])), element_type(operation.results[0]), ["C"])
        kept.flags.writeable = False
        operation.attributes["value"] = dialect.create_elements_attr(
            operation.location, operation.results[0].type, kept
        )
    loaded.program.save_asset(target, import_coreai().AIModelAsset.load(path).metadata)
